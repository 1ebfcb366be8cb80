from __future__ import annotations

import typing

import pytest

from taggants.config import Config, TrainingConfig, load_config
from taggants.errors import InputError
from taggants.training.recipes import RECIPES


@pytest.mark.parametrize(
    "setting", ["optimiser=lamb", "gradient_clip=1", "ema_decay=0.9", "compile=true", "init_from=/m.safetensors"]
)
def test_what_decides_a_surrogate_makes_another_run(setting):
    assert load_config(None, [f"surrogate.{setting}"]).hash != Config().hash
    assert load_config(None, [f"evaluation.training.{setting}"]).hash == Config().hash


def test_every_recipe_can_be_asked_for():
    assert set(typing.get_args(TrainingConfig.model_fields["recipe"].annotation)) == set(RECIPES)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("evaluation.training.recipe=fine-tune", "recipe fine-tune needs init_from, the model.safetensors"),
        ("surrogate.ema_decay=1", "'surrogate.ema_decay' = 1 must be less than 1"),
        ("evaluation.gpus_per_model=0", "greater than 0"),
        ("evaluation.probe={source: parquet}", "data.root is required with data.source=parquet"),
        (
            "evaluation.probe={sauce: digits}",
            "'evaluation.probe.sauce' does not exist; did you mean 'source'. its section knows source,",
        ),
    ],
)
def test_bad_values_are_named(setting, sentence):
    with pytest.raises(InputError, match=sentence):
        load_config(None, [setting])
