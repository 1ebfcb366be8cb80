"""Recipes: how a batch is augmented, what loss it gets, and how its gradients are used.

simple: random crop with reflect padding, optional flip, cross-entropy; the plain recipe of gradient-matching papers.
strong: 3-Augment (Touvron, Cord, Jegou, "DeiT III", ECCV 2022, section 4) by timm, Mixup 0.8 or CutMix 1.0 by timm, and
cross-entropy against the mixed labels; the paper's victim recipe (Bouaziz et al. 2025, section 5) without its BCE.
deit3: "DeiT III", table 1, for ImageNet-1k: crop, flip, 3-Augment, colour jitter 0.3, Mixup 0.8 or CutMix 1.0, binary
cross-entropy with every mixed class counted whole, LAMB, gradients clipped to norm 1. The paper's victim recipe.
resnet-a2: procedure A2 of Wightman, Touvron, Jegou, "ResNet strikes back" (2021), table 2: RandAugment 7 / 0.5, crop, flip,
Mixup 0.1 or CutMix 1.0, binary cross-entropy with classes of a mixed weight above 0.2 counted whole, LAMB (timm's, which
clips to norm 1).
fine-tune: Kornblith, Shlens, Le, "Do better ImageNet models transfer better?" (CVPR 2019): all weights, from those
of another training, by SGD with Nesterov momentum 0.9; crop, flip, cross-entropy.

Learning rate, weight decay, epochs and batch are the configuration's. The papers' repeated augmentation and stochastic depth are
left out; crops are of the padded image (DeiT III's "simple random crop"), never resized.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import auto_augment_transform, rand_augment_transform
from timm.data.mixup import Mixup
from timm.loss import BinaryCrossEntropy
from torch import Tensor
from torch.nn.functional import cross_entropy

from taggants.augmentation import ColourJitter, CropAndFlip, ThreeAugment


@dataclass(frozen=True)
class RecipeParts:
    """What a recipe's name stands for.

    optimiser: "adamw", "lamb" or "sgd". clip_norm: largest Euclidean norm of a step's gradient; None: any.
    policy: of timm, on the 8-bit images before the crop: "3a" or a RandAugment string; None: no policy.
    three_augment: 3-Augment after the crop. colour_jitter: its strength in [0, 1].
    mixup, cutmix: alphas of their Beta distributions, 0 for none.
    target_threshold: binary cross-entropy, with label weights above this counted as 1; None: cross-entropy.
    """

    optimiser: str = "adamw"
    clip_norm: float | None = None
    policy: str | None = None
    three_augment: bool = False
    colour_jitter: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    target_threshold: float | None = None


RECIPES: dict[str, RecipeParts] = {
    "simple": RecipeParts(),
    "strong": RecipeParts(policy="3a", mixup=0.8, cutmix=1.0),
    "deit3": RecipeParts(
        optimiser="lamb",
        clip_norm=1.0,
        three_augment=True,
        colour_jitter=0.3,
        mixup=0.8,
        cutmix=1.0,
        target_threshold=0.0,
    ),
    "resnet-a2": RecipeParts(
        optimiser="lamb", clip_norm=1.0, policy="rand-m7-mstd0.5", mixup=0.1, cutmix=1.0, target_threshold=0.2
    ),
    "fine-tune": RecipeParts(optimiser="sgd"),
}
"""By the names in the configuration."""


@dataclass(frozen=True)
class Recipe:
    """name: a key of `RECIPES`. crop_padding: pixels. flip: horizontal mirroring of half of the images."""

    name: str
    crop_padding: int
    flip: bool
    num_classes: int

    @property
    def parts(self) -> RecipeParts:
        return RECIPES[self.name]

    def batch(
        self, images: Tensor, labels: Tensor, image_ids: Tensor, *, seed: int, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """Returns float images in [0, 1] [N, C, H, W] and float label weights [N, num_classes] that sum to 1 by row.

        A function of its inputs; global generators are left as they were.

        Args:
            images: uint8 [N, C, H, W]; labels: int64 [N]; image_ids: int64 [N].
        """
        parts = self.parts
        mixes = parts.mixup > 0 or parts.cutmix > 0
        draws_globally = mixes or parts.policy is not None
        with (
            _numpy_and_random_seeded(hash_seed(seed, epoch, int(image_ids[0])))
            if draws_globally
            else contextlib.nullcontext()
        ):
            if parts.policy is not None:
                images = _augmented_by(parts.policy, images)
            pixels = CropAndFlip(self.crop_padding, self.flip)(
                images.to(torch.float32) / 255, image_ids, seed=seed, step=epoch, view=0
            )
            if parts.three_augment:
                pixels = ThreeAugment()(pixels, image_ids, seed=seed, step=epoch, view=0)
            if parts.colour_jitter:
                pixels = ColourJitter(parts.colour_jitter)(pixels, image_ids, seed=seed, step=epoch, view=0)
            weights = torch.nn.functional.one_hot(labels, self.num_classes).to(torch.float32)
            if mixes and len(pixels) % 2 == 0:  # timm's Mixup pairs an image with its mirror in the batch
                mixup = Mixup(
                    mixup_alpha=parts.mixup,
                    cutmix_alpha=parts.cutmix,
                    label_smoothing=0.0,
                    num_classes=self.num_classes,
                )
                pixels, weights = mixup(pixels, labels)
        return pixels, weights

    def loss(self, logits: Tensor, weights: Tensor) -> Tensor:
        """Returns the mean (binary) cross-entropy against label weights."""
        threshold = self.parts.target_threshold
        if threshold is None:
            return cross_entropy(logits, weights)
        return BinaryCrossEntropy(smoothing=0.0, target_threshold=threshold)(logits, weights)


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


def _augmented_by(policy: str, images: Tensor) -> Tensor:
    """Each uint8 image [N, C, H, W] after a draw of timm's policy."""
    transform = _policy(policy, images.shape[1])
    augmented = []
    for image in images.permute(0, 2, 3, 1).numpy():
        grey = image.shape[-1] == 1
        picture = transform(Image.fromarray(image[..., 0] if grey else image))
        array = np.asarray(picture)
        augmented.append(array[..., None] if grey else array)
    return torch.from_numpy(np.stack(augmented)).permute(0, 3, 1, 2)


def _policy(policy: str, channels: int) -> Callable[[Image.Image], Image.Image]:
    if not policy.startswith("rand"):
        return auto_augment_transform(policy, {})
    return rand_augment_transform(policy, {"img_mean": 128 if channels == 1 else (128, 128, 128)})
