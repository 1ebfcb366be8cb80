import json

import pytest

from taggants.errors import InputError
from taggants.sweep.results import Cell, SweepResults, Trained


def trained(index: int, p_value: float) -> Trained:
    return Trained(f"victim-{index}", index, 0.9, 3, p_value, f"run/certificates/victim-{index}.json", 2.5)


def results() -> SweepResults:
    cell = Cell(
        name="7x16",
        images_per_key=7,
        num_keys=16,
        epsilon=64 / 255,
        engine="double_backward",
        surrogate="cnn",
        victim="cnn",
        recipe="simple",
        num_images=1297,
        settings=("keys.num_keys=16",),
        run="0123",
        alignment=0.6,
        psnr_db=20.5,
        ssim=0.9,
        lpips=None,
        sample_steps=16_800,
        crafting_seconds=12.0,
        victims=(trained(0, 1e-8), trained(1, 0.2)),
        controls=(trained(0, 0.7),),
    )
    return SweepResults(
        config={"seed": 0},
        command="python jobs/sweep.py",
        alphas=(1e-2, 1e-3),
        wanted_power=0.8,
        statistic="rank",
        num_classes=10,
        dataset_fingerprint="f" * 64,
        software={"torch": "2"},
        created_at="2026-01-01T00:00:00Z",
        cells=(cell,),
    )


def test_round_trip_through_text() -> None:
    found = results()
    assert SweepResults.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.cells[0].num_signed == 112
    assert found.cells[0].budget == pytest.approx(112 / 1297)


def test_other_files_are_refused() -> None:
    value = json.loads(json.dumps(results().to_json()))
    with pytest.raises(InputError, match="format must be"):
        SweepResults.from_json({**value, "format": "other"})
    with pytest.raises(InputError, match=r"cells\.0\.num_keys"):
        SweepResults.from_json({**value, "cells": [{**value["cells"][0], "num_keys": "many"}]})
