from __future__ import annotations

import json
import re
import time

import pytest

from taggants.cli import main
from taggants.config import load_config
from taggants.estimation.estimate import Estimate, estimate
from taggants.estimation.timing import Timings, time_stages
from taggants.estimation.work import work_of
from taggants.run import Run
from taggants.stages.craft import craft
from taggants.stages.keys import prepare_keys
from taggants.stages.plan import make_plan
from taggants.stages.surrogates import train_surrogates
from tests.jobs.running import settings_in

TIMINGS = Timings(read_s=1e-3, surrogate_s=0.01, reference_s=0.03, victim_s=0.02, score_s=0.1, sample_step_s=0.5)


def estimated(tmp_path, *settings, timings=TIMINGS) -> Estimate:
    run = Run(load_config(None, settings_in(tmp_path, *settings)))
    return estimate(run, work_of(run), timings)


def test_work_is_counted_before_anything_is_done(tmp_path, capsys):
    words = [word for setting in settings_in(tmp_path, "evaluation.num_victims=2") for word in ("--set", setting)]
    assert main(["plan", *words, "--price", "2"]) == 0
    shown = capsys.readouterr().out
    assert "found     nothing done yet" in shown
    assert "1,297 training images of 1x8x8 px, 10 classes of 120 to 144 images each" in shown
    assert "3 block keys of 3 images each: 9 images signed (0.69%)" in shown
    assert "crafting  matching, 72 sample-steps on 1 surrogate\n" in shown  # 9 images x 4 steps x 2 views
    assert " at $2.00 an hour" in shown
    assert "power     of the rank statistic at level 0.001 with 10 classes, by number of keys" in shown
    assert re.search(r"^1 assumed +0\.0\d", shown, re.MULTILINE)
    assert "measured  5 of 8 cells of plain CNN victims of matching reached p <= 0.001" in shown
    assert "doubt     nobody has seen plain CNN victims of matching reach p <= 0.001 with 82 training steps" in shown
    assert not (tmp_path / "secrets").exists()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["datasets"]


def test_json_holds_work_stages_and_cost(tmp_path, capsys):
    words = [word for setting in settings_in(tmp_path) for word in ("--set", setting)]
    assert main(["plan", *words, "--json", "--price", "3", "--effect", "2.5"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["work"]["sample_steps"] == 72
    assert [stage["name"] for stage in plan["stages"]] == ["train surrogates", "score candidates", "craft", "export"]
    assert plan["seconds"] == pytest.approx(sum(stage["seconds"] for stage in plan["stages"]))
    assert plan["power"]["num_keys"] == [3, 5, 10, 20, 40]
    assert plan["power"]["rows"][0]["effect"] == 2.5
    assert plan["power"]["rows"][0]["power"] == sorted(plan["power"]["rows"][0]["power"])
    assert "3 keys (fewest 8)" in plan["doubts"][0]
    assert plan["cost"] == pytest.approx(3 * plan["seconds"] / 3600)


def test_time_is_units_of_work_by_what_each_takes(tmp_path):
    found = estimated(
        tmp_path, "surrogate.num_models=2", "evaluation.num_controls=3", "evaluation.training.num_epochs=5"
    )
    seconds = {stage.name: stage.seconds for stage in found.stages}
    read_s = (1297 + 500) * 1e-3
    assert seconds["train surrogates"] == pytest.approx(2 * (2 * 1297 * 0.01 + read_s))
    assert seconds["craft"] == pytest.approx(2 * 72 * 0.5)
    assert seconds["train victims and controls"] == pytest.approx(3 * (5 * 1297 * 0.02 + read_s))
    assert found.work.sample_steps == 2 * 72


@pytest.mark.slow
def test_timed_steps_tell_what_training_and_crafting_take(tmp_path):
    """In CPU time, which other work on this machine changes little; within a factor of 2."""
    settings = settings_in(
        tmp_path, "surrogate.num_epochs=10", "crafting.num_steps=150", "keys.num_keys=6", "keys.demonstration=true"
    )
    run = Run(load_config(None, settings))
    expected = {stage.name: stage.seconds for stage in estimate(run, work_of(run), time_stages(run)).stages}
    run = Run(run.config)
    prepare_keys(run)
    ticks = [time.process_time()]
    surrogates = train_surrogates(run)
    ticks.append(time.process_time())
    plan = make_plan(run, surrogates)
    ticks.append(time.process_time())
    craft(run, plan, surrogates)
    ticks.append(time.process_time())
    assert 1 / 2 < expected["train surrogates"] / (ticks[1] - ticks[0]) < 2
    assert 1 / 2 < expected["craft"] / (ticks[3] - ticks[2]) < 2


def test_retrainings_repeat_trainings_and_crafting(tmp_path):
    once, thrice = estimated(tmp_path), estimated(tmp_path, "surrogate.retrainings=2")
    assert thrice.work.sample_steps == 3 * once.work.sample_steps
    assert [training.name for training in thrice.work.trainings] == [
        "surrogate-0",
        "surrogate-0, retrained 1",
        "surrogate-0, retrained 2",
    ]


def test_references_are_of_the_kinds_that_are_named(tmp_path, monkeypatch):
    question = "{num_covers: 10, num_references: 3, kinds: [{model: cnn_wide}, {recipe: strong}]}"
    found = estimated(tmp_path, f"detection.question={question}")
    assert [t.model for t in found.work.trainings] == ["cnn", "cnn_wide", "cnn", "cnn_wide"]
    seconds = {stage.name: stage.seconds for stage in found.stages}
    assert seconds["train references"] == pytest.approx(3 * (2 * 1297 * 0.03 + (1297 + 500) * 1e-3))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    beside = estimated(tmp_path, f"detection.question={question}", "execution.pool=ray")
    seconds = {stage.name: stage.seconds for stage in beside.stages}
    assert seconds["train references"] == pytest.approx(2 * (2 * 1297 * 0.03 + (1297 + 500) * 1e-3))


def test_side_by_side_work_is_shared_and_the_last_wave_waits(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # a cluster: as many workers as asked for
    found = estimated(tmp_path, "execution.pool=ray", "execution.num_workers=2")
    craft = next(stage for stage in found.stages if stage.name == "craft")
    assert craft.seconds == pytest.approx(2 / 3 * 72 * 0.5)  # three shards on two workers: two waves
    assert "start Ray" not in {stage.name for stage in found.stages}


def test_stages_on_a_gpu_that_is_not_here_have_no_time_and_cost_only_where_it_is_known(tmp_path):
    unknown = Timings(read_s=1e-3, surrogate_s=None, reference_s=None, victim_s=None, score_s=None, sample_step_s=None)
    found = estimated(tmp_path, "surrogate.device=cuda", "crafting.device=cuda", timings=unknown)
    assert (found.seconds, found.gpu_hours, found.cost(2.0)) == (None, None, None)
    known = estimated(tmp_path, "surrogate.device=cuda")
    hours = next(stage.device_hours for stage in known.stages if stage.name == "train surrogates")
    assert known.cost(2.0) == pytest.approx(2 * hours)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--effect", "-1"], "the effect is -1.0 but must be in 0..8 standard deviations"),
        (["--price", "-1"], "--price -1.0 must be US $ an hour"),
        (["--set", "signing.images_per_key=400"], "images but a key needs 400"),
        (["--set", "surrogate.model=resnet999"], "model 'resnet999' does not exist"),
        (["/nowhere/a.yaml"], "config file '/nowhere/a.yaml' cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, words, sentence, capsys):
    assert main(["plan", "--set", f"output.root={tmp_path}", *words] if "/" not in words[0] else ["plan", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
