"""A model source and a recipe that are added from outside: one definition and one registration each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from taggants.augmentation import random_words
from taggants.config import load_config
from taggants.errors import InputError
from taggants.models import MODEL_SOURCES, InputNormalisation, model_from_checkpoint
from taggants.training.recipes import RECIPES, RecipeParts
from tests.jobs.running import exit_code, settings_in


class ToyModels:
    """One hidden layer, as wide as its name says."""

    names = "toy:WIDTH"

    def has(self, name):
        return name.isdecimal()

    def options(self, name):
        return frozenset({"drop_path"})

    def build(self, name, spec):
        width = int(name)
        network = nn.Sequential(
            nn.Flatten(),
            nn.Linear(spec.channels * spec.image_size**2, width),
            nn.GELU(),
            nn.Dropout(spec.drop_path),
            nn.Linear(width, spec.num_classes),
        )
        return nn.Sequential(InputNormalisation([0.5] * spec.channels, [0.25] * spec.channels), network)


@dataclass(frozen=True)
class Dimmed:
    """Images times a factor of each."""

    output_size = None

    def check(self, image_size):
        pass

    def __call__(self, images, image_ids, *, seed, step, view, sizes=None):
        words = random_words(image_ids, seed=seed, step=step, view=view, streams=range(900, 901))[0]
        return images * (0.5 + words / 2**33)[:, None, None, None].to(images.dtype)


MODEL_SOURCES.register("toy", ToyModels())
RECIPES.register("toy-dimmed", RecipeParts(augmentations=(Dimmed(),), mixup=0.2, label_smoothing=0.1))


def test_a_model_of_a_new_source_trained_by_a_new_recipe_goes_from_crafting_to_a_certificate(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path,
        *(
            f"{s}.{what}"
            for s in ("surrogate", "evaluation.training")
            for what in ("model=toy:24", "recipe=toy-dimmed")
        ),
        "surrogate.drop_path=0.2",
        "surrogate.loader=device",
        "evaluation.num_victims=1",
    )
    assert exit_code("craft", settings) == 0
    (result,) = (tmp_path / "runs" / "models").glob("surrogate-0-*/result.json")
    trained = json.loads(result.read_text())
    model, spec = model_from_checkpoint((result.parent / "model.safetensors").read_bytes(), "here")
    assert (spec.name, spec.drop_path) == ("toy:24", 0.2)
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert trained["accuracy"] > 0.3
    (certificate,) = (tmp_path / "runs").glob("*/certificates/victim-0-*.json")
    assert json.loads(certificate.read_text())["suspect"].startswith("victim-0")


def test_errors_name_what_was_added(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"recipe 'none' does not exist; use one of simple, .*toy-dimmed"):
        load_config(None, ["surrogate.recipe=none"])
    assert exit_code("craft", settings_in(tmp_path, "surrogate.model=toy:wide")) == 2
