"""The loop that brings a plan to its end: it alone commits, and it may be stopped and started again at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taggants.crafting.events import Event, Finished, GiveUp, Pool, Submit
from taggants.crafting.plan import Plan, RunFolder
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
        shards = {shard.index: shard for shard in plan.shards}
        taken = earlier.take_over(plan, run_folder, committed) if earlier is not None else {}
        num_reused, num_before = sum(taken.values()), len(committed) + len(taken)
        todo = [shard for shard in plan.shards if shard.index not in committed and shard.index not in taken]
        todo.sort(key=lambda shard: -len(shard.sample_ids))  # the longest first: none is left to the end on its own
        num_overtaken = 0
        images_crafted, images_left = 0, sum(len(shard.sample_ids) for shard in todo)
        scheduler = Scheduler(
            [shard.index for shard in todo],
            num_slots=pool.num_slots,
            max_failures=max_failures,
            max_losses=max_losses,
            last_attempts=run_folder.last_attempts(),
        )

        def report(latest_event: Event | None) -> None:
            if on_progress is not None:
                on_progress(
                    DriveProgress(
                        num_shards=len(shards),
                        num_done=num_before + scheduler.num_done,
                        running=scheduler.running,
                        given_up=tuple(sorted(scheduler.given_up)),
                        images_crafted=images_crafted,
                        images_left=images_left,
                        latest_event=latest_event,
                    )
                )

        decisions = scheduler.start()
        report(None)
        while True:
            for decision in decisions:
                if isinstance(decision, Submit):
                    pool.submit(shards[decision.shard_index], decision.attempt)
            if scheduler.is_finished:
                break
            decisions = []
            events = pool.wait(_WAIT_TIMEOUT_S)
            for event in events:
                num_images = len(shards[event.shard_index].sample_ids)
                if isinstance(event, Finished):
                    assert event.commit.plan_hash == plan.plan_hash, "a worker of another plan"
                    assert event.commit.shard_index == event.shard_index, "a commit of another shard"
                    if not run_folder.commit(event.commit):
                        num_overtaken += 1
                    elif earlier is not None:
                        earlier.publish(event.commit)
                    images_crafted += num_images
                    images_left -= num_images
                answer = scheduler.handle(event)
                if any(isinstance(decision, GiveUp) for decision in answer):
                    images_left -= num_images
                decisions += answer
                report(event)
            if not events:
                report(None)
        return DriveResult(
            num_shards=len(shards),
            num_resumed=num_before - num_reused,
            num_crafted=scheduler.num_done,
            failed=scheduler.given_up,
            num_overtaken=num_overtaken,
            num_reused=num_reused,
        )
    finally:
        pool.close()
