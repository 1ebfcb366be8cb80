"""Surrogates that are trained again on the signed data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from taggants.config import load_config
from taggants.crafting import methods
from taggants.data.source import SampleError
from taggants.run import Run
from taggants.seeds import hash_seed
from taggants.stages.model_training import training_job
from tests.jobs.running import exit_code, settings_in


def run_of(settings: list[str]) -> Run:
    return Run(load_config(None, settings))


def test_each_retraining_learns_from_the_signed_data_of_the_one_before(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, "surrogate.retrainings=2")
    assert exit_code("craft", settings) == 0
    runs = [run_of([*settings, f"surrogate.retrainings={count}"]) for count in range(3)]
    plans = [run.folder.read_plan() for run in runs]
    assert [plan.shards for plan in plans] == [plans[0].shards] * 3  # the same images carry the same keys
    assert len({plan.surrogate_sha256 for plan in plans}) == 3
    manifests = [
        json.loads((tmp_path / "runs" / run.config.hash / "signed" / "manifest.json").read_text()) for run in runs
    ]
    assert len({manifest["fingerprint"] for manifest in manifests}) == 3

    jobs = {}
    for path in (tmp_path / "runs" / "models").glob("surrogate-0-*/result.json"):
        jobs[path.parent.name] = json.loads(path.read_text())
    assert len(jobs) == 3
    # The second surrogate is the one a training of that name on the first run's export gives.
    signed = runs[0].sources[0].at(runs[0].root.child("signed"))
    seed = hash_seed(runs[0].config.seed, 0, 0)
    expected = training_job(
        runs[0], "surrogate-0", runs[0].config.surrogate.trainings[0], signed, manifests[0]["fingerprint"], seed
    )
    assert expected.folder in jobs


def test_a_lost_later_run_is_made_again_from_what_the_earlier_left(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, "surrogate.retrainings=1")
    assert exit_code("craft", settings) == 0
    run = run_of(settings)
    folder = tmp_path / "runs" / run.config.hash
    fingerprint = json.loads((folder / "signed" / "manifest.json").read_text())["fingerprint"]
    models = sorted((tmp_path / "runs" / "models").iterdir())
    shutil.rmtree(folder)
    assert exit_code("craft", settings) == 0
    assert json.loads((folder / "signed" / "manifest.json").read_text())["fingerprint"] == fingerprint
    assert sorted((tmp_path / "runs" / "models").iterdir()) == models


def test_a_run_with_a_retraining_is_another_run(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path
    )  # that the default keeps its hash is pinned in tests/training/test_training_config.py
    assert run_of(settings).config.hash != run_of([*settings, "surrogate.retrainings=1"]).config.hash


def test_a_shard_that_fails_for_good_before_a_retraining_ends_the_job_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SampleError("image 7 cannot be read")

    monkeypatch.setattr(methods, "craft_signing_set", fail)
    assert exit_code("craft", settings_in(tmp_path, "surrogate.retrainings=1")) == 1
    assert "failed for good" in capsys.readouterr().err
