"""How a crafting run is doing, for people and programs elsewhere: `status.json` in the run folder.

A sample-step is one augmented view of one image at one step on one surrogate. Shards count when they finish, and nothing
in the file names a key, a label or a signed row.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from taggants.crafting.driver import DriveProgress
from taggants.crafting.events import Failed, Finished, Lost
from taggants.storage import Root

STATUS_PATH = "status.json"
WRITE_EVERY_S = 5.0
_RECENT_S = 60.0


@dataclass(frozen=True)
class Status:
    """How far a run is, how fast it goes and when it will end.

    Attributes:
        state: "running"; at the end "finished" if every shard is done, else "failed" (given up, interrupted or broken off).
        num_shards: of the plan.
        num_done: committed, before or now.
        running: indices of the shards at work.
        quarantined: indices of the shards that were given up; the job's log says why.
        num_failures: errors of shards since the start, tried again or not.
        num_losses: shards lost to dead workers since the start, preemptions not counted.
        num_preemptions: shards lost to nodes that were taken back, since the start.
        sample_steps: done since the start.
        sample_steps_per_s: since the start; None before the first shard.
        sample_steps_per_s_recent: over the last minute, or as far back as it takes to hold a finish of every slot.
        mean_alignment: of the shards finished since the start, in [-1, 1]; None if no worker told.
        eta_s: seconds to the end at the recent speed; None before the first shard.
        started_at, updated_at: ISO 8601 in UTC; with Ray actors, a job that lives writes at least every 15 seconds or so.
    """

    state: Literal["running", "finished", "failed"]
    num_shards: int
    num_done: int
    running: tuple[int, ...]
    quarantined: tuple[int, ...]
    num_failures: int
    num_losses: int
    num_preemptions: int
    sample_steps: int
    sample_steps_per_s: float | None
    sample_steps_per_s_recent: float | None
    mean_alignment: float | None
    eta_s: float | None
    started_at: str
    updated_at: str

    def to_json(self) -> dict[str, Any]:
        """Returns: the status as JSON-ready values."""
        return dataclasses.asdict(self)


class StatusTracker:
    """Makes a `Status` of each progress that the driver tells; pure but for the clock.

    Args:
        sample_steps_per_image: of the plan: steps x views x restarts x surrogates.
        clock: seconds since 1970.
    """

    def __init__(self, sample_steps_per_image: int, clock: Callable[[], float] = time.time) -> None:
        self._per_image = sample_steps_per_image
        self._clock = clock
        self._started_s = clock()
        self._num_failures = self._num_losses = self._num_preemptions = 0
        self._alignments: list[float] = []
        self._marks = deque([(self._started_s, 0)])  # (seconds, images crafted until then)

    def observe(self, progress: DriveProgress) -> Status:
        """Returns: the status now; to be called once for each progress."""
        now = self._clock()
        match progress.latest_event:
            case Finished(alignment=alignment):
                if alignment is not None:
                    self._alignments.append(alignment)
                self._marks.append((now, progress.images_crafted))
            case Lost(is_preemption=True):
                self._num_preemptions += 1
            case Lost():
                self._num_losses += 1
            case Failed():
                self._num_failures += 1
        num_slots = max(1, len(progress.running))
        while len(self._marks) > num_slots + 1 and self._marks[1][0] <= now - _RECENT_S:
            self._marks.popleft()
        since_s, images_before = self._marks[0]
        recent = _rate(progress.images_crafted - images_before, now - since_s)
        overall = _rate(progress.images_crafted, now - self._started_s)
        return Status(
            state="running",
            num_shards=progress.num_shards,
            num_done=progress.num_done,
            running=progress.running,
            quarantined=progress.given_up,
            num_failures=self._num_failures,
            num_losses=self._num_losses,
            num_preemptions=self._num_preemptions,
            sample_steps=progress.images_crafted * self._per_image,
            sample_steps_per_s=None if overall is None else overall * self._per_image,
            sample_steps_per_s_recent=None if recent is None else recent * self._per_image,
            mean_alignment=sum(self._alignments) / len(self._alignments) if self._alignments else None,
            eta_s=None if recent is None else progress.images_left / recent,
            started_at=_iso(self._started_s),
            updated_at=_iso(now),
        )

    def end(self, latest: Status) -> Status:
        """Returns: the last status of a run whose latest one is given: finished if every shard is done."""
        is_done = latest.num_done == latest.num_shards
        return dataclasses.replace(
            latest,
            state="finished" if is_done else "failed",
            running=(),
            eta_s=0.0 if is_done else None,
            updated_at=_iso(self._clock()),
        )


def _rate(amount: int, seconds: float) -> float | None:
    return amount / seconds if amount and seconds > 0 else None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


@contextmanager
def watching(
    root: Root,
    sample_steps_per_image: int,
    on_status: Callable[[Status], None] = lambda status: None,
    clock: Callable[[], float] = time.time,
) -> Iterator[Callable[[DriveProgress], None]]:
    """Yields an observer for `drive` that keeps `status.json` under `root`, and tells `on_status` each status.

    The file is written at the first call, then at most every `WRITE_EVERY_S` seconds, and when the block ends, however
    it ends.
    """
    tracker = StatusTracker(sample_steps_per_image, clock)
    latest: Status | None = None
    written_s: float | None = None

    def observe(progress: DriveProgress) -> None:
        nonlocal latest, written_s
        latest = tracker.observe(progress)
        on_status(latest)
        if written_s is None or clock() - written_s >= WRITE_EVERY_S:
            root.write_json(STATUS_PATH, latest.to_json())
            written_s = clock()

    try:
        yield observe
    finally:
        if latest is not None:
            latest = tracker.end(latest)
            on_status(latest)
            root.write_json(STATUS_PATH, latest.to_json())
