"""The wheel in an empty folder: nothing of the source tree is needed, nor Ray and boto3 for work in one process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parent.parent.parent

DEMO = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "boto3", "botocore"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
from taggants.cli.main import main

sys.exit(main())
"""
TINY = (
    "keys.demonstration=true",
    "surrogate.num_epochs=1",
    "crafting.num_steps=2",
    "evaluation.num_victims=1",
    "evaluation.num_controls=1",
    "evaluation.training.num_epochs=1",
    "execution.pool=inline",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(SOURCE / "taggants", folder / "source" / "taggants", ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(SOURCE / name, folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(folder / "source")], check=True)
    (built,) = folder.glob("taggants-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the bin folder of an environment with the wheel and the packages of this one, but not this source tree."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, str(wheel)], check=True, env=own_environment())  # else pip finds it installed already
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def answer_of(command: list[str], folder: Path) -> str:
    """Returns what a command prints in a folder, without this environment's PYTHONPATH."""
    done = subprocess.run(command, cwd=folder, env=own_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    in_wheel = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files", "taggants"], cwd=SOURCE, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("no git checkout")
    assert in_wheel == set(tracked.stdout.split())


def test_is_imported_from_its_own_place(installed: Path, tmp_path: Path) -> None:
    where = answer_of([str(installed / "python"), "-c", "import taggants; print(taggants.__file__)"], tmp_path)
    assert where.startswith(str(installed.parent))


def test_has_the_command(installed: Path, tmp_path: Path) -> None:
    assert "craft" in answer_of([str(installed / "taggants"), "--help"], tmp_path)


def test_demonstrates_without_ray_and_boto3(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "demo.py").write_text(DEMO)
    settings = [word for setting in TINY for word in ("--set", setting)]
    printed = answer_of([str(installed / "python"), "demo.py", "craft", *settings], tmp_path)
    assert "Decision" in printed
    assert (tmp_path / "runs").is_dir()
