from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from taggants.crafting.driver import DriveProgress, DriveResult, drive
from taggants.crafting.events import Crafted, Event, Failed, Finished, Lost, reason_of
from taggants.crafting.inline_pool import InlinePool
from taggants.crafting.plan import Commit, Plan, RunFolder, Shard
from taggants.errors import InputError
from taggants.storage import Root

NUM_SHARDS = 5
PLAN = Plan("c0", "d0", "k0", "s0", tuple(Shard(index, 0, (index, index + 100), 7) for index in range(NUM_SHARDS)))


def table_of(shard: Shard) -> pa.Table:
    return pa.table({"sample_id": list(shard.sample_ids), "value": [shard.seed * i for i in shard.sample_ids]})


@dataclass
class ToyWorker:
    run_folder: RunFolder
    before: Callable[[Shard, int], None] = lambda shard, attempt: None

    def craft(self, shard: Shard, attempt: int) -> Commit:
        self.before(shard, attempt)
        return self.run_folder.write_attempt(PLAN.plan_hash, shard, attempt, table_of(shard))


class ScriptedPool:
    """Does the work in any number of slots, save where the script has a mishap for (shard, how often it was sent)."""

    def __init__(
        self, worker: ToyWorker, num_slots: int, script: dict[tuple[int, int], type[Failed] | type[Lost]]
    ) -> None:
        self.num_slots = num_slots
        self.submitted: list[tuple[int, int]] = []
        self.num_closed = 0
        self._worker = worker
        self._script = script
        self._open: deque[tuple[Shard, int]] = deque()

    def submit(self, shard: Shard, attempt: int) -> None:
        self.submitted.append((shard.index, attempt))
        self._open.append((shard, attempt))
        assert len(self._open) <= self.num_slots

    def wait(self, timeout_s: float) -> list[Event]:
        shard, attempt = self._open.pop()  # the newest first, so that order is nothing to rely on
        num_sent = sum(index == shard.index for index, _ in self.submitted)
        if mishap := self._script.get((shard.index, num_sent)):
            return [mishap(shard.index, "scripted")]
        return [Finished(shard.index, self._worker.craft(shard, attempt))]

    def close(self) -> None:
        self.num_closed += 1


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    return RunFolder(Root(str(tmp_path)))


def assert_whole(run_folder: RunFolder) -> None:
    commits = run_folder.read_commits()
    assert sorted(commits) == list(range(NUM_SHARDS))
    for shard in PLAN.shards:
        assert run_folder.read_attempt(commits[shard.index]).equals(table_of(shard))


def test_all_shards_are_crafted_and_committed(run_folder: RunFolder) -> None:
    assert drive(PLAN, run_folder, InlinePool(ToyWorker(run_folder))) == DriveResult(NUM_SHARDS, 0, NUM_SHARDS, {})
    assert_whole(run_folder)


def test_second_run_has_nothing_to_do(run_folder: RunFolder) -> None:
    drive(PLAN, run_folder, InlinePool(ToyWorker(run_folder)))
    files = {path: run_folder.root.sha256(path) for path in run_folder.root.list()}

    def refuse(shard: Shard, attempt: int) -> None:
        raise AssertionError("crafted again")

    result = drive(PLAN, run_folder, InlinePool(ToyWorker(run_folder, refuse)))
    assert result == DriveResult(NUM_SHARDS, NUM_SHARDS, 0, {})
    assert {path: run_folder.root.sha256(path) for path in run_folder.root.list()} == files


@pytest.mark.parametrize("stop_at", range(NUM_SHARDS))
def test_run_that_was_interrupted_goes_on_under_new_attempt_numbers(run_folder: RunFolder, stop_at: int) -> None:
    def interrupt(shard: Shard, attempt: int) -> None:
        if shard.index == stop_at:  # the attempt file is there, its commit is not
            run_folder.write_attempt(PLAN.plan_hash, shard, attempt, table_of(shard).slice(1))
            raise KeyboardInterrupt

    pool = ScriptedPool(ToyWorker(run_folder, interrupt), 1, {})
    with pytest.raises(KeyboardInterrupt):
        drive(PLAN, run_folder, pool)
    assert pool.num_closed == 1
    pool = ScriptedPool(ToyWorker(run_folder), 1, {})
    assert drive(PLAN, run_folder, pool) == DriveResult(NUM_SHARDS, stop_at, NUM_SHARDS - stop_at, {})
    assert pool.submitted[0] == (stop_at, 2)
    assert_whole(run_folder)


@pytest.mark.parametrize("num_slots", [1, 2, 4, 9])
def test_lost_and_failed_shards_are_tried_again(run_folder: RunFolder, num_slots: int) -> None:
    pool = ScriptedPool(ToyWorker(run_folder), num_slots, {(0, 1): Lost, (0, 2): Lost, (2, 1): Failed, (3, 1): Lost})
    assert drive(PLAN, run_folder, pool) == DriveResult(NUM_SHARDS, 0, NUM_SHARDS, {})
    assert len(pool.submitted) == len(set(pool.submitted)) == NUM_SHARDS + 4
    assert_whole(run_folder)


def test_shards_that_always_fail_are_named_and_the_rest_is_done(run_folder: RunFolder) -> None:
    script: dict[tuple[int, int], type[Failed] | type[Lost]] = {(1, sent): Failed for sent in range(1, 4)}
    script |= {(3, sent): Lost for sent in range(1, 3)}
    result = drive(PLAN, run_folder, ScriptedPool(ToyWorker(run_folder), 2, script), max_failures=3, max_losses=2)
    assert result == DriveResult(
        NUM_SHARDS,
        0,
        NUM_SHARDS - 2,
        {1: "failed 3 times, at last: scripted", 3: "lost 2 times, at last: scripted"},
    )
    assert sorted(run_folder.read_commits()) == [0, 2, 4]
    assert drive(PLAN, run_folder, InlinePool(ToyWorker(run_folder))).num_crafted == 2
    assert_whole(run_folder)


def test_shard_that_another_driver_committed_meanwhile_counts_as_done(run_folder: RunFolder) -> None:
    def overtake(shard: Shard, attempt: int) -> None:
        run_folder.commit(run_folder.write_attempt(PLAN.plan_hash, shard, attempt + 10, table_of(shard)))

    result = drive(PLAN, run_folder, InlinePool(ToyWorker(run_folder, overtake)))
    assert result == DriveResult(NUM_SHARDS, 0, NUM_SHARDS, {}, num_overtaken=NUM_SHARDS)
    assert {commit.path for commit in run_folder.read_commits().values()} == {
        f"attempts/{index:05d}-11.parquet" for index in range(NUM_SHARDS)
    }


def test_another_driver_that_writes_other_bytes_under_this_attempt_number(run_folder: RunFolder) -> None:
    def overtake(shard: Shard, attempt: int) -> None:
        if attempt == 1:
            run_folder.write_attempt(PLAN.plan_hash, shard, attempt, table_of(shard).slice(1))

    assert drive(PLAN, run_folder, InlinePool(ToyWorker(run_folder, overtake))).failed == {}
    assert_whole(run_folder)


def test_trouble_with_disk_network_or_storage_is_no_fault_of_the_shard(run_folder: RunFolder) -> None:
    def break_off(shard: Shard, attempt: int) -> None:
        if len(attempts) < 3:
            attempts.append(shard.index)
            raise [ConnectionError("S3 does not answer"), OSError(28, "No space left"), TimeoutError()][
                len(attempts) - 1
            ]

    attempts: list[int] = []
    pool = InlinePool(ToyWorker(run_folder, break_off))
    assert drive(PLAN, run_folder, pool, max_failures=1) == DriveResult(NUM_SHARDS, 0, NUM_SHARDS, {})
    assert attempts == [0, 0, 0]
    assert_whole(run_folder)


def test_input_error_of_a_worker_stops_the_run(run_folder: RunFolder) -> None:
    def refuse(shard: Shard, attempt: int) -> None:
        raise InputError("epsilon is 9; give a number in [0, 1].")

    with pytest.raises(InputError, match="epsilon is 9"):
        drive(PLAN, run_folder, InlinePool(ToyWorker(run_folder, refuse)))


def test_run_folder_of_another_plan_is_refused_and_the_pool_closed(run_folder: RunFolder) -> None:
    run_folder.register_plan(dataclasses.replace(PLAN, config_hash="c1"))
    pool = ScriptedPool(ToyWorker(run_folder), 1, {})
    with pytest.raises(InputError, match="plan hash"):
        drive(PLAN, run_folder, pool)
    assert (pool.num_closed, pool.submitted) == (1, [])


def test_commit_that_cannot_be_trusted_is_refused(run_folder: RunFolder) -> None:
    run_folder.root.write_bytes("commits/00000.json", b"{")
    with pytest.raises(InputError, match=r"commits/00000\.json is not a complete commit"):
        drive(PLAN, run_folder, InlinePool(ToyWorker(run_folder)))


@pytest.mark.parametrize("wrong", [{"plan_hash": "0"}, {"shard_index": 4}])
def test_worker_that_returns_another_commit_is_a_bug(run_folder: RunFolder, wrong: dict[str, int]) -> None:
    class WrongWorker(ToyWorker):
        def craft(self, shard: Shard, attempt: int) -> Commit:
            return dataclasses.replace(super().craft(shard, attempt), **wrong)  # type: ignore[arg-type]

    with pytest.raises(AssertionError, match="of another"):
        drive(PLAN, run_folder, InlinePool(WrongWorker(run_folder)))
    assert run_folder.read_commits() == {}


def test_progress_is_told_at_the_start_and_after_each_event(run_folder: RunFolder) -> None:
    run_folder.register_plan(PLAN)
    run_folder.commit(ToyWorker(run_folder).craft(PLAN.shards[0], 1))
    seen: list[DriveProgress] = []
    script: dict[tuple[int, int], type[Failed] | type[Lost]] = {(1, 1): Failed}
    drive(PLAN, run_folder, ScriptedPool(ToyWorker(run_folder), 2, script), max_failures=1, on_progress=seen.append)
    assert seen[0] == DriveProgress(
        NUM_SHARDS, num_done=1, running=(1, 2), given_up=(), images_crafted=0, images_left=8, latest_event=None
    )
    assert [type(progress.latest_event) for progress in seen[1:]].count(Finished) == NUM_SHARDS - 2
    assert seen[-1] == DriveProgress(
        NUM_SHARDS,
        num_done=NUM_SHARDS - 1,
        running=(),
        given_up=(1,),
        images_crafted=6,
        images_left=0,
        latest_event=seen[-1].latest_event,
    )
    assert (len(seen[-1].running), len(seen[-1].given_up)) == (0, 1)
    assert len(seen) == NUM_SHARDS


def test_progress_is_told_while_nothing_happens(run_folder: RunFolder) -> None:
    class SlowPool(ScriptedPool):
        num_waits = 0

        def wait(self, timeout_s: float) -> list[Event]:
            self.num_waits += 1
            return [] if self.num_waits <= 3 else super().wait(timeout_s)

    seen: list[DriveProgress] = []
    drive(PLAN, run_folder, SlowPool(ToyWorker(run_folder), 1, {}), on_progress=seen.append)
    assert [progress.latest_event for progress in seen[:4]] == [None] * 4
    assert len(seen) == 4 + NUM_SHARDS


def test_longest_shards_come_first_and_equals_keep_their_order(run_folder: RunFolder) -> None:
    lengths = [2, 5, 1, 5, 2]
    shards = tuple(Shard(index, 0, tuple(range(lengths[index])), 7) for index in range(NUM_SHARDS))
    plan = dataclasses.replace(PLAN, shards=shards)

    class Worker(ToyWorker):
        def craft(self, shard: Shard, attempt: int) -> Commit:
            return self.run_folder.write_attempt(plan.plan_hash, shard, attempt, table_of(shard))

    pool = ScriptedPool(Worker(run_folder), 1, {})
    seen: list[DriveProgress] = []
    drive(plan, run_folder, pool, on_progress=seen.append)
    assert [index for index, _ in pool.submitted] == [1, 3, 0, 4, 2]
    assert [progress.images_left for progress in seen] == [15, 10, 5, 3, 1, 0]


def test_a_run_resumes_from_one_listing_of_each_kind(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    drive(PLAN, run_folder, ScriptedPool(ToyWorker(run_folder), 2, {(1, 1): Failed}), max_failures=1)
    listed: list[str] = []
    list_files = Root.list
    monkeypatch.setattr(Root, "list", lambda root, path="": listed.append(path) or list_files(root, path))
    assert drive(PLAN, run_folder, InlinePool(ToyWorker(run_folder))).num_crafted == 1
    assert sorted(listed) == ["attempts", "commits"]


@pytest.mark.parametrize("alignment", [None, 0.75])
def test_what_a_worker_tells_of_a_shard_comes_with_its_event(run_folder: RunFolder, alignment: float | None) -> None:
    class Teller(ToyWorker):
        def craft(self, shard: Shard, attempt: int) -> Commit | Crafted:  # type: ignore[override]
            commit = super().craft(shard, attempt)
            return commit if alignment is None else Crafted(commit, alignment)

    pool = InlinePool(Teller(run_folder))
    pool.submit(PLAN.shards[0], 1)
    [event] = pool.wait(0.0)
    assert isinstance(event, Finished)
    assert (event.commit.path, event.alignment) == ("attempts/00000-1.parquet", alignment)


def test_inline_pool_keeps_the_order_and_names_the_error(run_folder: RunFolder) -> None:
    def fail(shard: Shard, attempt: int) -> None:
        if shard.index == 0:
            raise KeyError("no\n  such key")

    pool = InlinePool(ToyWorker(run_folder, fail))
    assert pool.wait(0.0) == []
    for shard in PLAN.shards[:2]:
        pool.submit(shard, 1)
    assert pool.wait(0.0) == [Failed(0, "KeyError: 'no\\n such key'")]
    assert [type(event) for event in pool.wait(0.0)] == [Finished]
    pool.submit(PLAN.shards[2], 1)
    pool.close()
    assert pool.wait(0.0) == []


def test_reason_is_one_line() -> None:
    assert reason_of(RuntimeError("CUDA\n  out of memory")) == "RuntimeError: CUDA out of memory"
