"""The pass over the candidates by Ray Data: windows stream through a pool of actors, each around one plain `Scorer`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from taggants.errors import InputError
from taggants.training.scoring import Candidates, Scorer, Scores, ScoringJob


class _ScoringActor:
    """One row in, one row out: sample ids and labels of a window, then sample ids and scores.

    The images are read here, so only numbers pass through the object store. Bad input is returned, not raised: it must
    reach the job as one sentence, and Ray would try it again.
    """

    def __init__(self, job: ScoringJob) -> None:
        self._job = job
        self._scorer: Scorer | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        sample_ids, labels = (np.asarray(row[name], dtype=np.int64) for name in ("sample_ids", "labels"))
        try:
            if self._scorer is None:
                self._scorer = Scorer(self._job)
            scores = self._scorer(Candidates(sample_ids, labels))
        except InputError as error:
            return {"sample_ids": [], "scores": [], "problem": str(error)}
        return {"sample_ids": sample_ids.tolist(), "scores": scores.tolist(), "problem": ""}


def score_on_ray(
    job: ScoringJob,
    windows: Sequence[Candidates],
    *,
    num_workers: int,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    num_blocks: int | None = None,
) -> Iterator[Scores]:
    """A `ScoringPass` on the connected Ray; the scores have the bits of `score_here`.

    An actor holds the surrogates and the images of one window; an actor that dies is replaced, and its windows scored
    again.

    Args:
        num_workers: the number of actors; they start as the cluster has room for them.
        num_cpus, num_gpus: that Ray reserves for each.
        num_blocks: of the windows, in Ray Data's sense; None: one each.

    Raises:
        InputError: an image or a checkpoint cannot be read.
    """
    logging.getLogger("ray.data").setLevel(logging.WARNING)  # it tells of every execution
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        rows = [{"sample_ids": w.sample_ids.tolist(), "labels": w.labels.tolist()} for w in windows]
        scored = ray.data.from_items(rows, override_num_blocks=num_blocks or len(rows)).map(
            _ScoringActor,
            fn_constructor_args=(job,),
            compute=ActorPoolStrategy(size=min(num_workers, len(rows))),
            num_cpus=num_cpus,
            num_gpus=num_gpus,
        )
        for row in scored.iter_rows():
            if row["problem"]:
                raise InputError(row["problem"])
            # Through float64 and back: every float32 survives that.
            yield np.asarray(row["sample_ids"], dtype=np.int64), np.asarray(row["scores"], dtype=np.float32)
