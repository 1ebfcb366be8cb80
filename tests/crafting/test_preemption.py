"""A node that is drained and taken away, on a cluster of several nodes: in a process of its own, beside `ray_local`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from taggants.crafting.plan import Commit, Plan, RunFolder, Shard
from taggants.storage import Root

PLAN = Plan("c0", "d0", "k0", "s0", tuple(Shard(index, 0, (index,), 7) for index in range(3)))


class HangingOnce:
    """Writes its shards, but hangs on shard 0 the first time."""

    def __init__(self, run_folder: RunFolder, marker: Path) -> None:
        self._run_folder = run_folder
        self._marker = marker

    def craft(self, shard: Shard, attempt: int) -> Commit:
        import pyarrow as pa

        if shard.index == 0 and not self._marker.exists():
            self._marker.touch()
            time.sleep(600)
        return self._run_folder.write_attempt(PLAN.plan_hash, shard, attempt, pa.table({"id": [shard.index]}))


def main(folder: Path) -> None:
    import dataclasses
    import functools

    import ray
    from ray.cluster_utils import Cluster

    from taggants.crafting.driver import DriveProgress, drive
    from taggants.crafting.ray_pool import RayPool

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    store = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    node = cluster.add_node(num_cpus=1, **store)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    marker = folder / "marker"
    worker = functools.partial(HangingOnce, RunFolder(Root(str(folder / "run"))), marker)
    events: list[str] = []
    taken = False

    def watch(progress: DriveProgress) -> None:
        if progress.latest_event is not None:
            fields = dataclasses.asdict(progress.latest_event)
            events.append(f"{type(progress.latest_event).__name__} {fields.get('is_preemption', '')}".strip())

    class Impatient(RayPool):
        def wait(self, timeout_s: float) -> list:
            nonlocal taken
            if marker.exists() and not taken:
                taken = True
                drain = ["drain-node", f"--address={cluster.address}", f"--node-id={node.node_id}"]
                notice = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
                words = [*drain, *notice, "--deadline-remaining-seconds=6"]
                program = "from ray.scripts.scripts import main; main()"
                subprocess.run([sys.executable, "-c", program, *words], check=True)
                cluster.add_node(num_cpus=1, **store)
                cluster.remove_node(node, allow_graceful=False)
            return super().wait(min(timeout_s, 0.5))

    pool = Impatient(worker, num_workers=1)
    result = drive(PLAN, RunFolder(Root(str(folder / "run"))), pool, max_losses=1, max_failures=1, on_progress=watch)
    (folder / "result.json").write_text(json.dumps({"crafted": result.num_crafted, "events": events}))
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_shard_of_a_preempted_node_is_done_on_another_and_spends_no_budget(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.crafting.test_preemption import *; main(Path({str(tmp_path)!r}))"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "crafted": 3,
        "events": ["Lost True", "Finished", "Finished", "Finished"],
    }
