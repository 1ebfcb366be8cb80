"""The GPU benchmark at toy size, so that it runs when there is a GPU for ten minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import LIMITS, Results, run_within
from benchmarks.gpu_carry import packed, unpacked
from benchmarks.gpu_power import EPSILONS, KINDS, the_run

PROGRAM = Path(__file__).parent.parent.parent / "benchmarks" / "gpu.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_part_ends_at_toy_size_without_ray(tmp_path):
    ended = subprocess.run(
        [sys.executable, str(PROGRAM), "--toy", "--out", str(tmp_path)], capture_output=True, text=True
    )
    report = (tmp_path / "gpu.md").read_text()
    assert ended.returncode == 0, report + ended.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["part"] for row in rows if row["case"] != "whole"} == set(LIMITS)
    assert all("No module named 'art'" in row["result"] for row in rows if row.get("has_failed"))
    power = [row["case"] for row in rows if row["part"] == "power"]
    assert sum(case.startswith("victim") for case in power) == 6
    assert sum(case.startswith("control") for case in power) == 3


def test_a_part_that_hangs_or_fails_costs_no_other_its_lines(tmp_path):
    results = Results(tmp_path, "a part")
    results.add("first", "1 F/s", 0.5, rate=1.0)
    log = tmp_path / "log"
    hangs = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert run_within(hangs, 0.2, log) == "ended after its limit of 0.2 s"
    assert run_within([sys.executable, "-c", "raise SystemExit('no card')"], 60, log) == "exit code 1: no card"
    assert run_within([sys.executable, "-c", ""], 60, log) is None
    results.failed("second", ValueError("no\ncard"))
    assert [row["result"] for row in results.rows()] == ["1 F/s", "FAILED ValueError: no card"]


def test_packed_pixels_come_back():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    assert packed(pixels).dtype == np.uint8
    assert np.array_equal(unpacked(packed(pixels)), pixels)


def test_every_kind_of_victim_is_a_valid_configuration(tmp_path):
    runs = [the_run(str(tmp_path), False, epsilon, kind, "victim") for epsilon in EPSILONS for kind in KINDS]
    assert len({run.config.hash for run in runs}) == 2, "the victims of one epsilon are of one run"
    assert {run.config.evaluation.training.loader for run in runs} == {"device"}
