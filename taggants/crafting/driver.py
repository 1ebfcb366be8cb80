"""The loop that brings a plan to its end: it alone commits, and it may be stopped and started again at any time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taggants.crafting.events import Decision, Event, Finished, GiveUp, Pool, Submit
from taggants.crafting.plan import Plan, RunFolder, Shard
from taggants.crafting.scheduler import Scheduler

if TYPE_CHECKING:
    from taggants.crafting.reuse import CraftedShards

_WAIT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class DriveProgress:
    """How far a run is.

    Attributes:
        num_shards: of the plan.
        num_done: committed, before or now.
        running: indices of the shards with the pool, sorted.
        given_up: indices of the shards that were given up, sorted.
        images_crafted: images of the shards finished since the start.
        images_left: images of the shards that are neither committed nor given up.
        latest_event: what has just happened; None at the start, and when nothing has for a while.
    """

    num_shards: int
    num_done: int
    running: tuple[int, ...]
    given_up: tuple[int, ...]
    images_crafted: int
    images_left: int
    latest_event: Event | None


@dataclass(frozen=True)
class DriveResult:
    """How a run ended.

    Attributes:
        num_shards: of the plan; the sum of `num_resumed`, `num_reused`, `num_crafted` and the number failed.
        num_resumed: found committed at the start, or committed by another driver while this one looked at earlier runs.
        num_crafted: done since.
        failed: why, by index, for each shard that was given up.
        num_overtaken: of `num_crafted`, committed already when this driver came to it: another driver is, or was, at work
            in the same run folder, and its result stands. (Or, once in a while, the storage had not answered and had
            stored the commit nevertheless.)
        num_reused: taken from earlier runs, with a copy of their bytes.
    """

    num_shards: int
    num_resumed: int
    num_crafted: int
    failed: dict[int, str]
    num_overtaken: int = 0
    num_reused: int = 0


def drive(
    plan: Plan,
    run_folder: RunFolder,
    pool: Pool,
    *,
    max_failures: int = 2,
    max_losses: int = 5,
    earlier: CraftedShards | None = None,
    on_progress: Callable[[DriveProgress], None] | None = None,
) -> DriveResult:
    """Crafts and commits all shards of the plan that have no commit yet, then closes the pool, whatever happens.

    Args:
        plan: what is to do; registered in the run folder.
        run_folder: where commits are read and written.
        pool: what does the work.
        max_failures: see `Scheduler`.
        max_losses: see `Scheduler`.
        earlier: what earlier runs have crafted; its shards are taken, and the new ones are made known there.
        on_progress: called at the start, after each event, and every few seconds without one.

    Returns: what was done; the caller decides what a failed shard means.

    Raises:
        InputError: the run folder holds another plan or a commit that cannot be trusted, or a worker refused its input.
    """
    try:
        run_folder.register_plan(plan)
        committed = run_folder.read_commits()
        taken = earlier.take_over(plan, run_folder, committed) if earlier is not None else {}
        num_reused, num_before = sum(taken.values()), len(committed) + len(taken)
        todo = [shard for shard in plan.shards if shard.index not in committed and shard.index not in taken]
        todo.sort(key=lambda shard: -len(shard.sample_ids))  # the longest first: none is left to the end on its own
        scheduler = Scheduler(
            [shard.index for shard in todo],
            num_slots=pool.num_slots,
            max_failures=max_failures,
            max_losses=max_losses,
            last_attempts=run_folder.last_attempts(),
        )
        work = _Work(plan.plan_hash, todo, run_folder, pool, scheduler, earlier)
        for latest_event in work.events():
            if on_progress is not None:
                on_progress(
                    DriveProgress(
                        num_shards=len(plan.shards),
                        num_done=num_before + scheduler.num_done,
                        running=scheduler.running,
                        given_up=tuple(sorted(scheduler.given_up)),
                        images_crafted=work.images_crafted,
                        images_left=work.images_left,
                        latest_event=latest_event,
                    )
                )
        return DriveResult(
            num_shards=len(plan.shards),
            num_resumed=num_before - num_reused,
            num_crafted=scheduler.num_done,
            failed=scheduler.given_up,
            num_overtaken=work.num_overtaken,
            num_reused=num_reused,
        )
    finally:
        pool.close()


class _Work:
    """The shards that are left: what the scheduler decides of them, and what comes of it.

    num_overtaken: as in `DriveResult`. images_crafted, images_left: as in `DriveProgress`.
    """

    def __init__(
        self,
        plan_hash: str,
        todo: Sequence[Shard],
        run_folder: RunFolder,
        pool: Pool,
        scheduler: Scheduler,
        earlier: CraftedShards | None,
    ) -> None:
        self._plan_hash = plan_hash
        self._shards = {shard.index: shard for shard in todo}
        self._run_folder, self._pool, self._scheduler, self._earlier = run_folder, pool, scheduler, earlier
        self.num_overtaken = self.images_crafted = 0
        self.images_left = sum(len(shard.sample_ids) for shard in todo)

    def events(self) -> Iterator[Event | None]:
        """Does the work; yields None at the start and when nothing has happened for a while, and each event once it counts."""
        decisions = self._scheduler.start()
        yield None
        while True:
            for decision in decisions:
                if isinstance(decision, Submit):
                    self._pool.submit(self._shards[decision.shard_index], decision.attempt)
            if self._scheduler.is_finished:
                return
            decisions = []
            events = self._pool.wait(_WAIT_TIMEOUT_S)
            for event in events:
                decisions += self._handle(event)
                yield event
            if not events:
                yield None

    def _handle(self, event: Event) -> list[Decision]:
        num_images = len(self._shards[event.shard_index].sample_ids)
        if isinstance(event, Finished):
            assert event.commit.plan_hash == self._plan_hash, "a worker of another plan"
            assert event.commit.shard_index == event.shard_index, "a commit of another shard"
            if not self._run_folder.commit(event.commit):
                self.num_overtaken += 1
            elif self._earlier is not None:
                self._earlier.publish(event.commit)
            self.images_crafted += num_images
            self.images_left -= num_images
        answer = self._scheduler.handle(event)
        if any(isinstance(decision, GiveUp) for decision in answer):
            self.images_left -= num_images
        return answer
