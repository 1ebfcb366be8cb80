"""Whole runs whose images carry their keys in other ways than by matching alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from taggants.config import load_config
from taggants.crafting.methods import imprint_draws
from taggants.errors import InputError
from taggants.run import Run
from tests.jobs.running import exit_code, settings_in


def run_of(settings: list[str]) -> Run:
    assert exit_code("craft", settings) == 0
    return Run(load_config(None, settings))


def trained(run: Run) -> set[str]:
    return {path.split("/")[0].rsplit("-", 1)[0] for path in run.models.list()}


def test_an_imprint_needs_no_surrogate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_in(
        tmp_path,
        "crafting.method=imprint",
        "crafting.imprint_shift=3",
        "crafting.imprint_weakest=1/2",
        "signing.selection=random",
        "keys.family=grating",
        "detection.statistic=question",
        "detection.question={num_covers: 10, amplitudes: [1/4]}",
        "evaluation.num_victims=1",
        "evaluation.num_controls=1",
    )
    assert exit_code("plan", settings) == 0
    shown = capsys.readouterr().out
    assert "crafting  imprint, 0 sample-steps on 0 surrogates\n" in shown
    assert "train surrogates" not in shown
    run = run_of(settings)
    assert trained(run) == {"reference-0", "victim-0", "control-0"}
    shown = capsys.readouterr().out
    assert "mean alignment of the signing sets" not in shown
    assert "PSNR" in shown
    assert len(run.certificates()) == 2
    assert [name.rsplit("-", 1)[0] for name in run.registration.references] == ["reference-0"]
    (shard, *_) = run.folder.read_plan().shards
    before, after = (
        source.read_images(shard.sample_ids).astype(int)
        for source in (run.sources[0], run.sources[0].at(run.root.child("signed")))
    )
    for place, image_id in enumerate(shard.sample_ids):
        strength, down, right = imprint_draws(run.keys.ids[shard.key_index], image_id, run.config.crafting.imprint)
        key = np.roll(run.keys.images[shard.key_index].astype(float), (down, right), axis=(1, 2)) - 127.5
        expected = np.clip(before[place] + 64 * strength * np.clip(key / 64, -1, 1), 0, 255)
        assert np.abs(after[place] - expected).max() <= 0.5 + 1e-4


def test_a_mixture_is_crafted_on_surrogates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_in(tmp_path, "crafting.method=mixed", "crafting.imprinted=1/3")
    assert exit_code("plan", settings) == 0
    assert "crafting  mixed, 48 sample-steps on 1 surrogate\n" in capsys.readouterr().out  # 2 of 3 images of 3 keys
    run = run_of(settings)
    assert trained(run) == {"surrogate-0"}
    assert "mean alignment of the signing sets" in capsys.readouterr().out
    # The same keys and images, all imprinted: a third of them stays as it is.
    other = run_of(settings_in(tmp_path, "crafting.method=imprint"))
    assert trained(run) == {"surrogate-0"}  # for the scores of the images
    plans = [r.folder.read_plan().shards for r in (run, other)]
    assert plans[0] == plans[1]
    ids = [i for shard in plans[0] for i in shard.sample_ids]
    images = [r.sources[0].at(r.root.child("signed")).read_images(ids) for r in (run, other)]
    is_same = (images[0] == images[1]).reshape(3, 3, -1).all(axis=2)
    assert is_same.sum(axis=1).tolist() == [1, 1, 1]


def test_an_imprint_is_not_retrained_on() -> None:
    with pytest.raises(InputError, match=r"crafting.method=imprint crafts on no surrogate, so surrogate.retrainings"):
        load_config(None, ["crafting.method=imprint", "surrogate.retrainings=1"])
    load_config(None, ["crafting.method=mixed", "surrogate.retrainings=1"])
    with pytest.raises(InputError, match="method 'stamp' does not exist; use one of matching, imprint, mixed"):
        load_config(None, ["crafting.method=stamp"])
