from __future__ import annotations

from pathlib import Path

import pytest

from taggants.storage import Root
from tests.s3_server import S3Server


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    if request.param == "local":
        return Root(str(tmp_path / "root"))
    server: S3Server = request.getfixturevalue("s3_environment")
    return Root(f"s3://{server.bucket}/{tmp_path.parent.name}-{tmp_path.name}")
