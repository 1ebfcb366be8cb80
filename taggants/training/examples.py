"""Where an epoch's batches come from; knows neither Ray nor storage. What streams them from storage is in `streaming`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
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
    """Images in the memory of one device, on which batches are computed.

    images: uint8 [N, C, H, W]; labels: int64 [N]. On a GPU the rows of an epoch are uploaded once, and several batches are
    augmented in one pass: a small batch would leave the card waiting for launches. values_at_once: pixel values in a pass.
    """

    images: Tensor
    labels: Tensor
    values_at_once: int = 2**24

    def batches(self, epoch: Epoch, rows: Sequence[Tensor]) -> Iterator[Batch]:
        device = self.images.device
        if device.type == "cpu":  # where a batch fits into the cache, and several do not
            for batch in rows:
                yield make_batch(self.images[batch], self.labels, batch, epoch)
            return
        yield from self._several_at_once(epoch, rows)

    def _several_at_once(self, epoch: Epoch, rows: Sequence[Tensor]) -> Iterator[Batch]:
        """The same batches, augmented by the pass."""
        device = self.images.device
        per_pass = max(1, self.values_at_once // (self.images[0].numel() * max(map(len, rows))))
        passes = [rows[start : start + per_pass] for start in range(0, len(rows), per_pass)]
        counts = [sum(map(len, batches)) for batches in passes]
        ids = torch.cat(list(rows)).to(device).split(counts)
        partners = torch.cat([_partners(batches) for batches in passes]).to(device).split(counts)
        for batches, its_ids, its_partners in zip(passes, ids, partners, strict=True):
            pixels, weights = make_batch(self.images[its_ids], self.labels, its_ids, epoch, its_partners)
            sizes = [len(batch) for batch in batches]
            yield from zip(pixels.split(sizes), weights.split(sizes), strict=True)


def _partners(batches: Sequence[Tensor]) -> Tensor:
    """int64 [n]: the position, among the images of several batches, that each is mixed with: its mirror in its own batch."""
    starts = accumulate((len(batch) for batch in batches), initial=0)
    return torch.cat(
        [torch.arange(start + len(batch) - 1, start - 1, -1) for start, batch in zip(starts, batches, strict=False)]
    )


def make_batch(images: Tensor, labels: Tensor, rows: Tensor, epoch: Epoch, partners: Tensor | None = None) -> Batch:
    """Returns the batch of some rows.

    Args:
        images: uint8 [n, C, H, W] of the rows; labels: int64 [N] of all; rows: int64 [n]. partners: as in `Recipe.batch`.
    """
    return epoch.recipe.batch(images, labels[rows], rows, seed=epoch.seed, epoch=epoch.number, partners=partners)
