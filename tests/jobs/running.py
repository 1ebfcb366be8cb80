"""Runs jobs in this process as the command line would, on a story small enough for a test."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from taggants.cli import run_job

JOBS = Path(__file__).parent.parent.parent / "jobs"

TINY = (
    "keys.num_keys=3",
    "signing.images_per_key=3",
    "surrogate.num_epochs=2",
    "crafting.num_steps=4",
    "evaluation.num_victims=0",
    "evaluation.num_controls=0",
    "evaluation.training.num_epochs=1",
    "execution.pool=inline",
)


def load_job(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"job_{name}", JOBS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def settings_in(folder: Path, *settings: str) -> list[str]:
    return [*TINY, f"output.root={folder / 'runs'}", f"keys.root={folder / 'secrets'}", *settings]


def exit_code(job: str, settings: list[str]) -> int:
    """Calls the job as `python jobs/JOB.py --set ...` does and returns its exit code."""
    module = load_job(job)
    before = sys.argv
    sys.argv = [job, *(word for setting in settings for word in ("--set", setting))]
    try:
        run_job(module.main, module.__doc__)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    raise AssertionError("run_job always exits")
