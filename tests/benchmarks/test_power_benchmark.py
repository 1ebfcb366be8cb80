"""The power benchmark from a file of cells to its table, on a few digits, and its traits on changes that they should find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from benchmarks import power
from benchmarks.findability import Findability, findability
from taggants.errors import InputError

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
controls: 1
references: 1
draws: [1, 2]
cells:
  imprint: {{settings: [crafting.method=imprint]}}
  matching: {{victims: {{cnn: 1, wide: 1}}, draws: [1]}}
"""


@pytest.mark.slow
def test_cells_are_measured_once_and_stand_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cells.yaml"
    file.write_text(FILE.format(root=tmp_path / "runs"))
    monkeypatch.setattr("sys.argv", ["power.py", str(file), "--cell", "imprint"])
    power.main()
    assert len(list((tmp_path / "runs" / "power").glob("*.json"))) == 2
    monkeypatch.setattr("sys.argv", ["power.py", str(file)])
    power.main()
    capsys.readouterr()
    bench = power.read_bench(str(file), [])
    records = [record for cell in bench.cells for record in power.measure_cell(bench, cell)]
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
            assert len(model.flips) == 3
            assert 0 <= min(model.flips) <= max(model.flips) <= 1
    # The same secret, so the same labels, whatever the draw is used for.
    assert records[0].victims != records[1].victims
    monkeypatch.setattr(power, "_crafted", None)  # nothing is made again
    monkeypatch.setattr("sys.argv", ["power.py", str(file), "--table"])
    power.main()
    shown = capsys.readouterr().out
    assert shown.count("\n| imprint | ") == 3  # two draws, and the sum over them
    assert "\n3 p-values of controls, smaller than uniform ones" in shown  # two cells share a control and its keys


def test_a_cell_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cells.yaml"
    file.write_text(FILE.format(root=tmp_path).replace("wide: 1", "vit: 1"))
    with pytest.raises(InputError, match="cell 'matching' names 'vit'; it has settings, victims of cnn, wide, draws"):
        power.read_bench(str(file), [])


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth random images, uint8 [300, 3, 32, 32]."""
    random = np.random.default_rng(0)
    smooth = gaussian_filter(random.normal(0, 1, (300, 3, 32, 32)), (0, 0, 2, 2), mode="wrap")
    return np.clip(128 + 50 * smooth / smooth.std() + random.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


LABELS = np.tile(np.arange(3), 50)


def found(images: np.ndarray, change: np.ndarray) -> dict[str, Findability]:
    """Of the first half, changed, against the second."""
    signed = np.clip(np.rint(images[:150] + change), 0, 255).astype(np.uint8)
    return findability(images[:150], signed, images[150:], LABELS, LABELS)


def test_what_is_not_changed_is_not_found(images: np.ndarray) -> None:
    for trait in found(images, np.zeros(1)).values():
        assert trait.signed == pytest.approx(0.5, abs=0.1)
        assert trait.noise == pytest.approx(trait.signed)


def test_noise_is_found_by_its_level_a_grating_by_its_peak_and_what_is_shared_by_the_mean(images: np.ndarray) -> None:
    noisy = found(images, np.random.default_rng(1).normal(0, 8, images[:150].shape))
    assert noisy["noise level"].signed > 0.95
    assert noisy["noise level"].noise == pytest.approx(noisy["noise level"].signed, abs=0.05)
    assert abs(noisy["class mean"].signed - 0.5) < 0.15
    wave = 6 * np.sin(2 * np.pi * (5 * np.arange(32)[:, None] + 7 * np.arange(32)) / 32)
    same = found(images, wave)
    assert same["spectral peak"].signed > 0.95
    assert same["spectral peak"].noise < 0.7
    assert same["class mean"].signed > 0.9
    shifts = np.random.default_rng(2).integers(0, 32, 150)
    shifted = found(images, np.stack([np.roll(wave, shift, axis=1)[None] for shift in shifts]))
    assert shifted["spectral peak"].signed > 0.95
    assert shifted["class mean"].signed < 0.6
