from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from taggants.config import load_config
from taggants.data.image_codec import encode_png
from taggants.errors import InputError
from taggants.evaluation.harm import measure_harm
from taggants.models import model_from_checkpoint
from taggants.run import Run
from taggants.storage import Root
from tests.jobs.running import exit_code, load_job, settings_in

PAIRS = ("evaluation.num_victims=2", "evaluation.num_controls=2")


def load(settings):
    return load_config(None, settings)


def crafted(folder, *settings):
    """Settings of a run whose data are signed, exported and trained on."""
    settings = settings_in(folder, *PAIRS, *settings)
    assert exit_code("craft", settings) == 0
    return settings


def write_stripes(folder: Path):
    """Another dataset of another size: two classes of bright halves."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 20)):
        images = rng.integers(0, 60, (count, 1, 12, 12))
        for index, image in enumerate(images):
            image[0, 6 * (index % 2) :][:6] += 150
        rows = [{"image": encode_png(image.astype(np.uint8)), "label": i % 2} for i, image in enumerate(images)]
        Root(str(folder)).write_table(f"{split}.parquet", pa.Table.from_pylist(rows))


def test_harm_is_measured_on_a_rehearsed_run_and_written(tmp_path, capsys):
    settings = crafted(tmp_path)
    write_stripes(tmp_path / "stripes")
    probe = f"evaluation.probe={{source: parquet, root: {tmp_path / 'stripes'}, channels: 1}}"
    capsys.readouterr()
    report = load_job("harm").main(load([*settings, probe]))
    printed = capsys.readouterr().out
    run = Run(load(settings))
    written = run.root.read_json("harm.json")
    assert written == json.loads(json.dumps(report.to_json()))

    assert [model.name for model in (*report.victims, *report.controls)] == [
        "victim-0",
        "victim-1",
        "control-0",
        "control-1",
    ]
    for figure, difference in report.differences.items():
        by_pair = [
            getattr(victim, figure) - getattr(control, figure)
            for victim, control in zip(report.victims, report.controls, strict=True)
        ]
        assert difference.mean == pytest.approx(np.mean(by_pair))
        assert difference.num_pairs == 2
        assert f"{difference.mean:+.4f}" in printed
    assert set(report.differences) == {
        "accuracy",
        "worst_class_accuracy",
        "calibration_error",
        "signed_loss_gap",
        "flip_rate_16",
        "flip_rate_32",
        "flip_rate_64",
        "probe_accuracy",
    }
    assert all(model.probe_accuracy > 0.9 for model in report.victims)

    # The gap of one victim again, image by image.
    (folder,) = {path.partition("/")[0] for path in run.models.list() if path.startswith("victim-0-")}
    model, _ = model_from_checkpoint(run.models.read_bytes(f"{folder}/model.safetensors"), folder)
    signed = {i for shard in run.folder.read_plan().shards for i in shard.sample_ids}
    images, labels = run.sources[0].at(run.root.child("signed")).read_all()
    with torch.no_grad():
        logits = model(torch.from_numpy(images).float() / 255)
    image_losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none").numpy()
    others = {
        label: np.mean([image_losses[i] for i in range(len(labels)) if labels[i] == label and i not in signed])
        for label in set(labels[list(signed)].tolist())
    }
    gap = np.mean([image_losses[i] - others[labels[i]] for i in signed])
    assert report.victims[0].signed_loss_gap == pytest.approx(gap, rel=1e-4)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_rehearsal_on_ray_trains_the_models_of_this_process(tmp_path):
    asked = "{num_covers: 10, amplitudes: [1/4], num_references: 2, kinds: [{model: cnn_wide}, {recipe: strong}]}"
    same = ("keys.demonstration=true", "detection.statistic=question", f"detection.question={asked}")
    inline = crafted(tmp_path / "inline", *same)
    on_ray = crafted(tmp_path / "ray", *same, "execution.pool=ray")
    results = []
    for settings in (inline, on_ray):
        models = Run(load(settings)).models
        results.append({path: models.sha256(path) for path in models.list() if path.endswith("model.safetensors")})
    assert len(results[0]) == 7
    assert results[0] == results[1]


def test_models_without_a_pair_are_refused(tmp_path):
    config = load(settings_in(tmp_path, "evaluation.num_victims=2"))
    with pytest.raises(InputError, match=r"num_victims = 2 and evaluation.num_controls = 0 make no pair"):
        measure_harm(Run(config))


def test_a_probe_of_other_channels_is_refused(tmp_path):
    settings = crafted(tmp_path)
    write_stripes(tmp_path / "stripes")
    probe = f"evaluation.probe={{source: parquet, root: {tmp_path / 'stripes'}, channels: 3}}"
    with pytest.raises(InputError, match=r"evaluation.probe.channels = 3 but the models take 1"):
        measure_harm(Run(load([*settings, probe])))
