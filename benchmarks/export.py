"""Bytes/s and peak memory of an export, against a plain pyarrow read-and-write of the same Parquet files.

    python benchmarks/export.py --folder /tmp/export-benchmark [--mebibytes 1024] [--repeats 3] [--before CHECKOUT]

Writes files of 128 MiB of random bytes as images, with 8 taggants among them: in one file, or one in each. Every
measurement is a process of its own, and those to be compared take turns; "of pyarrow" is the median over turns of the plain
copy's seconds by the export's, and in brackets the same of CPU seconds, which neighbours on the machine disturb less. The
plain copy reads and writes a row group at a time with the codec of the files and
makes them durable (fsync), as the export does; the page cache is warm for both. "index" adds the reading and hashing of
the source, which a run has done long before. The files are deleted at the end.

With `--before`, another checkout of this project takes turns with this one, and the last columns are its seconds and CPU
seconds by ours: median and range over turns, and the least of all turns, which neighbours on the machine disturb least, by
the least. Above 1 ours is faster.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from taggants.data import open_source
from taggants.data.image_codec import encode_png
from taggants.export import export_dataset
from taggants.storage import Root

FILE_BYTES = 128 * 2**20
IMAGE_BYTES = 128 * 2**10
ROW_GROUP_ROWS = 100
NUM_TAGGANTS = 8
SHAPE = (3, 64, 64)
CASES = ("pyarrow", "export, one file", "export, all files", "index and export")


def write_source(folder: Path, num_files: int) -> None:
    image_type = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(num_files):
        images = [encode_png(rng.integers(0, 256, SHAPE, dtype=np.uint8)) for _ in range(NUM_TAGGANTS)]
        images += [rng.bytes(IMAGE_BYTES) for _ in range(FILE_BYTES // IMAGE_BYTES - NUM_TAGGANTS)]
        cells = [{"bytes": data, "path": f"{number}-{i}.png"} for i, data in enumerate(images)]
        labels = pa.array(rng.integers(0, 1000, len(cells)))
        table = pa.table({"image": pa.array(cells, image_type), "label": labels})
        pq.write_table(table, folder / f"train-{number:03d}.parquet", row_group_size=ROW_GROUP_ROWS)


def read_and_write(source: Path, destination: Path) -> None:
    destination.mkdir()
    for path in sorted(source.iterdir()):
        with pq.ParquetFile(path) as file, (destination / path.name).open("wb") as sink:
            with pq.ParquetWriter(sink, file.schema_arrow) as writer:
                for row_group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(row_group))
            os.fsync(sink.fileno())


def measure(what: str, source: Path, destination: Path) -> dict[str, float]:
    """Returns: seconds, CPU seconds, and by how many bytes the process grew at its peak."""
    dataset = open_source("parquet", Root(str(source)), "", channels=None)
    rows_per_file = dataset.num_rows // len(dataset.file_names)
    per_file = 1 if what == "export, all files" else NUM_TAGGANTS
    first_rows = [number * rows_per_file for number in range(NUM_TAGGANTS // per_file)]
    image = np.zeros(SHAPE, dtype=np.uint8)
    signed = {(row + i) % dataset.num_rows: image for row in first_rows for i in range(per_file)}
    if what.startswith("export"):
        dataset.index()
    before = peak_bytes()
    start, start_cpu = time.perf_counter(), time.process_time()
    if what == "pyarrow":
        read_and_write(source, destination)
    else:
        export_dataset(dataset, signed, Root(str(destination)))
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - start_cpu
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "growth": peak_bytes() - before}


def peak_bytes() -> int:
    """Returns: the largest resident memory so far; `getrusage` would count the parent process's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def ratio(others: list[dict[str, float]], ours: list[dict[str, float]], of: str) -> str:
    """Returns: the others' seconds by ours: median and range over turns, then the least of all turns by the least."""
    ratios = sorted(other[of] / our[of] for other, our in zip(others, ours, strict=True))
    least = min(other[of] for other in others) / min(our[of] for our in ours)
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}), {least:.2f}"


def row(size_mebibytes: float, what: str, found: list[dict[str, float]], plain: list[dict[str, float]]) -> str:
    seconds = sorted(one["seconds"] for one in found)
    median_s, cpu_s = (statistics.median(one[of] for one in found) for of in ("seconds", "cpu_seconds"))
    wall, cpu = (
        statistics.median(other[of] / one[of] for one, other in zip(found, plain, strict=True))
        for of in ("seconds", "cpu_seconds")
    )
    growth = max(one["growth"] for one in found) / 2**20
    return (
        f"{size_mebibytes:>6.0f}  {what:<20}{median_s:>11.2f}{f'{seconds[0]:.2f}-{seconds[-1]:.2f}':>14}{cpu_s:>7.1f}"
        f"{size_mebibytes / median_s:>7.0f}{f'{wall:.0%} ({cpu:.0%})':>18}{growth:>12.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--before", type=Path, help="another checkout of this project")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    source, destination = given.folder / "source", given.folder / "destination"
    if given.measure:
        print(json.dumps(measure(given.measure, source, destination)))
        return
    head = f"{'MiB':>6}  {'what':<20}{'s (median)':>11}{'min-max':>14}{'CPU s':>7}{'MiB/s':>7}"
    last = f"{'before / now, least':>24}{'CPU, least':>24}" if given.before else ""
    print(f"{head}{'of pyarrow (CPU)':>18}{'peak + MiB':>12}{last}")
    checkouts = [Path(__file__).resolve().parent.parent, *([given.before.resolve()] if given.before else [])]
    for mebibytes in (given.mebibytes, 2 * given.mebibytes):
        try:
            write_source(source, max(1, mebibytes * 2**20 // FILE_BYTES))
            size_mebibytes = sum(path.stat().st_size for path in source.iterdir()) / 2**20
            found: dict[tuple[str, int], list[dict[str, float]]] = {}
            for turn, what in itertools.product(range(given.repeats), CASES):
                # The first of two finds other caches than the second: they take turns in that as well.
                for i in range(len(checkouts))[:: (-1) ** turn]:
                    command = [sys.executable, __file__, "--folder", str(given.folder), "--measure", what]
                    environment = {**os.environ, "PYTHONPATH": str(checkouts[i])}
                    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
                    found.setdefault((what, i), []).append(json.loads(done.stdout))
                    shutil.rmtree(destination)
            for what in CASES:
                line = row(size_mebibytes, what, found[what, 0], found["pyarrow", 0])
                if given.before:
                    wall, cpu = (ratio(found[what, 1], found[what, 0], of) for of in ("seconds", "cpu_seconds"))
                    line += f"{wall:>24}{cpu:>24}"
                print(line, flush=True)
        finally:
            shutil.rmtree(given.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
