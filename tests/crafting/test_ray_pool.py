from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import ray

from taggants.crafting.driver import DriveResult, drive
from taggants.crafting.events import Event, Failed, Finished, Lost
from taggants.crafting.inline_pool import InlinePool
from taggants.crafting.plan import Commit, Plan, RunFolder, Shard
from taggants.crafting.ray_pool import RayPool
from taggants.data.source import SampleError
from taggants.errors import InputError
from taggants.storage import Root

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors do not import the tests

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]

NUM_SHARDS = 6
PLAN = Plan("c0", "d0", "k0", "s0", tuple(Shard(index, 0, (index, index + 100), 7) for index in range(NUM_SHARDS)))


def once(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@dataclass
class ToyWorker:
    """Doubles its sample ids; on shard 2 it first does what `mishap` says."""

    run_folder: RunFolder
    marker: Path
    mishap: str = "none"

    def craft(self, shard: Shard, attempt: int) -> Commit:
        if shard.index == 2:
            match self.mishap:
                case "exit once":
                    if once(self.marker):
                        os._exit(1)
                case "hang once":
                    if once(self.marker):
                        self.marker.with_suffix(".pid").write_text(str(os.getpid()))
                        time.sleep(600)
                case "raise once":
                    if once(self.marker):
                        raise KeyError("bad luck")
                case "no storage once":
                    if once(self.marker):
                        raise ConnectionError("S3 does not answer")
                case "raise":
                    raise ValueError("bad\nshard")
                case "exit":
                    os._exit(1)
                case "refuse":
                    raise InputError("epsilon is 9; give a number in [0, 1].")
                case "cannot decode":
                    raise SampleError("Row 7: the image cannot be decoded; replace it.")
        table = pa.table({"sample_id": [2 * sample_id for sample_id in shard.sample_ids]})
        return self.run_folder.write_attempt(PLAN.plan_hash, shard, attempt, table)


class Unknown:
    """A factory that reaches no actor."""

    def __call__(self) -> ToyWorker:
        raise AssertionError

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return importlib.import_module, ("no_such_module",)


def refuse_to_build() -> ToyWorker:
    raise InputError("the surrogate is missing; train it first.")


def fail_to_build() -> ToyWorker:
    raise OSError("no connection")


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    return RunFolder(Root(str(tmp_path / "run")))


@pytest.fixture
def make_pool(run_folder: RunFolder, tmp_path: Path) -> Iterator[Callable[..., RayPool]]:
    pools: list[RayPool] = []

    def make(mishap: str = "none", num_workers: int = 2, **options: float) -> RayPool:
        worker = functools.partial(ToyWorker, run_folder, tmp_path / "marker", mishap)
        pools.append(RayPool(worker, num_workers=num_workers, num_cpus=0.5, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


class Recorder:
    """A pool that keeps the events of another, and runs `between` before each wait."""

    def __init__(self, pool: RayPool, between: Callable[[], None] = lambda: None) -> None:
        self.num_slots, self.submit, self.close = pool.num_slots, pool.submit, pool.close
        self.events: list[Event] = []
        self._pool = pool
        self._between = between

    def wait(self, timeout_s: float) -> list[Event]:
        self._between()
        events = self._pool.wait(min(timeout_s, 0.2))
        self.events += events
        return events


def test_ray_and_inline_give_equal_bytes(
    run_folder: RunFolder, make_pool: Callable[..., RayPool], tmp_path: Path
) -> None:
    inline_folder = RunFolder(Root(str(tmp_path / "inline")))
    expected = drive(PLAN, inline_folder, InlinePool(ToyWorker(inline_folder, tmp_path / "unused")))
    assert drive(PLAN, run_folder, make_pool()) == expected == DriveResult(NUM_SHARDS, 0, NUM_SHARDS, {})
    assert run_folder.read_commits() == inline_folder.read_commits()
    paths = inline_folder.root.list()
    assert run_folder.root.list() == paths
    assert all(run_folder.root.read_bytes(path) == inline_folder.root.read_bytes(path) for path in paths)


def test_worker_that_exits_is_lost_and_its_shard_done_again(
    run_folder: RunFolder, make_pool: Callable[..., RayPool]
) -> None:
    pool = Recorder(make_pool("exit once"))
    assert drive(PLAN, run_folder, pool, max_failures=1) == DriveResult(NUM_SHARDS, 0, NUM_SHARDS, {})
    assert [event.shard_index for event in pool.events if isinstance(event, Lost)] == [2]
    assert sorted(run_folder.read_commits()) == list(range(NUM_SHARDS))


def test_worker_that_is_killed_is_lost_and_its_shard_done_again(
    run_folder: RunFolder, make_pool: Callable[..., RayPool], tmp_path: Path
) -> None:
    pid_file = tmp_path / "marker.pid"

    def kill() -> None:
        if pid_file.exists() and (pid := pid_file.read_text()):
            pid_file.unlink()
            os.kill(int(pid), signal.SIGKILL)

    pool = Recorder(make_pool("hang once"), kill)
    assert drive(PLAN, run_folder, pool, max_failures=1) == DriveResult(NUM_SHARDS, 0, NUM_SHARDS, {})
    assert [event.shard_index for event in pool.events if isinstance(event, Lost)] == [2]
    assert not pid_file.exists()
    assert run_folder.read_commits()[2].path == "attempts/00002-2.parquet"


def test_actor_that_is_dead_for_good_is_replaced(run_folder: RunFolder, make_pool: Callable[..., RayPool]) -> None:
    inner = make_pool(num_workers=1)
    killed: list[object] = []

    def kill() -> None:
        if inner._busy and not killed:
            killed.extend(task.actor for task in inner._busy.values())
            ray.kill(killed[0])  # no restart

    pool = Recorder(inner, kill)
    assert drive(PLAN, run_folder, pool) == DriveResult(NUM_SHARDS, 0, NUM_SHARDS, {})
    assert len(killed) == 1
    assert killed[0] not in inner._idle


def test_shard_that_always_exits_is_given_up_and_the_rest_done(
    run_folder: RunFolder, make_pool: Callable[..., RayPool]
) -> None:
    result = drive(PLAN, run_folder, make_pool("exit"), max_losses=2)
    assert result.num_crafted == NUM_SHARDS - 1
    assert list(result.failed) == [2]
    assert result.failed[2].startswith("lost 2 times, at last: Actor")


@pytest.mark.parametrize("mishap", ["raise once", "raise"])
def test_shard_that_raises_ends_as_it_does_inline(
    run_folder: RunFolder, make_pool: Callable[..., RayPool], tmp_path: Path, mishap: str
) -> None:
    inline_folder = RunFolder(Root(str(tmp_path / "inline")))
    expected = drive(PLAN, inline_folder, InlinePool(ToyWorker(inline_folder, tmp_path / "unused", mishap)))
    assert drive(PLAN, run_folder, make_pool(mishap)) == expected
    assert expected.failed == ({2: "failed 2 times, at last: ValueError: bad shard"} if mishap == "raise" else {})


def test_failed_event_names_the_cause(make_pool: Callable[..., RayPool]) -> None:
    pool = make_pool("raise", num_workers=1)
    pool.submit(PLAN.shards[2], 1)
    events: list[Event] = []
    while not events:
        events = pool.wait(1.0)
    assert events == [Failed(2, "ValueError: bad shard")]


def test_storage_that_a_worker_does_not_reach_is_a_loss(
    run_folder: RunFolder, make_pool: Callable[..., RayPool]
) -> None:
    pool = Recorder(make_pool("no storage once"))
    assert drive(PLAN, run_folder, pool, max_failures=1) == DriveResult(NUM_SHARDS, 0, NUM_SHARDS, {})
    losses = [event for event in pool.events if isinstance(event, Lost)]
    assert losses == [Lost(2, "ConnectionError: S3 does not answer")]


def test_input_error_of_a_worker_stops_the_run(run_folder: RunFolder, make_pool: Callable[..., RayPool]) -> None:
    with pytest.raises(InputError, match="epsilon is 9; give") as stopped:
        drive(PLAN, run_folder, make_pool("refuse"))
    assert type(stopped.value) is InputError


def test_image_that_cannot_be_decoded_stops_its_shard_alone(
    run_folder: RunFolder, make_pool: Callable[..., RayPool]
) -> None:
    result = drive(PLAN, run_folder, make_pool("cannot decode"))
    assert list(result.failed) == [2]
    assert "Row 7: the image cannot be decoded; replace it." in result.failed[2]
    assert result.num_crafted == NUM_SHARDS - 1


def test_input_error_while_the_worker_is_built_stops_the_run(run_folder: RunFolder) -> None:
    with pytest.raises(InputError, match="surrogate is missing"):
        drive(PLAN, run_folder, RayPool(refuse_to_build, num_workers=1, num_cpus=0.5))


def test_worker_that_can_never_be_built_stops_the_run(run_folder: RunFolder) -> None:
    with pytest.raises(RuntimeError, match="no worker could be built: OSError: no connection"):
        drive(PLAN, run_folder, RayPool(fail_to_build, num_workers=1, num_cpus=0.5))


def test_worker_whose_code_is_not_on_the_node_stops_the_run(run_folder: RunFolder) -> None:
    with pytest.raises(RuntimeError, match=r"no worker could be built: .*no_such_module"):
        drive(PLAN, run_folder, RayPool(Unknown(), num_workers=1, num_cpus=0.5))


def test_actors_that_find_no_room_hold_nobody_up(run_folder: RunFolder, tmp_path: Path) -> None:
    worker = functools.partial(ToyWorker, run_folder, tmp_path / "marker")
    pool = RayPool(worker, num_workers=3, num_cpus=0.6 * ray.cluster_resources()["CPU"])  # one fits
    assert drive(PLAN, run_folder, pool).num_crafted == NUM_SHARDS


def test_wait_comes_back_after_its_timeout(make_pool: Callable[..., RayPool], tmp_path: Path) -> None:
    pool = make_pool("hang once", num_workers=1)
    pool.submit(PLAN.shards[2], 1)
    while not (tmp_path / "marker.pid").exists():
        assert pool.wait(0.1) == []
    start_s = time.monotonic()
    assert pool.wait(0.3) == []
    assert 0.2 < time.monotonic() - start_s < 5.0


def test_shard_that_runs_too_long_is_stopped_and_fails(
    run_folder: RunFolder, make_pool: Callable[..., RayPool]
) -> None:
    # Far above what a shard takes: on a busy machine others, too, ran longer than three seconds.
    pool = Recorder(make_pool("hang once", num_workers=1, max_shard_seconds=10.0))
    assert drive(PLAN, run_folder, pool) == DriveResult(NUM_SHARDS, 0, NUM_SHARDS, {})
    [failed] = [event for event in pool.events if isinstance(event, Failed)]
    assert failed == Failed(2, "it ran longer than max_shard_seconds = 10")
    assert not [event for event in pool.events if isinstance(event, Lost)]
    assert run_folder.read_commits()[2].path == "attempts/00002-2.parquet"


def test_worker_that_was_stopped_is_dead(make_pool: Callable[..., RayPool], tmp_path: Path) -> None:
    pool = make_pool("hang once", num_workers=1, max_shard_seconds=3.0)
    pool.submit(PLAN.shards[2], 1)
    events: list[Event] = []
    while not events:
        events = pool.wait(10.0)
    assert [type(event) for event in events] == [Failed]
    deadline_s = time.monotonic() + 20.0
    while is_alive(int((tmp_path / "marker.pid").read_text())):
        assert time.monotonic() < deadline_s, "a stopped worker goes on"
        time.sleep(0.1)


def test_close_frees_the_actors_even_at_work(make_pool: Callable[..., RayPool], tmp_path: Path) -> None:
    pool = make_pool("hang once", num_workers=1)
    pool.submit(PLAN.shards[2], 1)
    pid_file = tmp_path / "marker.pid"
    while not (pid_file.exists() and pid_file.read_text()):
        pool.wait(0.1)
    pool.close()
    pool.close()
    assert pool.wait(0.0) == []
    deadline_s = time.monotonic() + 20.0
    while is_alive(int(pid_file.read_text())):
        assert time.monotonic() < deadline_s, "the worker outlived its pool"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_finished_comes_with_the_commit(run_folder: RunFolder, make_pool: Callable[..., RayPool]) -> None:
    pool = make_pool(num_workers=1)
    pool.submit(PLAN.shards[0], 5)
    events: list[Event] = []
    while not events:
        events = pool.wait(1.0)
    [event] = events
    assert isinstance(event, Finished)
    assert event.commit.path == "attempts/00000-5.parquet"
    assert run_folder.read_attempt(event.commit)["sample_id"].to_pylist() == [0, 200]
