from __future__ import annotations

from pathlib import Path

import pytest

from taggants import pipeline
from taggants.config import load_config
from taggants.crafting.plan import Plan
from taggants.run import Run
from taggants.stages.keys import prepare_keys
from taggants.training import scoring
from tests.jobs.running import settings_in


def plan_of(folder: Path, *settings: str) -> tuple[Run, Plan]:
    run = Run(load_config(None, settings_in(folder, *settings)))
    prepare_keys(run)
    return run, pipeline.prepare(run)[1]


def test_a_second_run_scores_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = plan_of(tmp_path)

    def refuse(job: scoring.ScoringJob, windows: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr("taggants.stages.plan.score_here", refuse)
    _, second = plan_of(tmp_path, "crafting.epsilon=32/255")
    assert second.shards == first.shards


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_ray_and_this_process_choose_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_WINDOW_ROWS", 300)  # one window would be scored here
    keys = f"keys.root={tmp_path / 'secrets'}"
    _, here = plan_of(tmp_path / "here", keys)
    run, on_ray = plan_of(tmp_path / "ray", keys, "execution.pool=ray", "execution.num_cpus=0.5")
    assert on_ray == here
    (scores,) = (tmp_path / "ray" / "runs" / "scores").iterdir()
    assert scores.read_bytes() == (tmp_path / "here" / "runs" / "scores" / scores.name).read_bytes()
    assert run.config.execution.pool == "ray"
