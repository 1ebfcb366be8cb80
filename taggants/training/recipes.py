"""Recipes: how a batch is augmented, what loss it gets, and how its gradients are used.

simple: random crop with reflect padding, optional flip, cross-entropy; the plain recipe of gradient-matching papers.
strong: 3-Augment (Touvron, Cord, Jegou, "DeiT III", ECCV 2022, section 4), Mixup 0.8 or CutMix 1.0, and cross-entropy
against the mixed labels; the paper's victim recipe (Bouaziz et al. 2025, section 5) without its BCE.
deit3: "DeiT III", table 1, for ImageNet-1k: crop, flip, 3-Augment, colour jitter 0.3, Mixup 0.8 or CutMix 1.0, binary
cross-entropy with every mixed class counted whole, LAMB, gradients clipped to norm 1. The paper's victim recipe.
resnet-a2: procedure A2 of Wightman, Touvron, Jegou, "ResNet strikes back" (2021), table 2: RandAugment 7 / 0.5, crop, flip,
Mixup 0.1 or CutMix 1.0, binary cross-entropy with classes of a mixed weight above 0.2 counted whole, LAMB (timm's, which
clips to norm 1).
fine-tune: Kornblith, Shlens, Le, "Do better ImageNet models transfer better?" (CVPR 2019): all weights, from those
of another training, by SGD with Nesterov momentum 0.9; crop, flip, cross-entropy.
small-images: for ConvNeXts and vision transformers on images of 32 to 64 px, such as small/convnext and small/vit; label
smoothing 0.1, three epochs of warm-up, gradients clipped to norm 1; figures are in benchmarks/results/small_images.md.

Learning rate, weight decay, epochs, batch and stochastic depth are the configuration's. The papers' repeated augmentation is
left out; crops are of the padded image (DeiT III's "simple random crop"), never resized. Mixup and CutMix pair an image with
its mirror in the batch and draw the share for each image, where timm by default draws one for a batch.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.loss import BinaryCrossEntropy
from torch import Tensor
from torch.nn.functional import cross_entropy

from taggants.augmentation import Augmentation, ColourJitter, Compose, CropAndFlip, MixAugment, ThreeAugment
from taggants.registry import Registry
from taggants.seeds import hash_seed


@dataclass(frozen=True)
class RecipeParts:
    """What a recipe's name stands for.

    optimiser: "adamw", "lamb" or "sgd". clip_norm: largest Euclidean norm of a step's gradient; None: any.
    warm_up_epochs: over which the learning rate rises linearly, above 0.
    policy: RandAugment of timm as a string, on the 8-bit images before the crop, one by one on the CPU; None: no policy.
    augmentations: after the crop, each of another class.
    mixup, cutmix: alphas of their Beta distributions, 0 for none.
    label_smoothing: in [0, 1), of cross-entropy.
    target_threshold: binary cross-entropy, with label weights above this counted as 1; None: cross-entropy.
    """

    optimiser: str = "adamw"
    clip_norm: float | None = None
    warm_up_epochs: float = 1.0
    policy: str | None = None
    augmentations: tuple[Augmentation, ...] = ()
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    target_threshold: float | None = None


RECIPES: Registry[RecipeParts] = Registry("recipe")
"""By the names in the configuration."""

RECIPES.register("simple", RecipeParts())
RECIPES.register("strong", RecipeParts(augmentations=(ThreeAugment(),), mixup=0.8, cutmix=1.0))
RECIPES.register(
    "deit3",
    RecipeParts(
        optimiser="lamb",
        clip_norm=1.0,
        augmentations=(ThreeAugment(), ColourJitter(0.3)),
        mixup=0.8,
        cutmix=1.0,
        target_threshold=0.0,
    ),
)
RECIPES.register(
    "resnet-a2",
    RecipeParts(optimiser="lamb", clip_norm=1.0, policy="rand-m7-mstd0.5", mixup=0.1, cutmix=1.0, target_threshold=0.2),
)
RECIPES.register("fine-tune", RecipeParts(optimiser="sgd"))
RECIPES.register("small-images", RecipeParts(clip_norm=1.0, warm_up_epochs=3.0, label_smoothing=0.1))


@dataclass(frozen=True)
class Recipe:
    """name: of `RECIPES`. crop_padding: pixels. flip: horizontal mirroring of half of the images.

    parts: looked up once, so that a recipe goes to another process whole.

    Raises:
        InputError: no recipe of that name.
    """

    name: str
    crop_padding: int
    flip: bool
    num_classes: int
    parts: RecipeParts = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", RECIPES.find(self.name))

    def batch(
        self,
        images: Tensor,
        labels: Tensor,
        image_ids: Tensor,
        *,
        seed: int,
        epoch: int,
        partners: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns float images in [0, 1] [N, C, H, W] and float label weights [N, num_classes] that sum to 1 by row.

        A function of its inputs; global generators are left as they were. Computed on the device of the images, without the
        host waiting for it; only a recipe with a policy takes the images through the CPU.

        Args:
            images: uint8 [N, C, H, W]; labels: int64 [N]; image_ids: int64 [N]; all on one device.
            partners: int64 [N], the position of the image that each is mixed with; None: the batch in reverse.
        """
        parts = self.parts
        if parts.policy is not None:
            images = _augmented_by(parts.policy, images, hash_seed(seed, epoch, int(image_ids[0])))
        # On 8 bits, which move faster than floats: crops and flips change no value.
        cropped = CropAndFlip(self.crop_padding, self.flip)(images, image_ids, seed=seed, step=epoch, view=0)
        pixels = Compose(parts.augmentations)(cropped.to(torch.float32) / 255, image_ids, seed=seed, step=epoch, view=0)
        if parts.mixup > 0 or parts.cutmix > 0:
            mix = MixAugment(self.num_classes, parts.mixup, parts.cutmix)
            others, other_labels = (
                (pixels.flip(0), labels.flip(0)) if partners is None else (pixels[partners], labels[partners])
            )
            return mix.with_partners(pixels, labels, others, other_labels, image_ids, seed=seed, step=epoch, view=0)
        weights = torch.zeros(len(labels), self.num_classes, device=labels.device)
        return pixels, weights.scatter_(1, labels[:, None], 1.0)

    def loss(self, logits: Tensor, weights: Tensor) -> Tensor:
        """Returns the mean (binary) cross-entropy against label weights."""
        threshold = self.parts.target_threshold
        if threshold is None:
            return cross_entropy(logits, weights, label_smoothing=self.parts.label_smoothing)
        return BinaryCrossEntropy(smoothing=0.0, target_threshold=threshold)(logits, weights)


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


def _augmented_by(policy: str, images: Tensor, seed: int) -> Tensor:
    """Each uint8 image [N, C, H, W] after a draw of timm's policy."""
    channels = images.shape[1]
    transform: Callable[[Image.Image], Image.Image] = rand_augment_transform(
        policy, {"img_mean": 128 if channels == 1 else (128, 128, 128)}
    )
    augmented = []
    with _numpy_and_random_seeded(seed):
        for image in images.permute(0, 2, 3, 1).numpy():
            array = np.asarray(transform(Image.fromarray(image[..., 0] if channels == 1 else image)))
            augmented.append(array[..., None] if channels == 1 else array)
    return torch.from_numpy(np.stack(augmented)).permute(0, 3, 1, 2)
