"""What is to be measured on a GPU, as one command: each part has a time limit and lines of its own in one table.

    python benchmarks/gpu.py --out results [--data carry/data]    # about 8 minutes on one H100
    python benchmarks/gpu.py --toy                                # all of it on the CPU at toy size

Parts, in this order: `tests` (pytest -m gpu), `crafting` (speed at 224 px against the peers' route and ART), `one pass` (several
keys at once), `side by side` (1, 2 and 4 shards on one device), `power` (detection of real victims on CIFAR-100), `peaks` (matrix
product and copy). A part that fails or runs out of time costs no other its figures: each writes them as it goes, and gpu.md
and gpu.json in the --out folder are written anew after every part. Ray and boto3 are neither needed nor imported.
`benchmarks/gpu_carry.py` builds the folder to take along to a machine without a registry.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PYTHON = [sys.executable, str(FOLDER / "without_ray.py")]
LIMITS = {"tests": 60, "crafting": 130, "one pass": 25, "side by side": 55, "power": 195, "peaks": 15}
"""Seconds of each part; together 8 minutes."""

Row = dict[str, Any]


class Results:
    """The lines of one part, in a file that survives the part's process."""

    def __init__(self, out: Path, part: str) -> None:
        self._path, self._part = out / "parts" / f"{part.replace(' ', '_')}.jsonl", part
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, case: str, result: str, seconds: float | None = None, **figures: Any) -> None:
        """Adds a line. figures: the numbers of `result`, for gpu.json."""
        row = {"part": self._part, "case": case, "result": result, "seconds": seconds, **figures}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{self._part}: {case}: {result}", flush=True)

    def failed(self, case: str, reason: object) -> None:
        """Adds a line that says why there is no figure."""
        kind = f"{type(reason).__name__}: " if isinstance(reason, BaseException) else ""
        self.add(case, f"FAILED {kind}{' '.join(str(reason).split())[:300]}", has_failed=True)

    def rows(self) -> list[Row]:
        if not self._path.exists():
            return []
        return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]


def run_within(command: Sequence[str], seconds: float, log: Path) -> str | None:
    """Runs a program in a process group of its own; returns what went wrong, None if nothing did."""
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"ended after its limit of {seconds:g} s"
        finally:
            stop_group(process)
    if code == 0:
        return None
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"exit code {code}: {lines[-1] if lines else 'no output'}"


def stop_group(process: subprocess.Popen[Any]) -> None:
    """Ends a process and those that it started, if any is left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


class Worker:
    """A process that answers one JSON line on its standard output for each one that it gets."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [*PYTHON, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def tell(self, **task: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Row:
        """Raises RuntimeError with the reason that the worker gave, or because it is gone."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: Row = json.loads(line) if line else {"reason": f"worker ended with {self._process.wait()}"}
        if "reason" in answer:
            raise RuntimeError(answer["reason"])
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()


def tests(results: Results, out: Path, limit: float, toy: bool) -> None:
    """Without the project's conftest and configuration, which need packages that a bare machine lacks."""
    marked = [str(path) for path in sorted(FOLDER.parent.glob("tests/**/test_*.py")) if "mark.gpu" in path.read_text()]
    options = ["-q", "-c", os.devnull, "--rootdir", str(FOLDER.parent), "--noconftest", "-p", "no:cacheprovider"]
    started, log = time.perf_counter(), out / "parts" / "tests.log"
    markers = [
        "-o",
        "markers=gpu: needs a CUDA device",
        "--import-mode=importlib",
        "--continue-on-collection-errors",
        "-m",
        "gpu",
    ]
    problem = run_within([*PYTHON, "-m", "pytest", *options, *markers, *marked], limit, log)
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    if problem is None:
        results.add("pytest -m gpu", lines[-1].strip("= "), time.perf_counter() - started)
    else:
        results.failed("pytest -m gpu", f"{problem}; {lines[-1] if lines else ''}")


def environment() -> list[str]:
    """What the figures depend on, a line each."""
    names = ("torch", "torchvision", "timm", "numpy", "pydantic", "adversarial-robustness-toolbox")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} absent")
    try:
        query = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit",
            "--format=csv,noheader",
        ]
        card = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        card = "none"
    return [
        f"Card      {card}",
        f"Machine   {os.cpu_count()} CPU cores, {platform.platform()}, Python {platform.python_version()}",
        f"Versions  {', '.join(versions)}",
        f"Command   python {' '.join(sys.argv)}",
        f"Date      {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
    ]


def report(rows: Sequence[Row], seconds: float) -> str:
    """Returns gpu.md."""
    lines = ["# GPU benchmark", "", *(f"    {line}" for line in environment()), f"    Time      {seconds:.0f} s", ""]
    lines += ["| part | case | result | s |", "| --- | --- | --- | --- |"]
    for row in rows:
        took = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
        lines.append(f"| {row['part']} | {row['case']} | {row['result'].replace('|', '/')} | {took} |")
    failed = [f"- {row['part']}, {row['case']}: {row['result']}" for row in rows if row.get("has_failed")]
    return "\n".join([*lines, "", "What failed: " + ("nothing." if not failed else ""), *failed, ""])


def run_part(part: str, out: Path, toy: bool, data: str, limit: float) -> None:
    """What the process of one part does."""
    results = Results(out, part)
    if part == "power":
        from benchmarks.gpu_power import power

        power(results, out, Path(data), toy)
        return
    from benchmarks import gpu_crafting

    measure = {"crafting": gpu_crafting.speed, "compile ahead": gpu_crafting.compile_ahead}.get(part)
    measure = measure or {"one pass": gpu_crafting.one_pass, "side by side": gpu_crafting.side_by_side}.get(part)
    (measure or gpu_crafting.peaks)(results, toy, limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", default=os.environ.get("OUT"), help="folder of the results; default $OUT, else a new one"
    )
    parser.add_argument("--data", default="carry/data", help="folder with cifar100_40.parquet; drawn images with --toy")
    parser.add_argument("--toy", action="store_true", help="on the CPU, as small as possible")
    parser.add_argument("--parts", nargs="+", default=list(LIMITS), choices=[*LIMITS, "compile ahead"])
    parser.add_argument("--within", type=float, help=argparse.SUPPRESS)  # this is the process of one part
    given = parser.parse_args()
    sys.path.insert(0, str(FOLDER.parent))
    if given.within:
        run_part(given.parts[0], Path(given.out), given.toy, given.data, given.within)
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that no part outlives this
    out = Path(given.out or tempfile.mkdtemp(prefix="gpu-"))
    (out / "parts").mkdir(parents=True, exist_ok=True)
    started, rows, kernels = time.perf_counter(), [], tempfile.mkdtemp(prefix="kernels-")
    paths = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "TORCHINDUCTOR_CACHE_DIR": kernels}
    options = ["--out", str(out), "--data", given.data, *(["--toy"] if given.toy else [])]
    ahead = None
    if "crafting" in given.parts and not given.toy:  # the tests leave most of the CPUs idle
        command = [*PYTHON, __file__, "--parts", "compile ahead", "--within", "100", *options]
        with (out / "parts" / "compile_ahead.log").open("w") as log:
            ahead = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    for part in given.parts:
        results, part_started = Results(out, part), time.perf_counter()
        limit = LIMITS.get(part, 100) * (8 if given.toy else 1)  # a CPU may be busy with other work
        if part == "tests":
            tests(results, out, limit, given.toy)
        else:
            if ahead is not None:
                stop_group(ahead)
            command = [*PYTHON, __file__, "--parts", part, "--within", str(limit), *options]
            problem = run_within(command, limit, out / "parts" / f"{part.replace(' ', '_')}.log")
            if problem is not None:
                results.failed("the part", problem)
        rows += [
            *results.rows(),
            {"part": part, "case": "whole", "result": "", "seconds": time.perf_counter() - part_started},
        ]
        text = report(rows, time.perf_counter() - started)
        (out / "gpu.md").write_text(text, encoding="utf-8")
        (out / "gpu.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(text)
    if any(row.get("has_failed") and "No module named 'art'" not in row["result"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
