"""Recipes: how a batch is augmented and what loss it gets.

simple: random crop with reflect padding, optional flip, cross-entropy; the plain recipe of gradient-matching papers.
strong: 3-Augment (Touvron, Cord, Jegou, "DeiT III", ECCV 2022, section 4) by timm, Mixup 0.8 or CutMix 1.0 by timm, and
cross-entropy against the mixed labels; the paper's victim recipe (Bouaziz et al. 2025, section 5) without its BCE.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import auto_augment_transform
from timm.data.mixup import Mixup
from torch import Tensor
from torch.nn.functional import cross_entropy

from taggants.augmentation import CropAndFlip


@dataclass(frozen=True)
class Recipe:
    """name: "simple" or "strong". crop_padding: pixels. flip: horizontal mirroring of half of the images."""

    name: str
    crop_padding: int
    flip: bool
    num_classes: int

    def batch(
        self, images: Tensor, labels: Tensor, image_ids: Tensor, *, seed: int, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """Returns float images in [0, 1] [N, C, H, W] and float label weights [N, num_classes] that sum to 1 by row.

        A function of its inputs; global generators are left as they were.

        Args:
            images: uint8 [N, C, H, W]; labels: int64 [N]; image_ids: int64 [N].
        """
        strong = self.name == "strong"
        with (
            _numpy_and_random_seeded(hash_seed(seed, epoch, int(image_ids[0]))) if strong else contextlib.nullcontext()
        ):
            if strong:
                images = _three_augment(images)
            pixels = CropAndFlip(self.crop_padding, self.flip)(
                images.to(torch.float32) / 255, image_ids, seed=seed, step=epoch, view=0
            )
            weights = torch.nn.functional.one_hot(labels, self.num_classes).to(torch.float32)
            if strong and len(pixels) % 2 == 0:  # timm's Mixup pairs an image with its mirror in the batch
                mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=self.num_classes)
                pixels, weights = mixup(pixels, labels)
        return pixels, weights

    def loss(self, logits: Tensor, weights: Tensor) -> Tensor:
        """Returns the mean cross-entropy against label weights."""
        return cross_entropy(logits, weights)


def hash_seed(*values: int) -> int:
    """Returns a 32-bit seed that is a function of the values; distinct lists give independent generators."""
    return int(np.random.SeedSequence([value & 0xFFFFFFFF for value in values]).generate_state(1)[0])


@contextlib.contextmanager
def _numpy_and_random_seeded(seed: int) -> Iterator[None]:
    """timm draws from Python's and numpy's global generators: seed them here and put them back."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _three_augment(images: Tensor) -> Tensor:
    """One of solarise, desaturate or blur for each uint8 image [N, C, H, W]."""
    transform = auto_augment_transform("3a", {})
    augmented = []
    for image in images.permute(0, 2, 3, 1).numpy():
        grey = image.shape[-1] == 1
        picture = transform(Image.fromarray(image[..., 0] if grey else image))
        array = np.asarray(picture)
        augmented.append(array[..., None] if grey else array)
    return torch.from_numpy(np.stack(augmented)).permute(0, 3, 1, 2)
