"""A pool that does the work in the calling process, one shard at a time: for a laptop, for tests, for debugging."""

from __future__ import annotations

from collections import deque

from taggants.crafting.events import Event, Worker, broken_off, finished
from taggants.crafting.plan import Shard
from taggants.data.source import SampleError
from taggants.errors import InputError


class InlinePool:
    """Runs `worker.craft` inside `wait`; an InputError of the worker leaves `wait`, unless it is of one sample; others are
    events."""

    def __init__(self, worker: Worker) -> None:
        self.num_slots = 1
        self._worker = worker
        self._queue: deque[tuple[Shard, int]] = deque()

    def submit(self, shard: Shard, attempt: int) -> None:
        self._queue.append((shard, attempt))

    def wait(self, timeout_s: float) -> list[Event]:
        """Returns: the event of the oldest attempt, however long that takes; [] if there is none."""
        if not self._queue:
            return []
        shard, attempt = self._queue.popleft()
        try:
            return [finished(shard, self._worker.craft(shard, attempt))]
        except Exception as error:
            if isinstance(error, InputError) and not isinstance(error, SampleError):
                raise
            return [broken_off(shard, error)]

    def close(self) -> None:
        self._queue.clear()
