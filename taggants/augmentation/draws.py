"""Random draws of augmentations: a counter-based generator, one value for each (seed, step, view, stream, image id).

Each kind of augmentation has streams of its own, so that the draws of composed augmentations are unrelated:
CropAndFlip 0-2, RandomResizedCrop 16-38, ThreeAugment 48-49, ColourJitter 56-58, MixAugment 64-69.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_Words = TypeVar("_Words", int, Tensor)


def _mix32(value: _Words) -> _Words:
    """The 32-bit finaliser of MurmurHash3 on an integer, or on each entry of an int64 tensor, in 0..2^32-1."""
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
    return _absorb_ids(_stream_state(seed, step, view, stream), image_ids)


def random_fractions(image_ids: Tensor, *, seed: int, step: int, view: int, streams: Sequence[int]) -> Tensor:
    """Returns float64 [len(streams), N], uniform over the multiples of 2^-32 in [0, 1): `random_words` / 2^32."""
    # [K, 1] against [N]: all streams in one pass, which spares a GPU some hundred launches.
    states = torch.tensor([[_stream_state(seed, step, view, stream)] for stream in streams], dtype=torch.int64)
    return _absorb_ids(states.to(image_ids.device), image_ids).to(torch.float64) / 2**32


@dataclass(frozen=True)
class Draws:
    """The draws of one call: image_ids int64 [N] and what else they are a function of."""

    image_ids: Tensor
    seed: int
    step: int
    view: int

    def below(self, bound: int | Tensor, stream: int) -> Tensor:
        """Returns int64 [N], uniform in 0..bound-1; bound: below 2^31, one for all or int64 [N]."""
        words = random_words(self.image_ids, seed=self.seed, step=self.step, view=self.view, stream=stream)
        return words * bound >> 32

    def fractions(self, *streams: int) -> Tensor:
        """Returns float64 [len(streams), N], uniform in [0, 1)."""
        return random_fractions(self.image_ids, seed=self.seed, step=self.step, view=self.view, streams=streams)


def _stream_state(seed: int, step: int, view: int, stream: int) -> int:
    state = 0
    for word in (seed & _MASK32, (seed >> 32) & _MASK32, step, view, stream):
        state = _mix32((state * 0x9E3779B1 + word + 0x7F4A7C15) & _MASK32)
    return state


def _absorb_ids(state: int | Tensor, image_ids: Tensor) -> Tensor:
    words = state * 0x9E3779B1 & _MASK32
    words = _mix32((words + (image_ids & _MASK32) + 0x7F4A7C15) & _MASK32)
    return _mix32((words * 0x9E3779B1 + ((image_ids >> 32) & _MASK32) + 0x7F4A7C15) & _MASK32)
