"""Where an epoch's batches come from; knows neither Ray nor storage. What streams them from storage is in `streaming`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from taggants.training.recipes import Recipe

Batch = tuple[Tensor, Tensor]
"""float pixels in [0, 1] [n, C, H, W] and float label weights [n, num_classes], as `Recipe.batch` returns them."""


@dataclass(frozen=True)
class Epoch:
    """What decides an epoch's batches beside the examples: the draws of `recipe` are a function of (seed, number, row)."""

    recipe: Recipe
    seed: int
    number: int


class TrainingExamples(Protocol):
    """Labelled images to train on; however they come, a batch is a function of its rows and the epoch, bit for bit."""

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""

    def batches(self, epoch: Epoch, rows: Sequence[Tensor]) -> Iterator[Batch]:
        """Returns: a batch for each int64 [n] of row numbers, in their order."""


@dataclass(frozen=True)
class InMemory:
    """images: uint8 [N, C, H, W] on the CPU; labels: int64 [N]."""

    images: Tensor
    labels: Tensor

    def batches(self, epoch: Epoch, rows: Sequence[Tensor]) -> Iterator[Batch]:
        for batch in rows:
            yield make_batch(self.images[batch], self.labels, batch, epoch)


def make_batch(images: Tensor, labels: Tensor, rows: Tensor, epoch: Epoch) -> Batch:
    """Args: images: uint8 [n, C, H, W] of the rows; labels: int64 [N] of all; rows: int64 [n]."""
    return epoch.recipe.batch(images, labels[rows], rows, seed=epoch.seed, epoch=epoch.number)
