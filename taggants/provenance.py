"""Which code a run was made with, for its records."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess


def version(name: str) -> str | None:
    """Returns the version of an installed distribution; None: it is not installed, as Ray where everything runs inline and this
    package where it runs from its source."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Returns the commit that the package's folder is at; None: it lies in no git repository, or there is no git."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=os.path.dirname(__file__)
        )
    except OSError:  # a container has the package, and often no git
        return None
    return answer.stdout.strip() or None
