"""A crafting job whose workers note each call, for `tests/chaos/harness.py`, which kills it and starts it again.

    python tests/chaos/driver.py toy FOLDER_FOR_NOTES RUN_URI POOL WORK_S
    python tests/chaos/driver.py digits FOLDER_FOR_NOTES RUN_URI POOL SETTING...

Prints the result of the drive as JSON on its last line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import pyarrow as pa
import ray

from taggants.crafting.driver import DriveResult, drive
from taggants.crafting.events import Pool
from taggants.crafting.inline_pool import InlinePool
from taggants.crafting.plan import Commit, Plan, RunFolder, Shard
from taggants.storage import Root

NUM_SHARDS, NUM_WORKERS = 18, 3
PLAN = Plan(
    "c0", "d0", "k0", "s0", tuple(Shard(index, 0, (index, index + 100), 7 + index) for index in range(NUM_SHARDS))
)


@contextmanager
def noted(folder: Path, shard: Shard, attempt: int) -> Iterator[None]:
    """Leaves `<call>.start` and, if the body comes to its end, `<call>.end`; each appears whole."""
    # Of the node by its id: a worker outlives its raylet for a moment, and may take a call as a child of process 1 then.
    node_id = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    call = {"shard": shard.index, "attempt": attempt, "pid": os.getpid(), "node_id": node_id}
    name = uuid.uuid4().hex
    for ending in ("start", "end"):
        (folder / f"{name}.tmp").write_text(json.dumps({**call, "at_s": time.time()}))
        (folder / f"{name}.tmp").rename(folder / f"{name}.{ending}")
        if ending == "start":
            yield


@dataclasses.dataclass
class ToyWorker:
    """Takes its time, and writes bytes that depend on the shard alone."""

    run_folder: RunFolder
    notes: Path
    work_s: float

    def craft(self, shard: Shard, attempt: int) -> Commit:
        with noted(self.notes, shard, attempt):
            time.sleep(self.work_s)
            pixels = [hashlib.shake_256(f"{shard.seed} {i}".encode()).digest(20_000) for i in shard.sample_ids]
            table = pa.table({"sample_id": list(shard.sample_ids), "pixels": pixels})
            return self.run_folder.write_attempt(PLAN.plan_hash, shard, attempt, table)


def toy(notes: Path, uri: str, pool_name: str, work_s: str) -> DriveResult:
    run_folder = RunFolder(Root(uri))
    make_worker = partial(ToyWorker, run_folder, notes, float(work_s))
    if pool_name == "inline":
        return drive(PLAN, run_folder, InlinePool(make_worker()))
    import ray

    from taggants.crafting.ray_pool import RayPool

    ray.init(log_to_driver=False, logging_level="ERROR")
    pool: Pool = RayPool(make_worker, num_workers=NUM_WORKERS, num_cpus=1)
    return drive(PLAN, run_folder, pool)


def digits(notes: Path, uri: str, pool_name: str, *settings: str) -> DriveResult:
    """The real job on the embedded digits, export included."""
    from taggants.config import load_config
    from taggants.stages import craft as craft_stage
    from tests.jobs.running import load_job

    plain = craft_stage.CraftingWorker

    class NotingWorker(plain):  # type: ignore[misc, valid-type]
        def craft(self, shard: Shard, attempt: int) -> Any:
            with noted(notes, shard, attempt):
                return super().craft(shard, attempt)

    craft_stage.CraftingWorker = NotingWorker  # type: ignore[misc]
    pools = [f"execution.pool={pool_name}", f"execution.num_workers={NUM_WORKERS}"]
    result: DriveResult = load_job("craft").main(load_config(None, [f"output.root={uri}", *pools, *settings])).drive
    return result


if __name__ == "__main__":
    kind, folder, uri, pool_name, *rest = sys.argv[1:]
    result = {"toy": toy, "digits": digits}[kind](Path(folder), uri, pool_name, *rest)
    print(json.dumps(dataclasses.asdict(result)), flush=True)
