from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taggants import pipeline
from taggants.cli import main
from taggants.config import load_config
from taggants.estimation import timing
from taggants.estimation.doubts import gain_in_words
from taggants.estimation.probe import Probe, first_look, probe
from taggants.evaluation.transfer import clean_job, measure_crafted, measure_transfer
from taggants.run import Run
from taggants.stages.craft import craft
from taggants.stages.export import export
from taggants.stages.keys import prepare_keys
from taggants.stages.model_training import train_model
from taggants.training.job import load_trained
from tests.estimation.test_doubts import DIGITS, PHOTOS, wanted
from tests.jobs.running import settings_in
from tests.jobs.test_sources import draw_folder

QUESTION = ("detection.statistic=question", "detection.question={num_covers: 20, amplitudes: [1/4]}")


def words_in(folder: Path, *settings: str) -> list[str]:
    return [word for setting in settings_in(folder, *settings) for word in ("--set", setting)]


def test_the_command_measures_decoys_and_leaves_what_the_run_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "time_stages", lambda run: timing.NO_TIME)
    words = words_in(tmp_path, *QUESTION)
    assert main(["plan", *words, "--probe"]) == 0
    shown = capsys.readouterr().out
    assert "gain    of 2 signing sets on reference-0, which nothing was crafted on" in shown
    assert not list((tmp_path / "secrets").glob("*")), "the run's own keys are not drawn"
    trained = {path.name.rpartition("-")[0] for path in (tmp_path / "runs" / "models").iterdir()}
    assert trained == {"surrogate-0", "reference-0"}

    assert main(["plan", *words, "--probe", "--json"]) == 0
    captured = capsys.readouterr()
    again = json.loads(captured.out)["probe"]
    assert again["in_words"] in shown
    assert len(again["gains"]) == 2
    assert "train reference-0: accuracy" in captured.err

    assert main(["craft", *words]) == 0
    shown = capsys.readouterr().out
    assert "train surrogate-0: accuracy" in shown
    assert "found done" in shown
    assert "craft: 3 shards crafted, 0 found done, of 3" in shown, "own keys are others than the decoys"


def test_decoys_are_crafted_as_the_runs_own_sets_and_are_of_several_classes(tmp_path: Path) -> None:
    run = Run(load_config(None, settings_in(tmp_path, "evaluation.num_controls=1", "signing={budget: 0.01}")))
    probed = probe(run)
    assert probed.model == "control-0"
    (folder,) = [path for path in (tmp_path / "runs" / "probes").iterdir() if (path / "plan.json").exists()]
    plan = json.loads((folder / "plan.json").read_text())
    assert [len(shard["sample_ids"]) for shard in plan["shards"]] == [4, 4], "a hundredth of 1,297 images for 3 keys"
    labels = [set(run.index.labels[shard["sample_ids"]]) for shard in plan["shards"]]
    assert len(labels[0]) == len(labels[1]) == 1
    assert labels[0] != labels[1]
    assert probed.transfer.gains == pytest.approx(np.subtract(probed.transfer.after, probed.transfer.before))


def as_jpeg(folder: Path) -> None:
    for path in [*folder.rglob("*.png")]:
        Image.open(path).save(path.with_suffix(".jpg"), quality=80)
        path.unlink()


@pytest.mark.parametrize("images", ["PNG", "JPEG of several sizes"])
def test_what_is_measured_before_the_export_is_what_is_measured_after(tmp_path: Path, images: str) -> None:
    settings = ["evaluation.num_controls=1"]
    if images != "PNG":
        settings += [*draw_folder(tmp_path / "data", sizes=((40, 52), (33, 18))), "data.image_size=16"]
        as_jpeg(tmp_path / "data")
    run = Run(load_config(None, settings_in(tmp_path, *settings)))
    prepare_keys(run)
    surrogates, plan = pipeline.prepare(run)
    craft(run, plan, surrogates)
    model = load_trained(run.models, surrogates[0])
    first = measure_crafted(run, plan.shards[:2], model)
    export(run, plan)
    assert first.after == pytest.approx(measure_transfer(run, plan, model).after[:2])
    assert first.gains == pytest.approx(np.subtract(first.after, first.before))


def test_a_clean_model_is_one_that_the_run_needs_and_victims_resemble(tmp_path: Path) -> None:
    def job_of(*settings: str) -> str | None:
        job = clean_job(Run(load_config(None, settings_in(tmp_path, *settings))))
        return None if job is None else f"{job.name} {job.spec.name}"

    assert job_of() is None
    assert job_of("evaluation.num_controls=1") == "control-0 cnn"
    assert job_of(*QUESTION, "evaluation.num_controls=1") == "reference-0 cnn"
    other = "evaluation.training.model=cnn_wide"
    assert job_of(*QUESTION, "evaluation.num_controls=1", other) == "control-0 cnn_wide"
    assert job_of(*QUESTION, other) == "reference-0 cnn"
    kinds = ("detection.question.num_references=2", "detection.question.kinds=[{recipe: strong}, {model: cnn_wide}]")
    assert job_of(*QUESTION, *kinds, other) == "reference-1 cnn_wide"
    assert job_of(*QUESTION, *kinds, "evaluation.num_controls=1") == "control-0 cnn", "the reference has another recipe"


def test_a_method_without_surrogates_has_nothing_to_probe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = words_in(tmp_path, "crafting.method=imprint", "signing.selection=random")
    assert main(["plan", *words, "--probe"]) == 2
    assert "crafting.method=imprint crafts on no surrogate, so there is nothing to probe" in capsys.readouterr().err


def test_gains_are_compared_with_those_on_like_images() -> None:
    words = gain_in_words(0.15, wanted("digits", DIGITS))
    assert (
        "0.150, LOW: of 13 measured cells with a known gain, none of the 5 below 0.24 reached p <= 0.001, and 7 of the 8"
        in words
    )


@pytest.mark.parametrize(
    ("gain", "settings", "said"),
    [
        (0.1, [], "0.100, LOW: of 16 measured cells with a known gain, none of the 11 below 0.26 reached p <= 0.001"),
        (0.1, [], "and 4 of the 5 others did; train the surrogates longer"),
        (0.3, [], "0.300, as in cells that were detected"),
        (0.3, ["detection.statistic=rank"], "0.300, LOW"),
        (0.3, ["detection.alpha=1e-12"], "none reached p <= 1e-12, with gains up to 0.47"),
        (0.3, ["crafting.method=mixed"], "no measured cell of mixed on such images has a known gain"),
    ],
)
def test_a_gain_is_low_where_no_measured_cell_of_so_little_was_detected(
    gain: float, settings: list[str], said: str
) -> None:
    assert said in gain_in_words(gain, wanted("cifar100_paper_strength", PHOTOS, *settings))


def test_crafting_says_the_gain_of_its_first_sets_while_there_is_time_and_exports_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looked, plain = (
        (tmp_path / name, ["keys.demonstration=true", *question]) for name, question in (("a", QUESTION), ("b", ()))
    )
    assert main(["craft", *words_in(looked[0], *looked[1])]) == 0
    shown = capsys.readouterr().out
    gain = "gain    of 2 signing sets on reference-0, which nothing was crafted on ("
    assert shown.count(gain) == 1
    assert shown.index(gain) < shown.index("craft: 3 shards crafted") < shown.index("export: ")
    assert main(["craft", *words_in(looked[0], *looked[1])]) == 0
    assert gain not in capsys.readouterr().out, "too late"
    assert main(["craft", *words_in(plain[0], *plain[1])]) == 0
    assert gain not in capsys.readouterr().out, "there is no reference"
    first, second = (
        next((folder / "runs").glob("*/signed/train.parquet")).read_bytes() for folder, _ in (looked, plain)
    )
    assert first == second


def test_the_look_is_at_the_first_sets_that_are_committed(tmp_path: Path) -> None:
    run = Run(load_config(None, settings_in(tmp_path, *QUESTION)))
    prepare_keys(run)
    surrogates, plan = pipeline.prepare(run)
    seen: list[tuple[int, Probe]] = []
    numbers: list[int] = []
    look = first_look(run, plan, lambda probed: seen.append((numbers[-1], probed)))

    def on_done(num_done: int) -> None:
        numbers.append(num_done)
        look(num_done)

    craft(run, plan, surrogates, on_done)
    assert numbers == sorted(numbers)
    ((num_done, probed),) = seen
    assert num_done == 2
    model = load_trained(run.models, train_model(run, clean_job(run)))  # type: ignore[arg-type]  # there is a reference
    export(run, plan)
    assert probed.transfer.after == pytest.approx(measure_transfer(run, plan, model).after[:2])
