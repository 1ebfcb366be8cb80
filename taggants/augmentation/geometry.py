"""Crops, resizes and mirror images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from taggants.augmentation.draws import Draws
from taggants.augmentation.resampling import resample, resampling_matrices
from taggants.errors import InputError


@dataclass(frozen=True)
class CropAndFlip:
    """Random crop to the image's own size after reflect padding, and random horizontal flip.

    padding: pixels on each side, 0..image_size-1. flip: whether half of the draws are mirrored.
    Source: the augmentation of gradient matching (Geiping et al., ICLR 2021, section 3.4) and of plain CIFAR training.
    """

    padding: int
    flip: bool

    @property
    def output_size(self) -> None:
        """None: images keep their size."""
        return None

    def check(self, image_size: int) -> None:
        """Raises InputError unless the padding is below the image size: reflection has no more pixels than that."""
        if self.padding >= image_size:
            raise InputError(f"crop padding {self.padding} must be below the image size {image_size}; lower it")

    def __call__(
        self, images: Tensor, image_ids: Tensor, *, seed: int, step: int, view: int, sizes: Tensor | None = None
    ) -> Tensor:
        """Returns augmented images, differentiable in `images`; any range, same shape.

        Args:
            images: float, or uint8, [N, C, H, W].
            image_ids: int64 [N], on the device of `images`.
            seed, step, view: what the draws are a function of, with the image id.
            sizes: None: all images have one size.

        Raises:
            InputError: padding not below the image size, or sizes given.
        """
        if sizes is not None:
            raise InputError("crop padding needs images of one size; resize them first")
        height, width = images.shape[-2:]
        self.check(min(height, width))
        if self.padding == 0 and not self.flip:
            return images

        draws = Draws(image_ids, range(3), seed=seed, step=step, view=view)
        rows = _reflect(
            torch.arange(height, device=images.device) + draws.below(2 * self.padding + 1, 0)[:, None] - self.padding,
            height,
        )
        columns = torch.arange(width, device=images.device).expand(len(images), width)
        if self.flip:
            columns = torch.where(draws.below(2, 2)[:, None] == 1, width - 1 - columns, columns)
        columns = _reflect(columns + draws.below(2 * self.padding + 1, 1)[:, None] - self.padding, width)
        shape = images.shape
        images = images.gather(2, rows[:, None, :, None].expand(shape))
        return images.gather(3, columns[:, None, None, :].expand(shape))


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Positions outside 0..size-1 are mirrored at the border pixels (the border itself is not repeated)."""
    positions = positions.abs()
    return torch.where(positions >= size, 2 * (size - 1) - positions, positions)


@dataclass(frozen=True)
class Windows:
    """One window for each image: top, left, height, width int64 [N] in pixels; flip: bool [N]."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor


_FIRST_STREAM_OF_WINDOWS = 16
_NUM_TRIES = 10


@dataclass(frozen=True)
class _ToSquare:
    """Takes images of any size; image_size: pixels that come out on each side."""

    image_size: int

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise InputError(f"image size {self.image_size} of a crop must be at least 1 pixel; for example 224")

    @property
    def output_size(self) -> int:
        return self.image_size

    def check(self, image_size: int) -> None: ...


@dataclass(frozen=True)
class RandomResizedCrop(_ToSquare):
    """A random window of the image, resized to a square, and random horizontal flip.

    image_size: pixels that come out on each side. scale: range of the window's share of the image's area, uniform.
    ratio: range of width / height, uniform in the logarithm. flip: whether half of the draws are mirrored.
    Source: torchvision's `RandomResizedCrop` (Szegedy et al., CVPR 2015), with its ten tries and its central window after
    them, antialiased bilinear. Unlike it, the result is not rounded to 8 bits.
    """

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"crop scale {list(self.scale)} must increase within (0, 1]; for example [0.35, 1]")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise InputError(f"crop ratio {list(self.ratio)} must increase and be above 0; for example [0.75, 1.33]")

    def windows(
        self, heights: Tensor, widths: Tensor, image_ids: Tensor, *, seed: int, step: int, view: int
    ) -> Windows:
        """Returns the windows drawn for images of `heights` and `widths`, int64 [N]."""
        first = _FIRST_STREAM_OF_WINDOWS
        draws = Draws(image_ids, range(first, first + 2 * _NUM_TRIES + 3), seed=seed, step=step, view=view)
        areas, ratios = draws.fractions(first, 2 * _NUM_TRIES).chunk(2)  # each [tries, N]
        areas = heights * widths * (self.scale[0] + (self.scale[1] - self.scale[0]) * areas)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratios = torch.exp(low + (high - low) * ratios)
        tried_widths = torch.sqrt(areas * ratios).round().long()
        tried_heights = torch.sqrt(areas / ratios).round().long()
        fits = (tried_widths > 0) & (tried_widths <= widths) & (tried_heights > 0) & (tried_heights <= heights)
        chosen = fits.int().argmax(dim=0, keepdim=True)  # the first try that fits
        some_fit = fits.any(dim=0)
        # If none does: the largest central window with a permitted ratio.
        central_heights = torch.minimum(heights, (widths / self.ratio[0]).round().long())
        central_widths = torch.minimum(widths, (heights * self.ratio[1]).round().long())
        window_heights = torch.where(some_fit, tried_heights.gather(0, chosen)[0], central_heights)
        window_widths = torch.where(some_fit, tried_widths.gather(0, chosen)[0], central_widths)
        spare_rows, spare_columns = heights - window_heights, widths - window_widths
        top, left = (
            draws.below(spare + 1, first + 2 * _NUM_TRIES + i) for i, spare in enumerate((spare_rows, spare_columns))
        )
        return Windows(
            top=torch.where(some_fit, top, spare_rows // 2),
            left=torch.where(some_fit, left, spare_columns // 2),
            height=window_heights,
            width=window_widths,
            flip=draws.below(2 if self.flip else 1, first + 2 * _NUM_TRIES + 2) == 1,
        )

    def __call__(
        self, images: Tensor, image_ids: Tensor, *, seed: int, step: int, view: int, sizes: Tensor | None = None
    ) -> Tensor:
        """Returns [N, C, image_size, image_size]; see `Augmentation`."""
        heights, widths = heights_and_widths(images, sizes)
        drawn = self.windows(heights, widths, image_ids, seed=seed, step=step, view=view)

        def matrices(start: Tensor, length: Tensor, size_in: int, flip: Tensor | None = None) -> Tensor:
            # The crop comes before the resize: no pixel beyond the window is read.
            return resampling_matrices(
                start.double(),
                length.double(),
                start,
                start + length,
                size_in=size_in,
                size_out=self.image_size,
                flip=flip,
                dtype=images.dtype,
            )

        rows = matrices(drawn.top, drawn.height, images.shape[2])
        columns = matrices(drawn.left, drawn.width, images.shape[3], drawn.flip)
        return resample(images, rows, columns)


@dataclass(frozen=True)
class ResizeAndCentreCrop(_ToSquare):
    """The shorter side resized to floor(image_size / crop_fraction), then the central square: the usual evaluation transform.

    image_size: pixels that come out on each side. crop_fraction: in (0, 1]; 0.875 is 256 -> 224.
    Source: timm's `create_transform(is_training=False)`, antialiased bilinear. Deterministic, not rounded to 8 bits.
    """

    crop_fraction: float = 0.875

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.crop_fraction <= 1:
            raise InputError(f"crop fraction {self.crop_fraction:g} must lie in (0, 1]; for example 0.875")

    def __call__(
        self, images: Tensor, image_ids: Tensor, *, seed: int, step: int, view: int, sizes: Tensor | None = None
    ) -> Tensor:
        """Returns [N, C, image_size, image_size], whatever the ids, seed, step and view; see `Augmentation`."""
        heights, widths = heights_and_widths(images, sizes)
        shorter = torch.minimum(heights, widths)
        resized_shorter = math.floor(self.image_size / self.crop_fraction)

        def matrices(size: Tensor, size_in: int) -> Tensor:
            resized = resized_shorter * size // shorter
            scale = size.double() / resized
            offset = ((resized - self.image_size).double() / 2).round()  # ties to even, as in torchvision
            return resampling_matrices(
                offset * scale,
                self.image_size * scale,
                torch.zeros_like(size),
                size,
                size_in=size_in,
                size_out=self.image_size,
                dtype=images.dtype,
            )

        return resample(images, matrices(heights, images.shape[2]), matrices(widths, images.shape[3]))


def heights_and_widths(images: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns the height and width of each image on the canvas, int64 [N] each; without sizes, the canvas's."""
    if sizes is not None:
        assert sizes.shape == (len(images), 2), sizes.shape
        return sizes[:, 0], sizes[:, 1]
    height, width = images.shape[-2:]
    whole = torch.ones(len(images), dtype=torch.int64, device=images.device)
    return height * whole, width * whole
