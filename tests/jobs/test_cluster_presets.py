"""The parts of the ImageNet presets, at a size for two cores: their models, recipes, loader and engine on native files."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from taggants.cli.configuration import preset_path
from taggants.config import load_config
from tests.jobs.running import load_job

# What makes the presets large or needs a GPU; everything else stays as it is.
SMALL = (
    "data.image_size=64",
    "signing.images_per_key=1",
    "crafting.num_steps=2",
    "crafting.device=cpu",
    "execution.pool=inline",
    "evaluation.num_controls=0",
    *(
        f"{section}.{setting}"
        for section in ("surrogate", "evaluation.training")
        for setting in (
            "num_epochs=1",
            "batch_size=40",
            "num_workers=0",
            "device=cpu",
            "compile=false",
            "num_readers=1",
        )
    ),
)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("preset", ["imagenet_resnet50", "imagenet_deit3_small"])
def test_the_parts_of_an_imagenet_preset_run(real_data, tmp_path, preset, capsys):
    with tarfile.open(real_data / "imagenet_sample.tar") as tar:
        files = sorted((member for member in tar if member.isfile()), key=lambda member: member.name)
        for number, member in enumerate(files):  # six of each class: five to train, one to test
            content = tar.extractfile(member)
            assert content is not None
            split = "val" if number % 6 == 0 else "train"
            path = tmp_path / "imagenet" / split / Path(member.name).parent.name / Path(member.name).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
    places = (f"data.root={tmp_path}/imagenet", f"output.root={tmp_path}/runs", f"keys.root={tmp_path}/secrets")
    config = load_config(preset_path(preset), [*places, *SMALL])
    assert config.surrogate.loader == config.evaluation.training.loader == "torch"
    assert config.evaluation.training.recipe in ("resnet-a2", "deit3")
    assert load_job("craft").main(config).exit_code == 0
    printed = capsys.readouterr().out
    assert "10 shards crafted" in printed
    assert "120 rows of which 10 signed" in printed
    assert "train victim-0: accuracy" in printed
