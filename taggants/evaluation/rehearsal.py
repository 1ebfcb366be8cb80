"""Detection on the owner's own victims and controls."""

from __future__ import annotations

from dataclasses import dataclass

from taggants.detection import Certificate
from taggants.evaluation.flips import measure_flips
from taggants.run import Run
from taggants.stages.evaluate import train_suspects
from taggants.stages.verify import verify
from taggants.suspects import CheckpointSuspect


@dataclass(frozen=True)
class Rehearsed:
    """One model of the owner's own evaluation. accuracy: on the test split, in [0, 1]. flips: as of `measure_flips`."""

    is_victim: bool
    accuracy: float
    certificate: Certificate
    flips: tuple[float, ...]


def rehearse(run: Run) -> dict[str, Rehearsed]:
    """Trains and tests the configured victims and controls; returns them by name, victims first."""
    rehearsal = {}
    for role, models in train_suspects(run).items():
        for trained in models:
            suspect = CheckpointSuspect(run.models.uri_of(trained.path), trained.path.partition("/")[0])
            certificate, flips = verify(run, suspect), measure_flips(run, suspect)
            rehearsal[trained.name] = Rehearsed(role == "victim", trained.accuracy, certificate, flips)
    return rehearsal
