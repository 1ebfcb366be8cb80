"""An S3 server of a benchmark's own, on loopback."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path


def start_s3(stack: ExitStack) -> str | None:
    """Returns: a prefix on SeaweedFS, which runs until the stack is closed; None where it is not installed."""
    try:
        from tests.s3_server import S3Process
    except ImportError:
        return None
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    if shutil.which("weed", path=os.pathsep.join(places)) is None:
        return None
    process = S3Process(Path(stack.enter_context(tempfile.TemporaryDirectory())))
    stack.callback(process.kill)
    process.start()
    os.environ.update(process.server.environment)
    return f"s3://{process.server.bucket}/tells"
