"""Runs jobs in this process as the command line would, on a story small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taggants.cli import main
from taggants.cli.commands import COMMANDS

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
    "detection.statistic=rank",  # tests of the question ask for it
    "detection.question=null",
)


def load_job(name: str) -> Any:
    """Returns the module of a command, whose `main` takes a configuration."""
    return COMMANDS[name]


def settings_in(folder: Path, *settings: str) -> list[str]:
    return [*TINY, f"output.root={folder / 'runs'}", f"keys.root={folder / 'secrets'}", *settings]


def exit_code(job: str, settings: list[str]) -> int:
    """Calls the job as `python jobs/JOB.py --set ...` does and returns its exit code."""
    return main([job, *(word for setting in settings for word in ("--set", setting))])
