"""Random draws of augmentations: a counter-based generator, one value for each (seed, step, view, stream, image id).

Each kind of augmentation has streams of its own, so that the draws of composed augmentations are unrelated:
CropAndFlip 0-2, RandomResizedCrop 16-38, ThreeAugment 48-49, ColourJitter 56-58, MixAugment 64-69.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_FACTOR, _OFFSET = 0x9E3779B1, 0x7F4A7C15
_Words = TypeVar("_Words", int, Tensor)


def _mix32(value: _Words) -> _Words:
    """The 32-bit finaliser of MurmurHash3 on an integer, or on each entry of an int64 tensor, in 0..2^32-1."""
    value = value ^ (value >> 16)
    value = (value * 0x85EBCA6B) & _MASK32
    value = value ^ (value >> 13)
    value = (value * 0xC2B2AE35) & _MASK32
    return value ^ (value >> 16)


def random_words(image_ids: Tensor, *, seed: int, step: int, view: int, streams: range) -> Tensor:
    """Returns int64 [len(streams), N] with values in 0..2^32-1: a hash of (seed, step, view, stream, image id).

    A counter-based generator in the manner of Salmon et al. (SC 2011), with the finaliser of MurmurHash3 as the mixing
    function; int64 arithmetic wraps alike on every device. It is for augmentation only: nothing secret comes from it.
    All streams are hashed in one pass, and no tensor is sent to the device, which would have to wait for it.

    Args:
        image_ids: int64 [N], each >= 0.
    """
    state = 0
    for word in (seed & _MASK32, (seed >> 32) & _MASK32, step, view):
        state = _mix32((state * _FACTOR + word + _OFFSET) & _MASK32)
    words = torch.arange(streams.start, streams.stop, device=image_ids.device)[:, None]
    words = _mix32((words + (state * _FACTOR + _OFFSET & _MASK32)) & _MASK32)
    for half in (image_ids & _MASK32, (image_ids >> 32) & _MASK32):
        words = _mix32((words * _FACTOR + half + _OFFSET) & _MASK32)
    return words


class Draws:
    """The draws of one call from the streams of one kind of augmentation."""

    def __init__(self, image_ids: Tensor, streams: range, *, seed: int, step: int, view: int) -> None:
        self._first = streams.start
        self._words = random_words(image_ids, seed=seed, step=step, view=view, streams=streams)

    def below(self, bound: int | Tensor, stream: int) -> Tensor:
        """Returns int64 [N], uniform in 0..bound-1; bound: below 2^31, one for all or int64 [N]."""
        return self._words[stream - self._first] * bound >> 32

    def fractions(self, first: int, count: int) -> Tensor:
        """Returns float64 [count, N], uniform over the multiples of 2^-32 in [0, 1), of `count` streams from `first` on."""
        return self._words[first - self._first : first - self._first + count].to(torch.float64) / 2**32
