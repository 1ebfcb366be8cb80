"""One crafting run with its run folder on S3 and four disasters, on three Ray nodes; then the same run undisturbed.

    python tests/chaos/harness.py --seed 0 [--job toy|digits]

In an order and at times drawn from the seed, a node is removed, a worker process, the driver and the storage server are
killed by SIGKILL; another node joins, driver and server start again. Prints the `Outcome` as JSON. A program of its own
because a process has one Ray.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}

from tests.s3_server import S3Process

KINDS = ("node", "worker", "driver", "storage")
CALLS_BETWEEN_KILLS = 3
TIMEOUT_S = 240.0
DRIVER = Path(__file__).parent / "driver.py"
TOY_WORK_S = 2.0
DIGITS_SETTINGS = (
    *("keys.num_keys=18", "signing.images_per_key=3", "surrogate.num_epochs=2", "crafting.num_steps=150"),
    *("evaluation.num_victims=0", "evaluation.num_controls=0"),
)


@dataclass(frozen=True)
class Call:
    """One call of a worker's `craft`. node_id: that Ray gave. ended_s: None if it was cut. Times since the epoch."""

    shard: int
    attempt: int
    pid: int
    node_id: str
    started_s: float
    ended_s: float | None


@dataclass(frozen=True)
class Kill:
    """One disaster, and what it cost.

    Attributes:
        kind: of `KINDS`.
        at_s: since the epoch.
        shards_lost: calls it cut, or whose result it kept from being committed.
        work_lost_s: seconds of work in them, summed over workers.
        recovery_s: until the last of the lost shards was at work again; for the storage, until a result was stored again.
    """

    kind: str
    at_s: float
    shards_lost: int = 0
    work_lost_s: float = 0.0
    recovery_s: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How the disturbed run ended.

    Attributes:
        seed: of the disasters.
        seconds: from the first start of the driver to its last end.
        kills: in order.
        num_shards: of the plan.
        num_calls: of `craft`.
        num_unexplained: calls that repeated another although no kill had hit that one.
        equal_bytes: whether every shard is committed with the bytes of the undisturbed run, and the exports are equal.
    """

    seed: int
    seconds: float
    kills: tuple[Kill, ...]
    num_shards: int
    num_calls: int
    num_unexplained: int
    equal_bytes: bool


class Disturbed:
    """The run, its cluster and its server while it goes on."""

    def __init__(self, job: str, seed: int, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.random = random.Random(seed)
        self.job, self.folder, self.notes = job, folder, folder / "notes"
        self.notes.mkdir()
        self.storage = S3Process(folder)
        self.storage.start()
        os.environ |= self.storage.server.environment  # before the nodes start, whose workers inherit it
        self._node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        self.cluster = Cluster(initialize_head=True, head_node_args={**self._node, "include_dashboard": False})
        self.nodes = [self.cluster.add_node(**self._node) for _ in range(2)]
        self.driver: subprocess.Popen[bytes] | None = None
        self.hits: list[Callable[[Call], bool]] = []  # by kill: whether it hit a call
        self.kills: list[Kill] = []

    def start_driver(self) -> None:
        environment = {**os.environ, "RAY_ADDRESS": self.cluster.address}
        command = driver_command(self.job, self.notes, f"s3://{self.storage.server.bucket}/runs", "ray", self.folder)
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def calls(self) -> list[Call]:
        return read_calls(self.notes)

    def running(self) -> list[Call]:
        return [call for call in self.calls() if call.ended_s is None and Path(f"/proc/{call.pid}").exists()]

    def check_driver(self) -> None:
        assert self.driver is not None
        code = self.driver.poll()
        assert code is None, f"the driver ended with {code}: {self.log()}"

    def log(self) -> str:
        return (self.folder / "driver.log").read_text()[-4000:]

    def wait_for_calls(self, count: int) -> None:
        deadline_s = time.monotonic() + TIMEOUT_S
        while len(self.calls()) < count or not self.running():
            self.check_driver()
            assert time.monotonic() < deadline_s, f"{len(self.calls())} of {count} calls: {self.log()}"
            time.sleep(0.05)
        time.sleep(self.random.uniform(0.0, 1.0))

    def kill(self, kind: str) -> None:
        at_s = time.time()
        getattr(self, f"_kill_{kind}")()
        self.kills.append(Kill(kind, at_s))
        getattr(self, f"_after_{kind}")()

    def _kill_node(self) -> None:
        node = self.nodes.pop(self.random.randrange(len(self.nodes)))
        node_id = node.node_id
        self.hits.append(lambda call: call.node_id == node_id)
        self.cluster.remove_node(node, allow_graceful=False)

    def _after_node(self) -> None:
        self.nodes.append(self.cluster.add_node(**self._node))

    def _kill_worker(self) -> None:
        while not (running := self.running()):
            time.sleep(0.02)
        pid = self.random.choice(running).pid
        self.hits.append(lambda call: call.pid == pid)
        os.kill(pid, signal.SIGKILL)

    def _after_worker(self) -> None:
        """Its actor comes back by itself."""

    def _kill_driver(self) -> None:
        assert self.driver is not None
        os.kill(self.driver.pid, signal.SIGKILL)
        self.driver.wait()
        gone_s = time.time()
        self.hits.append(lambda call: call.started_s <= gone_s)

    def _after_driver(self) -> None:
        self.start_driver()

    def _kill_storage(self) -> None:
        self.hits.append(lambda call: False)  # whoever has work in hand waits
        self.storage.kill()

    def _after_storage(self) -> None:
        time.sleep(self.random.uniform(3.0, 6.0))
        self.storage.start()

    def close(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()
        self.cluster.shutdown()
        self.storage.kill()


def driver_command(job: str, notes: Path, uri: str, pool: str, folder: Path) -> list[str]:
    rest = [str(TOY_WORK_S if pool == "ray" else 0.0)]
    if job == "digits":
        rest = [*DIGITS_SETTINGS, f"keys.root={folder / 'secrets'}"]
    return [sys.executable, str(DRIVER), job, str(notes), uri, pool, *rest]


def read_calls(notes: Path) -> list[Call]:
    """Returns: the calls noted so far, in the order of their starts."""
    calls = []
    for start in notes.glob("*.start"):
        noted = json.loads(start.read_text())
        end = start.with_suffix(".end")
        ended_s = json.loads(end.read_text())["at_s"] if end.exists() else None
        calls.append(
            Call(
                **{k: noted[k] for k in ("shard", "attempt", "pid", "node_id")},
                started_s=noted["at_s"],
                ended_s=ended_s,
            )
        )
    return sorted(calls, key=lambda call: call.started_s)


def attribute(calls: list[Call], kills: list[Kill], hits: list[Callable[[Call], bool]]) -> tuple[tuple[Kill, ...], int]:
    """Returns: the kills with their cost, and how many repeated calls none of them explains."""
    by_shard: dict[int, list[Call]] = {}
    for call in calls:
        by_shard.setdefault(call.shard, []).append(call)
    lost: list[list[tuple[Call, Call]]] = [[] for _ in kills]
    num_unexplained = 0
    for same in by_shard.values():
        for call, again in pairwise(same):
            causes = [i for i, kill in enumerate(kills) if kill.at_s <= again.started_s and hits[i](call)]
            if causes:
                lost[causes[0]].append((call, again))
            else:
                num_unexplained += 1
    costs = []
    for kill, cut in zip(kills, lost, strict=True):
        again_s = [again.started_s for _, again in cut]
        if kill.kind == "storage":
            again_s = [
                min((call.ended_s for call in calls if call.ended_s and call.ended_s > kill.at_s), default=kill.at_s)
            ]
        costs.append(
            dataclasses.replace(
                kill,
                shards_lost=len(cut),
                work_lost_s=sum(
                    max(0.0, min(call.ended_s or kill.at_s, kill.at_s) - call.started_s) for call, _ in cut
                ),
                recovery_s=max(again_s, default=kill.at_s) - kill.at_s,
            )
        )
    return tuple(costs), num_unexplained


def content(job: str, uri: str) -> tuple[dict[int, str], str]:
    """Returns: of each committed shard the SHA-256, checked against its file, and the fingerprint of the export, if any."""
    from taggants.crafting.plan import RunFolder
    from taggants.storage import Root

    root = Root(uri)
    if job == "digits":
        [plan] = [path for path in root.list() if path.endswith("/plan.json")]
        root = root.child(plan.removesuffix("/plan.json"))
    folder = RunFolder(root)
    commits = folder.read_commits()
    for commit in commits.values():
        folder.read_attempt(commit)
    sha256s = {index: commit.sha256 for index, commit in commits.items()}
    if job == "toy":
        return sha256s, ""
    from taggants.export import verify_export

    return sha256s, verify_export(root.child("signed")).fingerprint


def disturb(job: str, seed: int, folder: Path) -> Outcome:
    """Runs the job through its disasters, then undisturbed and inline, in a new folder."""
    run = Disturbed(job, seed, folder)
    try:
        start_s = time.time()
        run.start_driver()
        kinds = run.random.sample(KINDS, len(KINDS))
        for kind in kinds:
            run.wait_for_calls(len(run.calls()) + CALLS_BETWEEN_KILLS)
            run.kill(kind)
        assert run.driver is not None
        assert run.driver.wait(TIMEOUT_S) == 0, run.log()
        seconds = time.time() - start_s
        disturbed = content(job, f"s3://{run.storage.server.bucket}/runs")
        calls = run.calls()
        (folder / "calm_notes").mkdir()
        calm = str(folder / "calm")
        command = driver_command(job, folder / "calm_notes", calm, "inline", folder)
        undisturbed = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        num_shards = json.loads(undisturbed.stdout.splitlines()[-1])["num_shards"]
        kills, num_unexplained = attribute(calls, run.kills, run.hits)
        expected = content(job, calm)
        return Outcome(
            seed=seed,
            seconds=seconds,
            kills=kills,
            num_shards=num_shards,
            num_calls=len(calls),
            num_unexplained=num_unexplained,
            equal_bytes=disturbed == expected and len(expected[0]) == num_shards,
        )
    finally:
        run.close()


def run_harness(job: str, seed: int) -> dict[str, Any]:
    """Returns: the outcome as JSON, from a process of its own."""
    command = [sys.executable, str(Path(__file__)), "--job", job, "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * TIMEOUT_S)
    assert done.returncode == 0, done.stderr[-6000:]
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=["toy", "digits"], default="toy")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos") as temporary:
        print(json.dumps(dataclasses.asdict(disturb(given.job, given.seed, Path(temporary)))), flush=True)
