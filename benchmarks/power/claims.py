"""Several processes that make things under one root: each thing is made by one of them at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from taggants.reporting.progress import say
from taggants.run import Run
from taggants.stages.model_training import train_model
from taggants.storage import Root
from taggants.training.given import GivenModel
from taggants.training.job import TrainedModel, TrainingJob


@contextmanager
def claimed(root: Root, name: str, *, wait: bool = True) -> Iterator[bool]:
    """Yields whether this process alone may make `name`: True, if need be after waiting; False: another one has it, not `wait`.

    A claim is a lock on the file NAME.lock, which stays: a process that ends, killed or not, gives its claims up. Of a local root
    only; on S3 everybody may.
    """
    if root.uri.startswith("s3://"):
        yield True
        return
    path = Path(root.uri, f"{name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            say(f"power: waiting for the process that makes {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield True


def train_models(run: Run, jobs: Sequence[TrainingJob | GivenModel]) -> list[TrainedModel]:
    """Trains or finds the models, and returns them in the order of `jobs`.

    What another process trains is left to it and found, or finished should that process have ended, after all others: processes
    that want the same models share the work.
    """
    trained: dict[str, TrainedModel] = {}
    for wait in (False, True):
        for job in jobs:
            if job.folder not in trained:
                with claimed(run.models, job.folder, wait=wait) as is_mine:
                    if is_mine:
                        trained[job.folder] = train_model(run, job)
    return [trained[job.folder] for job in jobs]
