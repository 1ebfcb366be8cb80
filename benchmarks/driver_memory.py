"""Seconds and memory of the driver against the number of untouched rows: index, keys, signing sets, plan, export.

    python benchmarks/driver_memory.py --folder /tmp/driver-memory [--rows 20000 320000 1280000]

A synthetic dataset of `--rows` rows in Parquet files of 20,000 rows, 1,000 classes, 8 px PNGs padded to 1 KiB each; 10 keys
with 10 images each are planned and exported whatever the number of rows. Each size is a process of its own. "+ MiB" is the
peak of resident memory above the process after its imports; what grows with the rows is the index (labels and places).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from export import peak_bytes

from taggants.config import Config
from taggants.data.image_codec import encode_png
from taggants.export import export_dataset
from taggants.pipeline import make_plan, prepare_keys
from taggants.run import Run
from taggants.training.job import TrainedModel

ROWS_PER_FILE = 20_000
NUM_CLASSES = 1000
IMAGE_BYTES = 1024
NUM_KEYS = 10
IMAGES_PER_KEY = 10


def write_source(folder: Path, num_rows: int) -> None:
    rng = np.random.default_rng(0)
    image_type = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    folder.mkdir(parents=True)
    pictures = [encode_png(rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)) for _ in range(100)]
    for first in range(0, num_rows, ROWS_PER_FILE):
        rows = range(first, min(first + ROWS_PER_FILE, num_rows))
        # A reader stops at the PNG's end; the random bytes behind it keep rows different and of a likely size.
        data = [picture + rng.bytes(IMAGE_BYTES - len(picture)) for picture in (pictures[row % 100] for row in rows)]
        cells = pa.array([{"bytes": one, "path": None} for one in data], image_type)
        table = pa.table({"image": cells, "label": pa.array(np.arange(rows.start, rows.stop) % NUM_CLASSES)})
        pq.write_table(table, folder / f"train-{first // ROWS_PER_FILE:05d}.parquet", row_group_size=1000)
    shutil.copy(folder / "train-00000.parquet", folder / "test.parquet")


def measure(folder: Path) -> dict[str, dict[str, float]]:
    """Returns: by step, its seconds and by how many bytes the process had grown at its peak until then."""
    config = Config.model_validate(
        {
            "data": {"source": "parquet", "root": str(folder / "source"), "train": "train-", "test": "test.parquet"}
            | {"channels": 3, "num_classes": None},
            "keys": {"root": str(folder / "secrets"), "num_keys": NUM_KEYS, "cell_size": 1},
            "signing": {"images_per_key": IMAGES_PER_KEY, "selection": "random", "budget": None},
            "output": {"root": str(folder / "runs")},
        }
    )
    found: dict[str, dict[str, float]] = {}
    before = peak_bytes()
    start = time.perf_counter()

    def note(step: str) -> None:
        nonlocal start
        found[step] = {"seconds": time.perf_counter() - start, "growth": peak_bytes() - before}
        start = time.perf_counter()

    run = Run(config)
    assert run.index.num_rows
    note("index")
    prepare_keys(run)
    plan = make_plan(run, [TrainedModel("surrogate-0", "none", "0" * 64, 0.0, 0, 0.0)])
    note("keys and plan")
    image = np.zeros((3, 8, 8), dtype=np.uint8)
    signed = {sample_id: image for shard in plan.shards for sample_id in shard.sample_ids}
    export_dataset(run.sources[0], signed, run.root.child("signed"))
    note("export")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 320_000, 1_280_000])
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.folder)))
        return
    steps = ("index", "keys and plan", "export")
    print("| rows | " + " | ".join(f"{step}, s | + MiB" for step in steps) + " |")
    print("|---|" + "---|---|" * len(steps))
    for num_rows in given.rows:
        try:
            write_source(given.folder / "source", num_rows)
            command = [sys.executable, __file__, "--folder", str(given.folder), "--measure"]
            found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
            cells = (f"{found[step]['seconds']:.1f} | {found[step]['growth'] / 2**20:.0f}" for step in steps)
            print(f"| {num_rows:,} | " + " | ".join(cells) + " |", flush=True)
        finally:
            shutil.rmtree(given.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
