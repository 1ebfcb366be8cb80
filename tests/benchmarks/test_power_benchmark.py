"""The power benchmark from a file of cells to its table, on a few digits."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from benchmarks.power import claims, measuring
from benchmarks.power.cells import Cell, narrowed, read_bench
from benchmarks.power.claims import claimed, train_models
from benchmarks.power.findability import TRAITS
from benchmarks.power.records import Record
from taggants.errors import InputError
from taggants.storage import Root
from tests.strict_html import Strict

COMMAND = Path(claims.__file__).parents[1] / "power.py"

FILE = """
preset: taggants/presets/digits.yaml
settings:
  - "keys={{num_keys: 3, family: grating}}"
  - signing.images_per_key=3
  - signing.selection=random
  - surrogate.num_epochs=1
  - crafting.num_steps=2
  - evaluation.training.num_epochs=1
  - detection.statistic=question
  - "detection.question={{num_covers: 10, amplitudes: [1/4], num_references: 1}}"
  - output.root={root}
kinds:
  cnn: [evaluation.training.model=cnn]
  wide: [evaluation.training.model=cnn_wide]
victims: {{cnn: 1}}
baseline: imprint
controls: 1
references: 1
draws: [1, 2]
cells:
  imprint: {{settings: [crafting.method=imprint]}}
  matching: {{victims: {{cnn: 1, wide: 1}}, draws: [1]}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cells.yaml"
    path.write_text(FILE.format(root=tmp_path / "runs"))
    return path


@pytest.fixture
def bench(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command in this process; returns what it prints."""

    def run(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["power.py", str(file), *words])
        runpy.run_path(str(COMMAND), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_cells_are_measured_once_and_stand_in_one_table(
    file: Path, bench: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records_of = file.parent / "runs" / "power"
    bench("--cell", "imprint", "--draw", "2")
    bench("--cell", "matching", "--kind", "cnn")
    assert len(list(records_of.glob("*.json"))) == 2
    bench()
    assert len(list(records_of.glob("*.json"))) == 4  # those measured alone count in the whole
    whole = read_bench(str(file), [])
    records = [record for cell in whole.cells for record in measuring.measure_cell(whole, cell)]
    assert [(r.cell, r.draw, r.kind) for r in records] == [
        ("imprint", 1, "cnn"),
        ("imprint", 2, "cnn"),
        ("matching", 1, "cnn"),
        ("matching", 1, "wide"),
    ]
    assert records[0].alignment is None
    assert records[2].alignment is not None
    for record in records:
        for model in (*record.victims, *record.controls):
            for p in (model.bare, model.question, model.own, model.top_5):
                assert 0 < p <= 1
        for model in (*record.victims, *record.clean):
            assert 0 < model.accuracy <= 1
            assert len(model.flips) == 3
            assert 0 <= min(model.flips) <= max(model.flips) <= 1
        assert set(record.findability) == set(TRAITS)
        assert all(0 <= auc <= 1 for found in record.findability.values() for auc in (found.signed, found.reference))
    assert {record.lpips for record in records} == {None}
    missing = replace(whole, lpips_weights="/no/such.pt")
    assert records == [record for cell in whole.cells for record in measuring.measure_cell(missing, cell)]
    file.write_text(f"{file.read_text()}lpips_weights: {_lpips_weights(file.parent / 'lpips.pt')}\n")
    weighed = read_bench(str(file), [])
    assert records == [
        r for cell in whole.cells for r in measuring.measure_cell(weighed, cell, only_done=True)
    ]  # reads alone
    with_lpips = [record for cell in weighed.cells for record in measuring.measure_cell(weighed, cell)]
    assert [replace(record, lpips=None) for record in with_lpips] == records  # nothing else is measured again
    assert all(record.lpips is not None and record.lpips > 0 for record in with_lpips)
    assert with_lpips == [record for cell in whole.cells for record in measuring.measure_cell(whole, cell)]  # kept
    # The same secret, so the same labels, whatever the draw is used for.
    assert records[0].victims != records[1].victims
    monkeypatch.setattr(measuring, "_crafted", None)  # nothing is made again
    page = file.parent / "power.html"
    shown = bench("--table", "--page", str(page))
    draws = shown[shown.index("### Every draw") :]
    assert draws.count("\n| imprint | cnn | ") == 2
    assert "\n| own references | 3 | 2 | " in shown  # two cells share a control and its keys
    compared = shown[: shown.index("### Power")]
    assert "\n| matching | cnn | 1 (1) | " in compared
    assert "\n| matching | wide" not in compared
    assert "matching | wide" in bench("--table", "--kind", "wide")
    assert len([circle for circle in Strict(page.read_text()).root.all("circle") if circle.inside("figure")]) == 3 * 4


def _lpips_weights(path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    for layer, shape in enumerate(
        ((64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3))
    ):
        weights[f"conv{layer}.weight"] = 0.05 * torch.randn(shape, generator=generator)
        weights[f"conv{layer}.bias"] = torch.zeros(shape[0])
        weights[f"lin{layer}.weight"] = torch.ones(1, shape[0], 1, 1)
    torch.save(weights, path)
    return path


@pytest.mark.slow
def test_two_calls_at_once_train_no_model_twice(file: Path) -> None:
    call = [sys.executable, str(COMMAND), str(file), "--draw", "1", "--kind", "cnn"]
    own = {
        "env": os.environ | {"OMP_NUM_THREADS": "1"},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    calls = [subprocess.Popen(call, **own) for _ in range(2)]
    said = "".join(process.communicate()[0] for process in calls)
    assert [process.returncode for process in calls] == [0, 0], said
    trained = re.findall(r"train (\S+): accuracy \S+, 1 epoch in", said)
    # A surrogate, a reference and a control for both cells, which differ in their victims alone.
    assert sorted(trained) == ["control-0", "reference-0", "surrogate-0", "victim-0", "victim-0"]


@pytest.mark.slow
def test_a_cell_that_another_process_crafts_is_left_to_the_end(
    file: Path, bench: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_bench(str(file), [])
    first = whole.cells[0]
    other = claimed(Root(str(file.parent / "runs" / "power")), whole.config(first, "cnn").hash)
    assert other.__enter__()
    order = []
    measure = measuring.measure_cell

    def watched(bench: object, cell: Cell, **how: bool) -> list[Record]:
        order.append((cell.draw, how["wait"]))
        if how["wait"]:
            other.__exit__(None, None, None)
        return measure(bench, cell, **how)

    monkeypatch.setattr(measuring, "measure_cell", watched)
    shown = bench("--cell", "imprint")
    assert order == [(1, False), (2, False), (1, True)]
    last = shown[shown.rindex("### Every draw") :]
    assert last.index("| imprint | cnn | 1 |") < last.index("| imprint | cnn | 2 |")


@dataclass(frozen=True)
class Job:
    folder: str


def test_what_another_process_trains_is_left_to_it_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Root(str(tmp_path))
    run = type("Run", (), {"models": models})
    other = claimed(models, "a-1")  # a file that is opened twice is locked twice, as by two processes
    assert other.__enter__()
    order = []

    def train(run: object, job: Job) -> str:
        order.append(job.folder)
        if len(order) == 2:
            other.__exit__(None, None, None)
        return f"trained {job.folder}"

    monkeypatch.setattr(claims, "train_model", train)
    assert train_models(run, [Job("a-1"), Job("b-2"), Job("c-3")]) == ["trained a-1", "trained b-2", "trained c-3"]
    assert order == ["b-2", "c-3", "a-1"]


@pytest.mark.slow  # imports
def test_a_killed_process_has_no_claim(tmp_path: Path) -> None:
    holding = (
        "import sys, time; from benchmarks.power.claims import claimed; from taggants.storage import Root\n"
        "with claimed(Root(sys.argv[1]), 'a'): print('held', flush=True); time.sleep(100)"
    )
    call = [sys.executable, "-c", holding, str(tmp_path)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, cwd=COMMAND.parents[1], text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with claimed(Root(str(tmp_path)), "a", wait=False) as is_mine:
            assert not is_mine
        process.kill()
    with claimed(Root(str(tmp_path)), "a", wait=False) as is_mine:
        assert is_mine


def test_a_part_of_the_bench_has_the_settings_of_the_whole(file: Path) -> None:
    whole = read_bench(str(file), [])
    part = narrowed(whole, kinds=["wide"])
    assert [(cell.name, cell.draw, dict(cell.victims)) for cell in part.cells] == [("matching", 1, {"wide": 1})]
    assert part.config(part.cells[0], "wide") == whole.config(whole.cells[2], "wide")
    assert [cell.name for cell in narrowed(whole, draws=[2]).cells] == ["imprint"]
    for words, found in (
        ({"cells": ["x"]}, "no cell 'x'; there are imprint, matching"),
        ({"kinds": ["vit"]}, "no kind 'vit'; there are cnn, wide"),
        ({"draws": [7]}, "no draw 7; there are 1, 2"),
    ):
        with pytest.raises(InputError, match=found):
            narrowed(whole, **words)


@pytest.mark.parametrize("file", sorted(COMMAND.parent.glob("power*.yaml")), ids=lambda file: file.name)
def test_every_cell_of_the_files_has_a_configuration(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(COMMAND.parents[1])
    bench = read_bench(str(file), [])
    configs = [bench.config(cell, kind) for cell in bench.cells for kind in cell.victims]
    assert len({(config.hash, config.evaluation.model_dump_json()) for config in configs}) == len(configs)


def test_unknown_names_in_a_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "cells.yaml"
    file.write_text(FILE.format(root=tmp_path).replace("wide: 1", "vit: 1"))
    with pytest.raises(InputError, match="cell 'matching' names 'vit'; it has settings, victims of cnn, wide, draws"):
        read_bench(str(file), [])
    file.write_text(FILE.format(root=tmp_path).replace("baseline: imprint", "baseline: x"))
    with pytest.raises(InputError, match=r"baseline 'x' is no cell of \S+; name one of: imprint, matching"):
        read_bench(str(file), [])


def test_a_page_in_no_folder_is_refused_before_the_work(bench: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench("--page", str(tmp_path / "no" / "page.html"))


def test_nothing_measured_is_said(bench: Callable[..., str]) -> None:
    with pytest.raises(SystemExit, match="nothing is measured of these cells and kinds yet"):
        bench("--table")
