"""A small sweep as the command line runs it: killed halfway and started again, beside an undisturbed one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from taggants.config import load_config
from taggants.errors import InputError
from taggants.keys import load_key_set
from taggants.storage import Root
from taggants.sweep.results import SweepResults
from tests.jobs.running import JOBS, exit_code, load_job
from tests.jobs.secret_search import find_secrets
from tests.sweep.test_recompute import assert_equal_numbers

SETTINGS = (
    "surrogate.num_epochs=2",
    "crafting.num_steps=4",
    "evaluation.training.num_epochs=2",
    "sweep.num_keys=[4, 8]",
    "sweep.images_per_key=[1, 2]",
    "sweep.num_victims=2",
    "sweep.num_controls=1",
)
TIMEOUT_S = 600.0


class SweepProcess:
    """jobs/sweep.py in a process group of its own, as after `setsid`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.output = folder / name
        self.log = folder / f"{name}.log"
        settings = (*SETTINGS, f"output.root={self.output}", f"keys.root={folder / 'secrets'}")
        command = [sys.executable, str(JOBS / "sweep.py"), *(w for s in settings for w in ("--set", s))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def wait(self) -> None:
        assert self.process.wait(TIMEOUT_S) == 0, self.log.read_text()[-4000:]

    def kill_at(self, pattern: str) -> None:
        """SIGKILL to the whole group, Ray included, as soon as a file of that pattern is there."""
        deadline = time.monotonic() + TIMEOUT_S
        try:
            while not list(self.output.glob(pattern)):
                assert self.process.poll() is None, self.log.read_text()[-4000:]
                assert time.monotonic() < deadline, self.log.read_text()[-4000:]
                time.sleep(0.05)
        finally:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def sweep_json(self) -> Path:
        [path] = self.output.glob("sweeps/*/sweep.json")
        return path

    def cells(self) -> list[dict[str, Any]]:
        """Of sweep.json, without how long things took."""
        cells = json.loads(self.sweep_json.read_text())["cells"]
        for cell in cells:
            del cell["crafting_seconds"]
            for model in (*cell["victims"], *cell["controls"]):
                del model["seconds"]
        return cells

    def crafted(self) -> dict[str, int]:
        """Attempts that a worker crafted, not copied, by run folder."""
        counts: dict[str, int] = {}
        for path in self.output.glob("*/attempts/*"):
            if re.fullmatch(r"\d+-\d+\.parquet", path.name):
                counts[path.parts[-3]] = counts.get(path.parts[-3], 0) + 1
        return counts


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SweepProcess:
    sweep = SweepProcess(tmp_path_factory.mktemp("sweep"), "undisturbed")
    sweep.wait()
    return sweep


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_crafts_the_most_keys_only_and_tells_what_its_certificates_tell(undisturbed: SweepProcess) -> None:
    results = SweepResults.from_json(json.loads(undisturbed.sweep_json.read_text()))
    assert [cell.name for cell in results.cells] == ["k4-m1", "k4-m2", "k8-m1", "k8-m2"]
    assert all(len(cell.victims) == 2 and len(cell.controls) == 1 for cell in results.cells)
    by_name = {cell.name: cell for cell in results.cells}
    most_keys = [by_name["k8-m1"].run, by_name["k8-m2"].run]
    assert undisturbed.crafted() == dict.fromkeys(most_keys, 8)  # and none of the 4 + 4 of the others
    assert by_name["k8-m2"].sample_steps == 8 * 2 * 4 * 2  # keys, images, steps, views
    assert all(cell.crafting_seconds > 0 for cell in results.cells)
    assert len({cell.controls[0].name for cell in results.cells}) == 1  # one control serves all
    assert len(list(undisturbed.output.glob("models/control-*"))) == 1
    assert_equal_numbers(undisturbed.sweep_json)
    log = undisturbed.log.read_text()
    for cell in results.cells:
        assert cell.name in log
    assert "Cheapest cell with power 0.8" in log


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tensorboard_gets_the_hyperparameters(undisturbed: SweepProcess) -> None:
    events = list(undisturbed.output.glob("sweeps/*/tune-0/*/events.out.tfevents.*"))
    assert len(events) == 4
    for path in events:
        content = path.read_bytes()
        assert b"cell/images_per_key" in content
        assert b"_hparams_/session_start_info" in content
        assert b"ray/tune/median_log10_p" in content


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_sweep_goes_on_to_the_same_cells(undisturbed: SweepProcess) -> None:
    folder = undisturbed.output.parent
    killed = SweepProcess(folder, "killed")
    killed.kill_at("*/commits/*.json")
    killed = SweepProcess(folder, "killed")
    killed.kill_at("sweeps/*/cells/*.json")
    assert not list(killed.output.glob("sweeps/*/sweep.json"))
    done = {path.name: path.read_bytes() for path in killed.output.glob("sweeps/*/cells/*.json")}
    assert 1 <= len(done) < 4
    again = SweepProcess(folder, "killed")
    again.wait()
    assert again.cells() == undisturbed.cells()
    assert {path.name: path.read_bytes() for path in again.output.glob("sweeps/*/cells/*.json")}.items() >= done.items()
    # What was in work when the job was killed in its crafting may have been crafted twice, by 2 workers.
    assert sum(again.crafted().values()) <= sum(undisturbed.crafted().values()) + 2
    assert set(again.crafted()) == set(undisturbed.crafted())
    assert "cannot be restored" not in again.log.read_text()
    assert [path.name for path in again.output.glob("sweeps/*/tune-*")] == ["tune-0"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_that_a_sweep_writes_holds_its_secrets(undisturbed: SweepProcess) -> None:
    root = Root(str(undisturbed.output.parent / "secrets"))
    key_set, secret = load_key_set(root, "digits.json"), bytes.fromhex(root.read_json("digits.json")["secret"])
    assert len(key_set.labels) == 8
    assert find_secrets(undisturbed.output, key_set, secret, []) == []
    assert find_secrets({"log": undisturbed.log.read_bytes()}, key_set, secret, []) == []


def test_a_sweep_without_ray_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [f"output.root={tmp_path}", f"keys.root={tmp_path}", "execution.pool=inline"]
    assert exit_code("sweep", settings) == 2
    assert "set execution.pool=ray" in capsys.readouterr().err


def test_a_logger_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from taggants.sweep import tuning

    monkeypatch.setattr(tuning.importlib.util, "find_spec", lambda name: None)
    for logger, package in (("mlflow", "mlflow"), ("wandb", "wandb"), ("tensorboard", "tensorboardX")):
        with pytest.raises(InputError, match=f"{logger} but the package {package} is not installed; pip install"):
            tuning.check_loggers(load_config(None, [f"sweep.loggers=[{logger}]"]))
    tuning.check_loggers(load_config(None, ["sweep.loggers=[]"]))


def test_keys_for_a_class_that_cannot_carry_them_are_refused_before_any_work(tmp_path: Path) -> None:
    config = load_config(
        None, [*SETTINGS, f"output.root={tmp_path / 'runs'}", f"keys.root={tmp_path}", "sweep.images_per_key=[1, 200]"]
    )
    from taggants.sweep.stages import Sweep, register

    with pytest.raises(InputError, match="a key needs 200"):
        register(Sweep(config))
    assert not list(tmp_path.glob("runs/*/plan.json"))
    assert load_job("sweep").SweepJobResult("", None, 0).exit_code == 1
