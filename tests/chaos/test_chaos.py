"""What a run survives: node, worker, driver and storage lost within one run; a storage away; two drivers at once.

CHAOS_SEEDS=10 tries ten orders of disasters instead of one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import taggants.storage.s3
from taggants.crafting.driver import drive
from taggants.crafting.events import Lost
from taggants.crafting.inline_pool import InlinePool
from taggants.crafting.plan import RunFolder
from taggants.storage import Root
from tests.chaos import driver, harness
from tests.s3_server import S3Process

SEEDS = range(int(os.environ.get("CHAOS_SEEDS", "1")))


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_run_ends_with_the_same_bytes_after_every_disaster(seed: int) -> None:
    lost = check_outcome(harness.run_harness("toy", seed))
    assert lost["worker"] == 1  # its shards take seconds, so each kill cuts one


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif("CHAOS_SEEDS" not in os.environ, reason="CHAOS_SEEDS is not set")
@pytest.mark.parametrize("seed", SEEDS)
def test_export_of_the_digits_is_the_same_after_every_disaster(seed: int) -> None:
    check_outcome(harness.run_harness("digits", seed))


def check_outcome(outcome: dict[str, Any]) -> dict[str, int]:
    """Nothing but what was in flight is crafted again. Returns: the shards lost by kind of kill."""
    assert sorted(kill["kind"] for kill in outcome["kills"]) == sorted(harness.KINDS)
    assert outcome["equal_bytes"]
    assert outcome["num_unexplained"] == 0, "a shard was crafted again without need"
    lost = {kill["kind"]: kill["shards_lost"] for kill in outcome["kills"]}
    assert outcome["num_calls"] == outcome["num_shards"] + sum(lost.values())
    assert lost["storage"] == 0
    assert lost["worker"] <= 1
    assert lost["node"] <= 1
    assert lost["driver"] <= driver.NUM_WORKERS
    return lost


def test_a_call_that_no_kill_explains_is_counted() -> None:
    def call(shard: int, started_s: float, pid: int) -> harness.Call:
        return harness.Call(shard, 1, pid, 0, started_s, started_s + 2.0)

    kills = [harness.Kill("worker", 1.0), harness.Kill("driver", 11.0)]
    hits: list[Callable[[harness.Call], bool]] = [lambda call: call.pid == 7, lambda call: True]
    calls = [call(0, 0.0, 7), call(0, 4.0, 8), call(1, 0.0, 8), call(1, 5.0, 8), call(2, 10.0, 8), call(2, 12.0, 8)]
    costs, num_unexplained = harness.attribute(calls, kills, hits)
    assert costs == (harness.Kill("worker", 1.0, 1, 1.0, 3.0), harness.Kill("driver", 11.0, 1, 1.0, 1.0))
    assert num_unexplained == 1


@pytest.fixture
def own_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Process]:
    process = S3Process(tmp_path)
    try:
        process.start()
        for name, value in process.server.environment.items():
            monkeypatch.setenv(name, value)
        yield process
    finally:
        process.kill()


@pytest.mark.s3
@pytest.mark.slow
def test_every_call_waits_for_a_storage_that_is_away(own_storage: S3Process) -> None:
    calls: dict[str, Callable[[Root], object]] = {
        "read": lambda root: root.read_bytes("old"),
        "write": lambda root: root.write_bytes("written", b"2"),
        "create": lambda root: root.create_bytes("created", b"3"),
        "list": lambda root: root.list("folder"),
        "exists": lambda root: root.exists("old"),
        "copy": lambda root: root.copy("old", root, "copied"),
        "delete": lambda root: root.delete("deleted"),
    }
    roots = {name: Root(f"s3://{own_storage.server.bucket}/prefix") for name in calls}
    for path in ("old", "deleted", "folder/file"):
        roots["read"].write_bytes(path, b"1")
    for root in roots.values():
        assert root.read_bytes("old") == b"1"  # clients and connections are there
    answers: dict[str, object] = {}
    threads = [
        threading.Thread(target=lambda name=name: answers.update({name: calls[name](roots[name])})) for name in calls
    ]
    own_storage.kill()
    for thread in threads:
        thread.start()
    time.sleep(3.0)
    assert answers == {}
    own_storage.start()
    for thread in threads:
        thread.join(60.0)
    assert answers == {
        "read": b"1",
        "write": None,
        "create": True,
        "list": ["folder/file"],
        "exists": True,
        "copy": None,
        "delete": None,
    }
    assert roots["read"].list() == ["copied", "created", "folder/file", "old", "written"]


def test_storage_that_stays_away_is_a_loss_and_no_fault_of_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taggants.storage.s3, "_PATIENCE_S", 1.0)
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # nobody listens
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "hush",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    root = Root("s3://bucket/prefix")
    with pytest.raises(ConnectionError, match="does not answer") as away:
        root.list()
    assert "hush" not in repr(away.value)
    pool = InlinePool(driver.ToyWorker(RunFolder(root), tmp_path, work_s=0.0))
    pool.submit(driver.PLAN.shards[3], 1)
    [event] = pool.wait(0.0)
    assert isinstance(event, Lost)
    assert (event.shard_index, event.is_preemption) == (3, False)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_two_drivers_on_one_run_folder(storage: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    environment, uri = dict(os.environ), str(tmp_path / "run")
    if storage == "s3":
        server = request.getfixturevalue("s3_server")
        environment |= server.environment
        uri = f"s3://{server.bucket}/{tmp_path.parent.name}-{tmp_path.name}"
    command = [sys.executable, driver.__file__, "toy", str(tmp_path), uri, "inline", "0.2"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    results = [json.loads(output) for output in outputs]
    for name, value in environment.items():
        if name.startswith("AWS_"):
            request.getfixturevalue("monkeypatch").setenv(name, value)
    run_folder = RunFolder(Root(uri))
    commits = run_folder.read_commits()
    assert sorted(commits) == list(range(driver.NUM_SHARDS))
    calm = RunFolder(Root(str(tmp_path / "calm")))
    drive(driver.PLAN, calm, InlinePool(driver.ToyWorker(calm, tmp_path, work_s=0.0)))
    for index, commit in calm.read_commits().items():
        assert run_folder.read_attempt(commits[index]).equals(calm.read_attempt(commit))
    # Each shard was committed by one of them; what the other found, it tells.
    own = sum(result["num_crafted"] - result["num_overtaken"] for result in results)
    assert own == driver.NUM_SHARDS
    assert all(result["num_resumed"] + result["num_crafted"] == driver.NUM_SHARDS for result in results)
    assert sum(result["num_overtaken"] for result in results) > 0, "they did not meet"
