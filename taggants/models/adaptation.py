"""A network that was trained elsewhere, among images and classes of ours: its own size, channels, normalisation and classes.

All of it happens inside the model and is differentiable any number of times, so that a surrogate may be such a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from taggants.errors import InputError
from taggants.limits import check_pixels

_LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601-2, as Pillow's mode "L"."""


@dataclass(frozen=True)
class Adaptation:
    """What the network itself takes and gives.

    channels: 1 or 3. image_size: height and width in pixels. mean, std: of pixels in [0, 1], one number for each channel.
    num_classes: of its own. columns: its class for each of ours; empty: they are the same.
    """

    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    columns: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        try:
            for name in ("mean", "std"):
                object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
            object.__setattr__(self, "columns", tuple(int(value) for value in self.columns))
        except (TypeError, ValueError) as error:
            raise InputError(f"{self} is no adaptation: {error}") from None
        counts = (self.channels, self.image_size, self.num_classes)
        if not all(type(count) is int and 1 <= count <= 10**6 for count in counts) or self.channels not in (1, 3):
            raise InputError(
                f"{self} is no adaptation: it needs whole numbers from 1 to 1,000,000, and 1 or 3 channels"
            )
        check_pixels(self.image_size, self.image_size, "what the network takes")
        if not len(self.mean) == len(self.std) == self.channels or not all(0 < std < float("inf") for std in self.std):
            raise InputError(f"{self} is no adaptation: each channel needs a mean, and a std above 0")
        if not all(0 <= column < self.num_classes for column in self.columns):
            raise InputError(f"{self} is no adaptation: columns must be classes of the network")


class AdaptedInput(nn.Module):
    """Maps pixels in [0, 1], [N, channels, size, size], to what a network takes: its channels, its size, normalised.

    Sizes differ by Pillow's bicubic filter (antialiased, clamped to [0, 1]) as two products of matrices, which is the same on
    every device and in every run; grey images are repeated, colours become their luma.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor
    resize: Tensor

    def __init__(self, channels: int, image_size: int, own: Adaptation) -> None:
        super().__init__()
        self._channels = (channels, own.channels)
        self.register_buffer("mean", torch.tensor(own.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(own.std).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("luma", torch.tensor(_LUMA).view(1, 3, 1, 1), persistent=False)
        self._is_resized = image_size != own.image_size
        matrix = _resize_matrix(image_size, own.image_size) if self._is_resized else torch.empty(0)
        self.register_buffer("resize", matrix, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 has fewer steps than a pixel
            if self._channels == (1, 3):
                images = images.expand(-1, 3, -1, -1)
            elif self._channels == (3, 1):
                images = (images * self.luma).sum(1, keepdim=True)
            if self._is_resized:
                images = (images @ self.resize.T).clamp(0, 1)  # Pillow rounds to bytes after each of both passes
                images = (self.resize @ images).clamp(0, 1)
            return (images - self.mean) / self.std


def _resize_matrix(old: int, new: int) -> Tensor:
    """[new, old], whose product with a column of pixels is the resized column."""
    along_rows = interpolate(torch.eye(old)[None, None], size=(old, new), mode="bicubic", antialias=True)
    return along_rows[0, 0].T.contiguous()


class ChosenClasses(nn.Module):
    """Scores [N, len(columns)] of the network's scores [N, num_classes]."""

    columns: Tensor

    def __init__(self, columns: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        return scores[:, self.columns]


def adapted(model: nn.Sequential, channels: int, image_size: int, own: Adaptation) -> nn.Sequential:
    """Returns a network behind its normalisation, as `ModelSource.build` gives it, for images of another kind."""
    parts: list[nn.Module] = [AdaptedInput(channels, image_size, own), model[1]]
    return nn.Sequential(*parts, ChosenClasses(own.columns)) if own.columns else nn.Sequential(*parts)
