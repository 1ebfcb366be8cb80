"""How crafting scales and what failures cost, as tables.

    python benchmarks/scaling.py --part a               # 1 against 2 Ray actors, real crafting; about 15 minutes on 2 idle cores
    python benchmarks/scaling.py --part b               # the scheduler and driver on 1,000 simulated workers; a minute;
                                                        # with --root s3://... also commits there
    python benchmarks/scaling.py --part d --seeds 10    # the chaos harness; a minute a seed

Part a: the job itself on the embedded digits; shards per second while all actors are at work, their start and the last
shards left out, and efficiency = rate of two actors / (2 x rate of one). One torch thread each; cases are interleaved. Beside
it the same for plain processes without Ray, which craft in themselves: what the machine's two cores allow.

Part b: the real driver, scheduler and run folder; only the workers are simulated, on a clock of their own. Durations are
lognormal, and either known by the size of the shard, which the driver sorts by, or not. A death comes at a time uniform in
the attempt, and the worker is away for a while.

Part d: seconds and shards that each kind of kill cost, as `tests/chaos/harness.py` reports them.
"""

from __future__ import annotations

import argparse
import heapq
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent.parent))

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


from taggants import pipeline
from taggants.config import load_config
from taggants.crafting.driver import DriveProgress, DriveResult, drive
from taggants.crafting.events import Event, Finished, Lost, Pool
from taggants.crafting.plan import Commit, Plan, RunFolder, Shard
from taggants.run import Run
from taggants.stages.keys import register
from taggants.stages.ray_connection import ray_cluster
from taggants.storage import Root


def print_table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    print(flush=True)


# ---------------------------------------------------------------------------------------------- part b


class InMemory(RunFolder):
    """A new run folder that forgets: what is left of the driver's time is its own."""

    def __init__(self) -> None:
        super().__init__(Root(tempfile.gettempdir()))

    def register_plan(self, plan: Plan) -> None: ...

    def read_commits(self) -> dict[int, Commit]:
        return {}

    def last_attempts(self) -> dict[int, int]:
        return {}

    def commit(self, commit: Commit) -> bool:
        return True


class SimulatedPool:
    """Workers on a clock of their own: an attempt takes the seconds of its shard, unless its worker dies on the way.

    Args:
        durations_s: by shard index.
        death_rate: part of the attempts that a death ends, at a time uniform in the attempt.
        restart_s: until a worker that died works again.
    """

    def __init__(
        self, plan: Plan, durations_s: np.ndarray, *, num_workers: int, death_rate: float, restart_s: float, seed: int
    ) -> None:
        self.num_slots = num_workers
        self.now_s = 0.0
        self.busy_s = 0.0
        self.lost_s: list[float] = []
        self.num_attempts = 0
        self.restart_s = restart_s
        self._plan, self._durations_s = plan, durations_s
        self._death_rate = death_rate
        self._random = np.random.default_rng(seed)
        self._free = [0.0] * num_workers  # heap of the times from which workers are free
        self._ends: list[tuple[float, int, int, bool]] = []

    def submit(self, shard: Shard, attempt: int) -> None:
        start_s = max(self.now_s, heapq.heappop(self._free))
        seconds = float(self._durations_s[shard.index])
        dies = bool(self._random.random() < self._death_rate)
        if dies:
            seconds *= float(self._random.random())
            self.lost_s.append(seconds)
        self.busy_s += seconds
        self.num_attempts += 1
        heapq.heappush(self._ends, (start_s + seconds, shard.index, attempt, dies))
        heapq.heappush(self._free, start_s + seconds + (self.restart_s if dies else 0.0))

    def wait(self, timeout_s: float) -> list[Event]:
        self.now_s, index, attempt, dies = heapq.heappop(self._ends)
        if dies:
            return [Lost(index, "simulated")]
        commit = Commit(self._plan.plan_hash, index, f"attempts/{index:05d}-{attempt}.parquet", 1, "0" * 64, 1)
        return [Finished(index, commit)]

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Simulated:
    """One simulated run. Times but `wall_s` are on the simulated clock.

    Attributes:
        busy: part of all worker time, until the last shard, at work.
        useful: at work that was not lost.
        bound: on `useful` by any order, since no run ends before its longest shard.
        idle_tail_s: mean over workers of the time without work, restarts not counted: it lies at the end.
        lost_per_death: shards tried again, by deaths.
        lost_s: work of attempts that ended in a death.
        wall_s: of driver and scheduler, the simulation included.
    """

    busy: float
    useful: float
    bound: float
    idle_tail_s: float
    makespan_s: float
    num_deaths: int
    lost_per_death: float
    lost_s: float
    wall_s: float


def simulate(
    *, num_workers: int, num_shards: int, sigma: float, death_rate: float, sizes_known: bool, seed: int = 0
) -> Simulated:
    random = np.random.default_rng(seed)
    mean_s, per_image_s = 120.0, 2.4
    durations_s = random.lognormal(np.log(mean_s) - sigma**2 / 2, sigma, num_shards)
    sizes = np.maximum(1, durations_s / per_image_s).astype(int) if sizes_known else np.full(num_shards, 50)
    shards = tuple(Shard(i, 0, tuple(range(size)), i) for i, size in enumerate(sizes.tolist()))
    plan = Plan("c", "d", "k", "s", shards)
    pool = SimulatedPool(
        plan, durations_s, num_workers=num_workers, death_rate=death_rate, restart_s=20.0, seed=seed + 1
    )
    start_s = time.perf_counter()
    result = drive(plan, InMemory(), pool, on_progress=lambda progress: None)
    wall_s = time.perf_counter() - start_s
    assert result.num_crafted == num_shards
    assert not result.failed
    makespan_s = pool.now_s
    restarts_s = len(pool.lost_s) * pool.restart_s
    retries = pool.num_attempts - num_shards
    return Simulated(
        busy=pool.busy_s / (num_workers * makespan_s),
        useful=float(durations_s.sum()) / (num_workers * makespan_s),
        bound=min(1.0, float(durations_s.sum() / (num_workers * durations_s.max()))),
        idle_tail_s=makespan_s - (pool.busy_s + restarts_s) / num_workers,
        makespan_s=makespan_s,
        num_deaths=len(pool.lost_s),
        lost_per_death=retries / max(1, len(pool.lost_s)),
        lost_s=sum(pool.lost_s),
        wall_s=wall_s,
    )


def part_b(root: str | None) -> None:
    num_workers, num_shards = 1_000, 20_000
    rows: list[tuple[object, ...]] = []
    for sigma in (0.25, 0.5, 1.0):
        for death_rate in (0.0, 0.02):
            for sizes_known in (True, False):
                run = simulate(
                    num_workers=num_workers,
                    num_shards=num_shards,
                    sigma=sigma,
                    death_rate=death_rate,
                    sizes_known=sizes_known,
                )
                rows.append(
                    (
                        sigma,
                        f"{death_rate:.0%}",
                        "longest first" if sizes_known else "unknown",
                        f"{run.busy:.1%}",
                        f"{run.useful:.1%}",
                        f"{run.bound:.1%}",
                        f"{run.idle_tail_s:.0f}",
                        f"{run.makespan_s:.0f}",
                        run.num_deaths,
                        f"{run.lost_per_death:.2f}",
                        f"{run.wall_s * 1000 / num_shards:.2f}",
                    )
                )
    print(f"{num_workers:,} simulated workers, {num_shards:,} shards of 120 s on average, no storage\n")
    print_table(
        (
            "sigma of log duration",
            "attempts that die",
            "durations",
            "workers busy",
            "usefully",
            "at best",
            "mean idle tail, s",
            "makespan, s",
            "deaths",
            "shards lost per death",
            "driver, s per 1,000 shards",
        ),
        rows,
    )
    with tempfile.TemporaryDirectory() as folder:
        measure_commits({"local": folder, **({root: f"{root}/scaling"} if root else {})})
    measure_resume()


def measure_commits(roots: Mapping[str, str], num_commits: int = 500) -> None:
    """Prints what the run folder adds to the driver's time for each shard; roots: by what the table calls them."""
    shards = tuple(Shard(i, 0, tuple(range(50)), i) for i in range(num_commits))
    plan = Plan("c", "d", "k", "s", shards)
    rows: list[tuple[object, ...]] = []
    for where, uri in roots.items():
        run_folder = RunFolder(Root(uri))
        table = pa.table({"sample_id": [1]})
        commits = [run_folder.write_attempt(plan.plan_hash, shard, 1, table) for shard in shards]
        start_s = time.perf_counter()
        for commit in commits:
            assert run_folder.commit(commit), "the root holds the commits of an earlier measurement"
        rows.append((where, 1000 * (time.perf_counter() - start_s) / num_commits))
    print_table(("run folder", "commits, s per 1,000 shards"), rows)


def measure_resume(num_commits: int = 10_000) -> None:
    """Prints how long the driver takes to find out what is done."""
    shards = tuple(Shard(i, 0, tuple(range(50)), i) for i in range(num_commits))
    plan = Plan("c", "d", "k", "s", shards)
    with tempfile.TemporaryDirectory() as folder:
        run_folder = RunFolder(Root(folder))
        run_folder.register_plan(plan)
        for i in range(num_commits):
            commit = Commit(plan.plan_hash, i, f"attempts/{i:05d}-1.parquet", 1, "0" * 64, 1)
            path = Path(folder) / "commits" / f"{i:05d}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(commit.to_json())
            attempt = Path(folder) / commit.path
            attempt.parent.mkdir(exist_ok=True)
            attempt.write_bytes(b"x")
        start_s = time.perf_counter()
        run_folder.register_plan(plan)
        planned_s = time.perf_counter()
        assert len(run_folder.read_commits()) == num_commits
        read_s = time.perf_counter()
        assert len(run_folder.last_attempts()) == num_commits
        listed_s = time.perf_counter()
    print_table(
        ("commits found on resume", "compare the plan, s", "list and read the commits, s", "list the attempts, s"),
        [(num_commits, planned_s - start_s, read_s - planned_s, listed_s - read_s)],
    )


# ---------------------------------------------------------------------------------------------- part a

SETTINGS = (
    *("keys.num_keys=12", "signing.images_per_key=20", "surrogate.num_epochs=2", "crafting.num_steps=200"),
    *("evaluation.num_victims=0", "evaluation.num_controls=0", "crafting.num_threads=1", "execution.num_cpus=1"),
)


def finishes_of_job(folder: str, settings: tuple[str, ...]) -> list[float]:
    """Returns: when each shard of a fresh run was finished, on the clock that all processes of the machine share."""
    finishes_s: list[float] = []

    def watched(plan: Plan, run_folder: RunFolder, pool: Pool, **options: Any) -> DriveResult:
        tell = options.pop("on_progress")

        def on_progress(progress: DriveProgress) -> None:
            if isinstance(progress.latest_event, Finished):
                finishes_s.append(time.monotonic())
            tell(progress)

        return drive(plan, run_folder, pool, on_progress=on_progress, **options)

    with patch("taggants.stages.craft.drive", watched), redirect_stdout(io.StringIO()):
        own = (f"output.root={folder}/runs", f"keys.root={folder}/secrets")
        config = load_config(None, [*SETTINGS, *settings, *own])
        with ray_cluster(config):
            run = Run(config)
            run.write_config()
            register(run)
            pipeline.sign(run)
    return finishes_s


def rate_of_actors(num_workers: int) -> float:
    """Returns: shards per second from the `num_workers`-th finish to the last before which no actor idles."""
    with tempfile.TemporaryDirectory() as folder:
        finishes_s = finishes_of_job(folder, ("execution.pool=ray", f"execution.num_workers={num_workers}"))
    first, last = num_workers - 1, len(finishes_s) - num_workers
    last -= (last - first) % num_workers  # whole rounds: actors that finish together would seem slower by part of one
    return (last - first) / (finishes_s[last] - finishes_s[first])


def rate_of_processes(num_processes: int) -> float:
    """Returns: shards per second of so many jobs without Ray at once, while all of them are crafting."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            subprocess.Popen([sys.executable, __file__, "--finishes", f"{folder}/{index}"], stdout=subprocess.PIPE)
            for index in range(num_processes)
        ]
        finishes_s = [json.loads(job.communicate()[0].splitlines()[-1]) for job in jobs]
    return sum(rate_within(finishes, finishes_s) for finishes in finishes_s)


def rate_within(finishes: list[float], of_all: list[list[float]]) -> float:
    """Returns: shards per second of one job over the time in which all are crafting."""
    start, end = max(other[0] for other in of_all), min(other[-1] for other in of_all)
    inside = [finish for finish in finishes if start <= finish <= end]
    return (len(inside) - 1) / (inside[-1] - inside[0])


def part_a(repeats: int) -> None:
    measures = {"Ray actors": rate_of_actors, "plain processes": rate_of_processes}
    rates: dict[str, dict[int, list[float]]] = {name: {1: [], 2: []} for name in measures}
    load_before = os.getloadavg()[0]
    for _ in range(repeats):
        for name, measure in measures.items():
            for number in (1, 2):
                rates[name][number].append(measure(number))
    print(
        f"{os.cpu_count()} cores, load {load_before:.2f} before the first run; median of {repeats}, (lowest-highest)\n"
    )

    def shown(values: list[float]) -> str:
        return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"

    rows: list[tuple[object, ...]] = []
    for name, by_number in rates.items():
        efficiencies = [two / (2 * one) for one, two in zip(by_number[1], by_number[2], strict=True)]
        rows.append((name, shown(by_number[1]), shown(by_number[2]), shown(efficiencies)))
    print_table(("", "shards/s of 1", "of 2", "efficiency"), rows)


# ---------------------------------------------------------------------------------------------- part d


HARNESS = Path(__file__).parent.parent / "tests" / "chaos" / "harness.py"


def part_d(job: str, seeds: int) -> None:
    rows: list[tuple[object, ...]] = []
    costs: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        command = [sys.executable, str(HARNESS), "--job", job, "--seed", str(seed)]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        outcome = json.loads(printed.splitlines()[-1])
        for kill in outcome["kills"]:
            costs.setdefault(kill["kind"], []).append(kill)
        rows.append(
            (
                seed,
                ", ".join(kill["kind"] for kill in outcome["kills"]),
                f"{outcome['seconds']:.0f}",
                outcome["num_calls"] - outcome["num_shards"],
                outcome["num_unexplained"],
                "yes" if outcome["equal_bytes"] else "NO",
            )
        )
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    print_table(("seed", "kills in order", "seconds", "shards lost", "crafted again without need", "equal bytes"), rows)
    print_table(
        (
            "killed",
            "times",
            "shards lost, most",
            "mean",
            "work lost, s, mean",
            "until all at work again, s, median",
            "most",
        ),
        [
            (
                kind,
                len(kills),
                max(kill["shards_lost"] for kill in kills),
                f"{statistics.mean(kill['shards_lost'] for kill in kills):.1f}",
                f"{statistics.mean(kill['work_lost_s'] for kill in kills):.1f}",
                f"{statistics.median(kill['recovery_s'] for kill in kills):.1f}",
                f"{max(kill['recovery_s'] for kill in kills):.1f}",
            )
            for kind, kills in costs.items()
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["a", "b", "d"])
    parser.add_argument(
        "--finishes", metavar="FOLDER", help="craft there without Ray, print when each shard was finished"
    )
    parser.add_argument("--repeats", type=int, default=5, help="part a: of each case")
    parser.add_argument("--root", metavar="URI", help="part b: times commits there beside a local folder")
    parser.add_argument("--seeds", type=int, default=3, help="part d: how many orders of kills")
    parser.add_argument("--job", choices=["toy", "digits"], default="toy", help="part d: what is crafted")
    given = parser.parse_args()
    if given.finishes:
        print(json.dumps(finishes_of_job(given.finishes, ("execution.pool=inline",))))
    elif given.part == "b":
        part_b(given.root)
    elif given.part == "a":
        part_a(given.repeats)
    elif given.part == "d":
        part_d(given.job, given.seeds)
    else:
        parser.error("name a part: --part a, b or d")
