"""A machine without Ray and boto3: whatever runs inline runs there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.running import JOBS, settings_in

WITHOUT_RAY = JOBS.parent / "benchmarks" / "without_ray.py"


def run_without_ray(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(WITHOUT_RAY), *words]
    environment = {"PYTHONPATH": str(JOBS.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def test_both_are_blocked(tmp_path):
    tries = "\n".join(
        f"try:\n    import {name}\nexcept ImportError as error:\n    print(error)"
        for name in ("ray", "ray.data", "boto3", "botocore.config")
    )
    (tmp_path / "program.py").write_text(tries)
    ended = run_without_ray(tmp_path, "program.py")
    assert [line.partition(" ")[2] for line in ended.stdout.splitlines()] == ["is blocked from import"] * 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_a_certificate_and_a_copy_without_ray(tmp_path):
    settings = settings_in(tmp_path, "evaluation.num_victims=1", "evaluation.num_controls=1", "crafting.num_steps=2")
    words = [word for setting in settings for word in ("--set", setting)]
    crafted = run_without_ray(tmp_path, str(JOBS / "craft.py"), *words)
    assert crafted.returncode == 0, crafted.stderr
    assert "victim-0" in crafted.stdout
    (checkpoint,) = (tmp_path / "runs" / "models").glob("victim-0-*/model.safetensors")
    for job, setting in (
        ("verify", f"verify.suspects=[{checkpoint}]"),
        ("export", f"export.destination={tmp_path / 'copy'}"),
    ):
        ended = run_without_ray(tmp_path, str(JOBS / f"{job}.py"), *words, "--set", setting)
        assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "copy" / "manifest.json").exists()
