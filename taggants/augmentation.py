"""Differentiable augmentations whose draws are a pure function of (unit seed, step, view, image id).

No draw depends on global generator state, on the order of images or on the microbatch, so the second pass of a crafting
step replays the first one's, and a resumed or moved shard computes the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taggants.errors import InputError

_MASK32 = 0xFFFFFFFF


def _mix32(value: Tensor) -> Tensor:
    """The 32-bit finaliser of MurmurHash3 on each entry of an int64 tensor with values in 0..2^32-1."""
    value = value ^ (value >> 16)
    value = (value * 0x85EBCA6B) & _MASK32
    value = value ^ (value >> 13)
    value = (value * 0xC2B2AE35) & _MASK32
    return value ^ (value >> 16)


def random_words(image_ids: Tensor, *, seed: int, step: int, view: int, stream: int) -> Tensor:
    """Returns int64 [N] with values in 0..2^32-1: a hash of (seed, step, view, stream, image id) for each image.

    A counter-based generator in the manner of Salmon et al. (SC 2011), with the finaliser of MurmurHash3 as the mixing
    function; int64 arithmetic wraps alike on every device. It is for augmentation only: nothing secret comes from it.

    Args:
        image_ids: int64 [N], each >= 0.
    """
    state = torch.zeros_like(image_ids)
    for word in (seed & _MASK32, (seed >> 32) & _MASK32, step, view, stream):
        state = _mix32((state * 0x9E3779B1 + word + 0x7F4A7C15) & _MASK32)
    for part in (image_ids & _MASK32, (image_ids >> 32) & _MASK32):
        state = _mix32((state * 0x9E3779B1 + part + 0x7F4A7C15) & _MASK32)
    return state


@dataclass(frozen=True)
class CropAndFlip:
    """Random crop to the image's own size after reflect padding, and random horizontal flip.

    padding: pixels on each side, 0..image_size-1. flip: whether half of the draws are mirrored.
    Source: the augmentation of gradient matching (Geiping et al., ICLR 2021, section 3.4) and of plain CIFAR training.
    """

    padding: int
    flip: bool

    def check(self, image_size: int) -> None:
        """Raises InputError unless the padding is below the image size: reflection has no more pixels than that."""
        if self.padding >= image_size:
            raise InputError(f"crop padding {self.padding} must be below the image size {image_size}; lower it")

    def __call__(self, images: Tensor, image_ids: Tensor, *, seed: int, step: int, view: int) -> Tensor:
        """Returns augmented images, differentiable in `images`; any range, same shape.

        Args:
            images: float [N, C, H, W].
            image_ids: int64 [N], on the device of `images`.
            seed, step, view: what the draws are a function of, with the image id.

        Raises:
            InputError: padding not below the image size.
        """
        height, width = images.shape[-2:]
        self.check(min(height, width))
        if self.padding == 0 and not self.flip:
            return images

        def draw(stream: int, bound: int) -> Tensor:
            return random_words(image_ids, seed=seed, step=step, view=view, stream=stream) * bound >> 32

        rows = _reflect(
            torch.arange(height, device=images.device) + draw(0, 2 * self.padding + 1)[:, None] - self.padding, height
        )
        columns = torch.arange(width, device=images.device).expand(len(images), width)
        if self.flip:
            columns = torch.where(draw(2, 2)[:, None] == 1, width - 1 - columns, columns)
        columns = _reflect(columns + draw(1, 2 * self.padding + 1)[:, None] - self.padding, width)
        shape = images.shape
        images = images.gather(2, rows[:, None, :, None].expand(shape))
        return images.gather(3, columns[:, None, None, :].expand(shape))


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Positions outside 0..size-1 are mirrored at the border pixels (the border itself is not repeated)."""
    positions = positions.abs()
    return torch.where(positions >= size, 2 * (size - 1) - positions, positions)
