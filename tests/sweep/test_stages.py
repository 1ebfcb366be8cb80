"""One cell in this process, without Ray Tune."""

from __future__ import annotations

from pathlib import Path

import pytest

from taggants.config import load_config
from taggants.crafting.driver import DriveResult
from taggants.errors import FailedShards, InputError
from taggants.sweep import stages
from taggants.sweep.stages import Standing, Sweep, collect, register, run_cell

TINY = (
    "keys.num_keys=4",
    "signing.images_per_key=1",
    "surrogate.num_epochs=1",
    "crafting.num_steps=1",
    "evaluation.training.num_epochs=1",
    "sweep.num_victims=3",
    "sweep.num_controls=0",
)


def tiny(folder: Path, *settings: str) -> Sweep:
    roots = (f"output.root={folder / 'runs'}", f"keys.root={folder / 'secrets'}")
    return Sweep(load_config(None, [*TINY, *roots, *settings]))


def run(sweep: Sweep, reported: list[Standing]) -> None:
    register(sweep)
    [cell] = sweep.missing()
    assert run_cell(sweep, cell, reported.append) == sweep.read_cell(cell.name)
    assert sweep.missing() == []


def test_a_hopeless_cell_leaves_out_its_other_victims(tmp_path: Path) -> None:
    stopping = ("sweep.stop_hopeless=true", "sweep.stop_after=2", "sweep.stop_above=1e-9")
    reported: list[Standing] = []
    sweep = tiny(tmp_path, *stopping)  # 4 keys of 10 classes never come below 1e-4
    run(sweep, reported)
    [cell] = collect(sweep, "command").cells
    assert [standing.num_victims for standing in reported] == [1, 2]
    assert len(cell.victims) == 2
    assert cell.stopped is not None
    assert "the first 2 victims all had p > 1e-09" in cell.stopped
    assert f"{min(victim.p_value for victim in cell.victims):.2g}" in cell.stopped
    run_cell(sweep, sweep.cells[0], reported.append)  # found done: nothing is reported again
    assert len(reported) == 2

    hopeful = tiny(tmp_path, *stopping[:2], "sweep.stop_above=0.9999")
    assert hopeful.hash != sweep.hash
    run(hopeful, [])
    [all_victims] = collect(hopeful, "command").cells
    assert (len(all_victims.victims), all_victims.stopped) == (3, None)
    assert all_victims.victims[:2] == cell.victims  # trained before, with the seconds of that training


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    sweep = tiny(tmp_path)
    sweep.root.write_json(sweep.record_path("k4"), {"name": "k4"})
    assert sweep.missing() == []
    with pytest.raises(InputError, match=r"cells/k4\.json is damaged; delete it"):
        sweep.read_cell("k4")


def test_a_failed_shard_is_no_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = tiny(tmp_path)
    register(sweep)
    monkeypatch.setattr(stages, "craft", lambda *given: DriveResult(4, 0, 3, {2: "RuntimeError: out of memory"}))
    with pytest.raises(FailedShards, match="shard 2 of cell k4 failed for good: RuntimeError: out of memory"):
        run_cell(sweep, sweep.cells[0], lambda standing: None)
    assert [cell.name for cell in sweep.missing()] == ["k4"]
