"""Differentiable augmentations whose draws are a pure function of (unit seed, step, view, image id).

No draw depends on global generator state, on the order of images or on the microbatch, so the second pass of a crafting
step replays the first one's, and a resumed or moved shard computes the same images.
"""

from taggants.augmentation.colour import ColourJitter, ThreeAugment
from taggants.augmentation.composition import Augmentation, Compose
from taggants.augmentation.draws import random_words
from taggants.augmentation.geometry import CropAndFlip, RandomResizedCrop, ResizeAndCentreCrop
from taggants.augmentation.mixing import MixAugment, Mixing

__all__ = [
    "Augmentation",
    "ColourJitter",
    "Compose",
    "CropAndFlip",
    "MixAugment",
    "Mixing",
    "RandomResizedCrop",
    "ResizeAndCentreCrop",
    "ThreeAugment",
    "random_words",
]
