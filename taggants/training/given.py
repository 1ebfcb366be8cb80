"""Surrogates whose weights exist already: nothing is trained, and the rest of the run finds them as it finds trained ones."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from taggants.data.source import ImageSource
from taggants.errors import InputError
from taggants.identity import identity
from taggants.models import ModelSpec, checkpoint_bytes
from taggants.storage import Root
from taggants.suspects import Owner, load_weights
from taggants.training.job import TrainedModel, read_result
from taggants.training.worker import measure_split


@dataclass(frozen=True, eq=False)
class GivenModel:
    """A network that others trained, adapted to the dataset; has name, identity and folder as a `TrainingJob` has.

    named: as the configuration names its weights; weights_sha256: of their file. model: takes pixels in [0, 1] of the dataset's
    size, and gives scores of its classes. field_name: of the configuration that names it, for error sentences.
    """

    name: str
    named: str
    weights_sha256: str
    spec: ModelSpec
    model: nn.Module = field(repr=False)
    field_name: str = "surrogate.weights"

    @property
    def identity(self) -> str:
        """16 hex digits over the weights and how they are used."""
        return identity({"weights": self.weights_sha256, "spec": asdict(self.spec)})[:16]

    @property
    def folder(self) -> str:
        """The folder of its files, under the store of models."""
        return f"{self.name}-{self.identity[:12]}"


def given_model(
    name: str,
    named: str,
    architecture: str,
    patch_size: int | None,
    owner: Owner,
    field_name: str = "surrogate.weights",
) -> GivenModel:
    """Returns the network that a text, a file of weights or a description file names, tried on a black image.

    Raises:
        InputError: it cannot be opened, does not know the dataset's classes, or does not take its images.
    """
    try:
        weights = load_weights(named, architecture, patch_size, owner)
        model, spec = weights.surrogate(owner)
        with torch.no_grad():
            model(torch.zeros(1, *owner.image_shape))
    except InputError as error:
        raise InputError(f"{field_name}: {error}") from error
    except (AssertionError, RuntimeError) as error:
        raise InputError(
            f"{field_name}: {named} does not take images of its size ({' '.join(str(error).split())[:120]}); name "
            "image_size in a description file"
        ) from error
    return GivenModel(name, named, weights.sha256, spec, model, field_name)


def adopt(given: GivenModel, models: Root, test: ImageSource, image_size: int | None, device: str) -> TrainedModel:
    """Writes the network as a checkpoint of ours, with its accuracy on the test split, and returns it; one that is there is
    returned as it is.

    Raises:
        InputError: it answers no better than chance, so that crafting on it would be in vain.
    """
    result_path = f"{given.folder}/result.json"
    if models.exists(result_path):
        return read_result(models, result_path)
    started = time.monotonic()
    metrics = measure_split(test, image_size, given.model.to(device))
    chance = 1 / given.spec.num_classes
    if metrics.accuracy <= chance + 3 * math.sqrt(chance * (1 - chance) / test.num_rows):
        raise InputError(
            f"{given.field_name}: {given.named} answers {metrics.accuracy:.4f} of {test.num_rows} images with their class, no "
            f"better than chance ({chance:.4f}); check its architecture, mean, std and the order of its classes"
        )
    checkpoint = checkpoint_bytes(given.model, given.spec)
    path = f"{given.folder}/model.safetensors"
    models.write_bytes(path, checkpoint)
    sha256, seconds = hashlib.sha256(checkpoint).hexdigest(), time.monotonic() - started
    result = TrainedModel(given.name, path, sha256, metrics.accuracy, 0, seconds, kept=(), metrics=metrics)
    models.write_json(result_path, asdict(result))
    return result
