from __future__ import annotations

import pytest

from taggants.config import Config, load_config
from taggants.errors import InputError
from taggants.training.recipes import RECIPES


@pytest.mark.parametrize(
    "setting", ["optimiser=lamb", "gradient_clip=1", "ema_decay=0.9", "compile=true", "init_from=/m.safetensors"]
)
def test_what_decides_a_surrogate_makes_another_run(setting):
    assert load_config(None, [f"surrogate.{setting}"]).hash != Config().hash
    assert load_config(None, [f"evaluation.training.{setting}"]).hash == Config().hash


def test_every_recipe_can_be_asked_for():
    for name in RECIPES:
        settings = [f"evaluation.training.recipe={name}", "evaluation.training.init_from=/m.safetensors"]
        assert load_config(None, settings).evaluation.training.recipe == name
        assert load_config(None, [f"sweep.victims=[{{recipe: {name}}}]"]).sweep.victims[0].recipe == name


def test_a_loader_counts_where_it_changes_rounding():
    hashes = {
        (device, loader): load_config(
            None, [f"surrogate.device={device}", f"surrogate.loader={loader}", "surrogate.num_readers=3"]
        ).hash
        for device in ("cpu", "cuda")
        for loader in ("memory", "torch", "device")
    }
    assert len({hashes["cpu", loader] for loader in ("memory", "torch", "device")}) == 1
    assert hashes["cuda", "memory"] == hashes["cuda", "torch"] != hashes["cuda", "device"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("surrogate.recipe=weak", "recipe 'weak' does not exist; use one of simple, strong, deit3"),
        ("sweep.victims=[{recipe: weak}]", "recipe 'weak' does not exist"),
        (
            "surrogate={recipe: resnet-a2, loader: device}",
            "resnet-a2 augments single images on the CPU, so loader device",
        ),
        ("evaluation.training.recipe=fine-tune", "recipe fine-tune needs init_from, the model.safetensors"),
        ("surrogate.ema_decay=1", "'surrogate.ema_decay' = 1 must be a number > 0 and < 1"),
        ("evaluation.gpus_per_model=0", "must be a number > 0 and <= 1"),
        ("evaluation.probe={source: parquet}", "data.root is required with data.source=parquet"),
        (
            "evaluation.probe={sauce: digits}",
            "'evaluation.probe.sauce' does not exist; did you mean 'evaluation.probe.source'. `taggants config",
        ),
    ],
)
def test_bad_values_are_named(setting, sentence):
    with pytest.raises(InputError, match=sentence):
        load_config(None, [setting])
