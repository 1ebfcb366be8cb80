"""The pass over all candidates for the signing sets: which rows are scored together, who reads them, what is kept.

    output root/  scores/<identity>.parquet   sample ids and scores, for their owner alone: they tell the keys' classes

A score is a function of the dataset and the surrogates, not of who asks: in floating point an image scores a little
differently among other images, so the images scored together are those of one class within one window of rows, whichever
other classes are asked for, and whoever scores the window.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from taggants.data.source import ImageSource, read_for_models
from taggants.errors import InputError
from taggants.identity import identity
from taggants.models import model_from_checkpoint
from taggants.storage import Root, encode_table
from taggants.text import logger_of
from taggants.training.scores import gradient_norms, losses

SCORING_VERSION: Final = 1
"""Version of the algorithm, raised with every change of the code after which the same job gives other bits."""

_WINDOW_ROWS: Final = 2048  # neighbours lie in the same files; 300 MB where all are candidates of 224 px
_SAVE_EVERY_S = 60.0
_FUNCTIONS = {"gradient_norm": gradient_norms, "loss": losses}

_log = logger_of(__name__)


@dataclass(frozen=True)
class ScoringJob:
    """All that decides the score of a sample; pickles.

    surrogates: path under `models` and SHA-256 of each; a score is the mean over them.
    dataset_fingerprint: of the content of `source`.
    image_size: images are resized and centre-cropped to this side in px; None: they have the models' size.
    device: "cpu" or "cuda". num_threads: of torch; both change rounding.
    """

    models: Root
    surrogates: tuple[tuple[str, str], ...]
    source: ImageSource
    dataset_fingerprint: str
    image_size: int | None
    function: Literal["gradient_norm", "loss"]
    device: str
    num_threads: int

    @property
    def identity(self) -> str:
        """SHA-256, 64 hex digits, over all but where things lie."""
        decisive = [
            SCORING_VERSION,
            _WINDOW_ROWS,
            [sha256 for _, sha256 in self.surrogates],
            self.dataset_fingerprint,
            list(self.source.how_read),
            self.image_size,
            self.function,
            self.device,
            self.num_threads,
        ]
        return identity(decisive)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates of one window. sample_ids: int64 [n], rising. labels: int64 [n]."""

    sample_ids: NDArray[np.int64]
    labels: NDArray[np.int64]


Scores = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Sample ids and their scores, both [n]."""

ScoringPass = Callable[[ScoringJob, Sequence[Candidates]], Iterable[Scores]]
"""Scores each of the windows, in any order."""


class Scorer:
    """Scores windows one after another; the surrogates are read once. Sets the number of torch threads of the process."""

    def __init__(self, job: ScoringJob) -> None:
        self._job = job
        torch.set_num_threads(job.num_threads)
        self._models = [
            model_from_checkpoint(job.models.read_bytes(path), job.models.uri_of(path), sha256)[0].to(job.device)
            for path, sha256 in job.surrogates
        ]

    def __call__(self, candidates: Candidates) -> NDArray[np.float32]:
        """Returns: float32 [n], the scores of the candidates.

        Raises:
            InputError: an image cannot be read.
        """
        job, sample_ids = self._job, candidates.sample_ids.tolist()
        images = torch.from_numpy(read_for_models(job.source, sample_ids, job.image_size))
        function = _FUNCTIONS[job.function]
        scores = np.empty(len(sample_ids), dtype=np.float32)
        for label in np.unique(candidates.labels):
            rows = np.flatnonzero(candidates.labels == label)
            group = images[torch.from_numpy(rows)].to(job.device)
            labels = torch.full((len(rows),), int(label), device=job.device)
            scores[rows] = torch.stack([function(model, group, labels) for model in self._models]).mean(0).cpu().numpy()
        return scores


def score_here(job: ScoringJob, windows: Sequence[Candidates]) -> Iterator[Scores]:
    """A `ScoringPass` in this process, whose number of torch threads is restored at the end."""
    threads = torch.get_num_threads()
    try:
        scorer = Scorer(job)
        for window in windows:
            yield window.sample_ids, scorer(window)
    finally:
        torch.set_num_threads(threads)


def candidate_scores(
    job: ScoringJob,
    labels: NDArray[np.int64],
    classes: NDArray[np.int64],
    store: Root,
    score: ScoringPass,
    on_progress: Callable[[int], None] = lambda num_done: None,
) -> NDArray[np.float32]:
    """Returns: float32 [N], the score of each sample of the classes, 0 of all others.

    What the store holds is not scored again, so that more classes cost no more than themselves; it is written every minute
    and at the end, so that a pass that was broken off goes on.

    Args:
        labels: int64 [N], of all samples.
        classes: of the candidates, in any order; may repeat.
        on_progress: told the number of candidates scored so far, those in the store included.

    Raises:
        InputError: an image or a checkpoint cannot be read.
    """
    path = f"{job.identity}.parquet"
    scores = _read(store, path, len(labels))
    is_candidate = np.isin(labels, classes)
    windows = _unscored(scores, labels, is_candidate)
    num_done = int(is_candidate.sum()) - sum(len(window.sample_ids) for window in windows)
    on_progress(num_done)
    if windows:
        saved_s = time.monotonic()
        for sample_ids, part in score(job, windows):
            scores[sample_ids] = part
            num_done += len(sample_ids)
            on_progress(num_done)
            if time.monotonic() - saved_s >= _SAVE_EVERY_S:
                _write(store, path, scores)
                saved_s = time.monotonic()
        _write(store, path, scores)
    return np.where(is_candidate, scores, np.float32(0))


def _unscored(
    scores: NDArray[np.float32], labels: NDArray[np.int64], is_candidate: NDArray[np.bool_]
) -> list[Candidates]:
    """By window, the candidates of every class of which one has no score there: whole groups, so that they score alike."""
    windows = np.arange(len(labels)) // _WINDOW_ROWS
    groups = windows * (int(labels.max()) + 1) + labels
    rows = np.flatnonzero(is_candidate & np.isin(groups, groups[is_candidate & np.isnan(scores)]))
    parts = np.split(rows, np.flatnonzero(np.diff(windows[rows])) + 1)
    return [Candidates(part, labels[part]) for part in parts if len(part)]


def _read(store: Root, path: str, num_samples: int) -> NDArray[np.float32]:
    """float32 [N], NaN where the store has no score; all NaN without a whole file."""
    scores = np.full(num_samples, np.nan, dtype=np.float32)
    if not store.exists(path):
        return scores
    try:
        table = store.read_table(path, ["sample_id", "score"])
        sample_ids, known = (table[name].to_numpy() for name in ("sample_id", "score"))
        if _digest(sample_ids, known) != (table.schema.metadata or {}).get(b"sha256"):
            raise InputError("its scores are not those that were written")
    except (InputError, pa.ArrowException, OSError) as error:
        _log.warning("%s is damaged, so the candidates are scored again: %s", store.uri_of(path), error)
        return scores
    scores[sample_ids] = known
    return scores


def _write(store: Root, path: str, scores: NDArray[np.float32]) -> None:
    sample_ids = np.flatnonzero(~np.isnan(scores))
    known = scores[sample_ids]
    columns: dict[str, Any] = {"sample_id": sample_ids, "score": known}
    table = pa.table(columns).replace_schema_metadata({b"sha256": _digest(sample_ids, known)})
    store.write_bytes(path, encode_table(table), private=True)


def _digest(sample_ids: NDArray[np.int64], scores: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(sample_ids.tobytes() + scores.tobytes()).hexdigest().encode()
