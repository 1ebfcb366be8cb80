"""3-Augment and colour jitter, with their true derivatives (which exist almost everywhere)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taggants.augmentation.draws import Draws
from taggants.augmentation.geometry import heights_and_widths
from taggants.augmentation.resampling import blur_matrices, resample
from taggants.errors import InputError

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow's mode L
_GREYSCALE, _SOLARISE, _BLUR = range(3)
_SIGMA = (0.1, 2.0)  # pixels
_RADIUS = 8  # four of the largest sigma
_FIRST_STREAM_OF_THREE = 48
_FIRST_STREAM_OF_JITTER = 56


@dataclass(frozen=True)
class ThreeAugment:
    """One of greyscale, solarisation and Gaussian blur for each image, with a third each.

    Greyscale: ITU-R 601-2 luma in all channels; images of one channel stay as they are. Solarisation: min(x, 1 - x), which
    on 8-bit images is Pillow's with threshold 128 and has slope -1 above it. Blur: sigma uniform in [0.1, 2] pixels, a true
    Gaussian with the border pixel repeated, where Pillow has three box blurs.
    Source: Touvron, Cord, Jegou, "DeiT III" (ECCV 2022), section 4; timm's policy "3a". There it follows the crop; before it
    it costs more, as images are larger, and blurs less.
    """

    @property
    def output_size(self) -> None:
        """None: images keep their size."""
        return None

    def check(self, image_size: int) -> None:
        """Images of any size will do."""

    def __call__(
        self, images: Tensor, image_ids: Tensor, *, seed: int, step: int, view: int, sizes: Tensor | None = None
    ) -> Tensor:
        """Returns images of the same shape, in [0, 1]; see `Augmentation`.

        Raises:
            InputError: neither 1 nor 3 channels.
        """
        first = _FIRST_STREAM_OF_THREE
        draws = Draws(image_ids, range(first, first + 2), seed=seed, step=step, view=view)
        kind = draws.below(3, first)[:, None, None, None]
        sigma = _SIGMA[0] + (_SIGMA[1] - _SIGMA[0]) * draws.fractions(first + 1, 1)[0]
        rows, columns = (
            _blur_or_identity(sigma, size, kind[:, 0] == _BLUR, canvas, images.dtype)
            for size, canvas in zip(heights_and_widths(images, sizes), images.shape[2:], strict=True)
        )
        # Every image takes every path and keeps one: no count of images leaves the device.
        blurred = resample(images, rows, columns)
        solarised = torch.where(kind == _SOLARISE, torch.minimum(images, 1 - images), blurred)
        return torch.where(kind == _GREYSCALE, luma(images), solarised)


def _blur_or_identity(sigma: Tensor, sizes: Tensor, blurs: Tensor, size_in: int, dtype: torch.dtype) -> Tensor:
    matrices = blur_matrices(sigma, sizes, size_in=size_in, radius=_RADIUS, dtype=dtype)
    return torch.where(blurs, matrices, torch.eye(size_in, dtype=dtype, device=sigma.device))


@dataclass(frozen=True)
class ColourJitter:
    """Brightness, then contrast, then saturation, each scaled by a factor uniform in [1 - strength, 1 + strength].

    strength: in [0, 1]; 0.3 in the paper's victim recipe. After each of the three, values are cut to [0, 1] (slope 0 outside).
    Unlike torchvision's `ColorJitter`, the order is fixed, and the mean grey of the contrast is not rounded to 8 bits.
    Saturation leaves images of one channel as they are.
    """

    strength: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise InputError(f"colour jitter {self.strength:g} must lie in [0, 1]; for example 0.3")

    @property
    def output_size(self) -> None:
        """None: images keep their size."""
        return None

    def check(self, image_size: int) -> None:
        """Images of any size will do."""

    def factors(self, image_ids: Tensor, *, seed: int, step: int, view: int) -> Tensor:
        """Returns float64 [3, N]: the factors of brightness, contrast and saturation."""
        first = _FIRST_STREAM_OF_JITTER
        fractions = Draws(image_ids, range(first, first + 3), seed=seed, step=step, view=view).fractions(first, 3)
        return 1 + self.strength * (2 * fractions - 1)

    def __call__(
        self, images: Tensor, image_ids: Tensor, *, seed: int, step: int, view: int, sizes: Tensor | None = None
    ) -> Tensor:
        """Returns images of the same shape, in [0, 1]; see `Augmentation`.

        Raises:
            InputError: neither 1 nor 3 channels.
        """
        factors = self.factors(image_ids, seed=seed, step=step, view=view).to(images.dtype)
        brightness, contrast, saturation = factors[:, :, None, None, None].unbind()
        images = (brightness * images).clamp(0, 1)
        mean = _mean_inside(luma(images), sizes)
        images = (mean + contrast * (images - mean)).clamp(0, 1)
        grey = luma(images)
        return (grey + saturation * (images - grey)).clamp(0, 1)


def luma(images: Tensor) -> Tensor:
    """Returns the ITU-R 601-2 luma [N, 1, H, W] of images [N, 3, H, W]; images of one channel as they are.

    Raises:
        InputError: neither 1 nor 3 channels.
    """
    channels = images.shape[1]
    if channels == 1:
        return images
    if channels != 3:
        raise InputError(f"colour augmentation needs images of 1 or 3 channels, not {channels}; convert them")
    red, green, blue = images.unbind(dim=1)
    grey: Tensor = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return grey[:, None]


def _mean_inside(grey: Tensor, sizes: Tensor | None) -> Tensor:
    """The mean [N, 1, 1, 1] of images [N, 1, H, W], each over its own size."""
    if sizes is None:
        return grey.mean(dim=(2, 3), keepdim=True)
    rows, columns = (torch.arange(size, device=grey.device) for size in grey.shape[2:])
    inside = (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])
    total = torch.where(inside[:, None], grey, 0).sum(dim=(2, 3), keepdim=True)
    return total / sizes.prod(dim=1).to(grey.dtype)[:, None, None, None]
