"""Which shard is tried when, how often, and when to stop trying: events in, decisions out; no clock, no Ray, no I/O."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping

from taggants.crafting.events import Decision, Event, Failed, Finished, GiveUp, Lost, Submit


class Scheduler:
    """Hands out shards in their order, at most `num_slots` at a time.

    A lost shard comes next: it waited long enough already. A failed shard comes last, behind all that may succeed. Each
    kind of mishap has its own budget, so that a bad machine does not condemn a good shard. A preemption spends none:
    spot machines come and go all day.

    Args:
        shard_indices: what is to do, each once, in the order to do it.
        num_slots: how many shards may run at a time.
        max_failures: a shard is given up when it has failed this often.
        max_losses: a shard is given up when it was lost this often, preemptions not counted.
        last_attempts: by shard index, the highest attempt number in use; its next attempt gets the number after it.
    """

    def __init__(
        self,
        shard_indices: Iterable[int],
        *,
        num_slots: int,
        max_failures: int = 2,
        max_losses: int = 5,
        last_attempts: Mapping[int, int] | None = None,
    ) -> None:
        self._waiting = deque(shard_indices)
        assert len(set(self._waiting)) == len(self._waiting), "a shard twice"
        assert min(num_slots, max_failures, max_losses) >= 1
        self._num_slots = num_slots
        self._max_failures = max_failures
        self._max_losses = max_losses
        self._last_attempts = dict(last_attempts or {})
        self._num_failures: Counter[int] = Counter()
        self._num_losses: Counter[int] = Counter()
        self._running: set[int] = set()
        self._done: set[int] = set()
        self._given_up: dict[int, str] = {}

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> tuple[int, ...]:
        """The shards that run, sorted."""
        return tuple(sorted(self._running))

    @property
    def num_done(self) -> int:
        return len(self._done)

    @property
    def given_up(self) -> dict[int, str]:
        """The last reason by shard index."""
        return dict(self._given_up)

    @property
    def is_finished(self) -> bool:
        """Whether every shard is done or given up."""
        return not self._waiting and not self._running

    def start(self) -> list[Decision]:
        """Returns: what to submit first."""
        return self._submit()

    def handle(self, event: Event) -> list[Decision]:
        """Returns: what to do now that `event` happened.

        Raises:
            ValueError: the shard of the event is not running: unknown, or reported twice.
        """
        index = event.shard_index
        if index not in self._running:
            raise ValueError(f"shard {index} is not running, yet came {event}")
        self._running.remove(index)
        match event:
            case Finished():
                self._done.add(index)
                return self._submit()
            case Failed():
                self._num_failures[index] += 1
                if self._num_failures[index] < self._max_failures:
                    self._waiting.append(index)
                    return self._submit()
                reason = f"failed {self._num_failures[index]} times, at last: {event.reason}"
            case Lost(is_preemption=True):
                self._waiting.appendleft(index)
                return self._submit()
            case Lost():
                self._num_losses[index] += 1
                if self._num_losses[index] < self._max_losses:
                    self._waiting.appendleft(index)
                    return self._submit()
                reason = f"lost {self._num_losses[index]} times, at last: {event.reason}"
        self._given_up[index] = reason
        return [GiveUp(index, reason), *self._submit()]

    def _submit(self) -> list[Decision]:
        decisions: list[Decision] = []
        while self._waiting and len(self._running) < self._num_slots:
            index = self._waiting.popleft()
            self._running.add(index)
            self._last_attempts[index] = self._last_attempts.get(index, 0) + 1
            decisions.append(Submit(index, self._last_attempts[index]))
        return decisions
