"""What a reader of a stored image sees, as a differentiable function of the image that was to be stored.

A codec is bound to one signing set and stands in the crafting loop where the file format stands in the world. Images are
floats in [0, 1] on one canvas [n, C, H, W], each at the top left with its own height and width; beyond an image the
canvas holds nothing of its own: what a codec is given there is ignored, what it returns there repeats the border.

The value is exact, the derivative straight-through: that of the same steps without any rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from taggants.perturbation import round_to_8_bits, to_uint8

_Self = TypeVar("_Self", bound="Codec")


class Codec(Protocol):
    """`to_uint8(codec(x, rows))` is what a reader gets once `codec.to_stored(x, rows)` has been stored."""

    def __call__(self, images: Tensor, rows: slice) -> Tensor:
        """Returns what readers see of images [n, C, H, W] in [0, 1], which are those in `rows` of the set; like `images`."""

    def to_stored(self, images: Tensor, rows: slice) -> Tensor:
        """Returns uint8 [n, C, H, W]: the pixels to hand to the encoder. Beyond an image they mean nothing."""

    def to(self: _Self, device: torch.device | str) -> _Self:
        """Returns the same codec for images on another device."""


@dataclass(frozen=True, eq=False)
class LosslessCodec:
    """Lossless files of 8 bits, such as PNG: `perturbation.round_to_8_bits`.

    sizes: int64 [N, 2], height and width of each image; None if they all fill the canvas.
    """

    sizes: Tensor | None = None

    def __call__(self, images: Tensor, rows: slice) -> Tensor:
        rounded = round_to_8_bits(images)
        return rounded if self.sizes is None else _repeat_border(rounded, self.sizes[rows])

    def to_stored(self, images: Tensor, rows: slice) -> Tensor:
        return to_uint8(images)

    def to(self, device: torch.device | str) -> LosslessCodec:
        return LosslessCodec(None if self.sizes is None else self.sizes.to(device))


@dataclass(frozen=True, eq=False)
class JpegCodec:
    """JPEG as libjpeg-turbo encodes and decodes it by default, hence as Pillow and torchvision do, bit for bit: YCbCr
    after BT.601 in full range, box averages of the chroma, accurate integer DCT, "fancy" (triangle) upsampling.

    The integers stay below 2^53, so float64 holds each of them exactly whatever the order of sums; no kernel, device or
    batch changes the result. Not exact for subsampled images less than 5 wide, which libjpeg upsamples by repetition.

    Derivative: without roundings and clippings the DCT and its inverse cancel, and what is left is the identity for
    4:4:4 and greyscale; with subsampled chroma it is the chroma's averaging and upsampling. A coefficient that
    quantisation sets to zero thus keeps its derivative: small steps may add up until it survives.

    Attributes:
        tables: int64 [N, C, 8, 8], quantisation of each component; C = 1 for greyscale files. Those may be read as three
            equal channels: the mean of the channels is stored, so the derivative by each of the three is equal.
        sampling: (horizontal, vertical) of the luma over the chroma: (1, 1), (2, 1) or (2, 2).
        sizes: int64 [N, 2], height and width of each image.
    """

    tables: Tensor
    sampling: tuple[int, int]
    sizes: Tensor

    def __post_init__(self) -> None:
        assert self.sampling in ((1, 1), (2, 1), (2, 2)), self.sampling
        assert self.tables.shape == (len(self.sizes), self.tables.shape[1], 8, 8), self.tables.shape
        assert self.tables.shape[1] == 3 or self.sampling == (1, 1), (self.tables.shape, self.sampling)

    def __call__(self, images: Tensor, rows: slice) -> Tensor:
        sizes = self.sizes[rows]
        smooth = self._without_rounding(images, sizes)
        with torch.no_grad():
            levels = self.to_stored(images, rows).to(torch.float64)[:, : self.tables.shape[1]]
            seen = self._decoded(levels, self.tables[rows].to(torch.float64), sizes) / 255
        return _repeat_border(smooth + (seen.to(images.dtype) - smooth.detach()), sizes)

    def to_stored(self, images: Tensor, rows: slice) -> Tensor:
        return to_uint8(self._in_stored_channels(images)).expand(images.shape)

    def to(self, device: torch.device | str) -> JpegCodec:
        return dataclasses.replace(self, tables=self.tables.to(device), sizes=self.sizes.to(device))

    def _in_stored_channels(self, images: Tensor) -> Tensor:
        assert images.shape[1] in (self.tables.shape[1], 3), images.shape
        return images.mean(dim=1, keepdim=True) if self.tables.shape[1] == 1 else images

    def _without_rounding(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Returns the image through all steps without rounding, [n, C, H, W] like `images`."""
        stored = self._in_stored_channels(images)
        if self.sampling == (1, 1):
            return stored.expand(images.shape)
        height, width = images.shape[2:]
        across, down = self.sampling
        to_ycbcr = _constant(_RGB_TO_YCBCR, images.dtype, images.device) / 2**16
        from_cbcr = _constant(_CBCR_TO_RGB, images.dtype, images.device) / 2**16
        chroma = torch.einsum("kc,nchw->nkhw", to_ycbcr[1:], _repeat_border(_padded(images, down, across), sizes))
        averaged = F.avg_pool2d(chroma, (down, across))
        averaged = _repeat_border(averaged, _chroma_sizes(sizes, self.sampling))
        change = _upsampled(averaged, self.sampling, is_rounded=False) - chroma
        return images + torch.einsum("ck,nkhw->nchw", from_cbcr, change[:, :, :height, :width])

    def _decoded(self, levels: Tensor, tables: Tensor, sizes: Tensor) -> Tensor:
        """Returns levels in 0..255, [n, C, H, W], after encoding and decoding; float64 with whole values, as all here."""
        height, width = levels.shape[2:]
        across, down = self.sampling
        levels = _repeat_border(_padded(levels, 8 * down, 8 * across), sizes)
        if levels.shape[1] == 1:
            return _quantised(levels, tables)[:, :, :height, :width]
        to_ycbcr, from_cbcr = (_constant(m, levels.dtype, levels.device) for m in (_RGB_TO_YCBCR, _CBCR_TO_RGB))
        ycbcr = _shifted(torch.einsum("kc,nchw->nkhw", to_ycbcr, levels), _YCBCR_OFFSET, 16)
        luma, chroma = ycbcr[:, :1], ycbcr[:, 1:]
        luma = _quantised(luma, tables[:, :1])
        chroma_sizes = _chroma_sizes(sizes, self.sampling)
        # The encoder repeats the right border before it averages, the lower one after.
        chroma = _repeat_rows(_averaged(chroma, self.sampling), chroma_sizes)
        chroma = _repeat_border(_quantised(chroma, tables[:, 1:]), chroma_sizes)
        chroma = _upsampled(chroma, self.sampling, is_rounded=True) - 128
        change = _shifted(torch.einsum("ck,nkhw->nchw", from_cbcr, chroma), 2**15, 16)
        return (luma + change).clamp(0, 255)[:, :, :height, :width]


@dataclass(frozen=True, eq=False)
class GroupedCodec:
    """A set whose images are stored in different ways: each group of rows has a codec of its own.

    members: per codec int64 [n_i] on the CPU, rising: the rows of the set that its own rows 0, 1, ... are.
    places: the same on the device of the images; None where that is the CPU.
    """

    codecs: tuple[Codec, ...]
    members: tuple[Tensor, ...]
    places: tuple[Tensor, ...] | None = None

    def __call__(self, images: Tensor, rows: slice) -> Tensor:
        return self._by_group(images, rows, [codec.__call__ for codec in self.codecs])

    def to_stored(self, images: Tensor, rows: slice) -> Tensor:
        return self._by_group(images, rows, [codec.to_stored for codec in self.codecs])

    def to(self, device: torch.device | str) -> GroupedCodec:
        places = tuple(members.to(device) for members in self.members)
        return GroupedCodec(tuple(codec.to(device) for codec in self.codecs), self.members, places)

    def _by_group(self, images: Tensor, rows: slice, functions: Sequence[_OfRows]) -> Tensor:
        start, stop, _ = rows.indices(sum(len(members) for members in self.members))
        results, places = [], []
        for function, members, on_device in zip(functions, self.members, self.places or self.members, strict=True):
            first, last = torch.searchsorted(members, torch.tensor([start, stop])).tolist()
            if first < last:
                place = on_device[first:last] - start
                results.append(function(images[place], slice(first, last)))
                places.append(place)
        return torch.cat(results)[torch.cat(places).argsort()]


class _OfRows(Protocol):
    def __call__(self, images: Tensor, rows: slice) -> Tensor: ...


# Weights in units of 2^-16 (jccolor.c, jdcolor.c) and what is added before the division.
_RGB_TO_YCBCR = ((19595, 38470, 7471), (-11059, -21709, 32768), (32768, -27439, -5329))
_YCBCR_OFFSET = (2**15, (128 << 16) + 2**15 - 1, (128 << 16) + 2**15 - 1)
_CBCR_TO_RGB = ((0, 91881), (-22554, -46802), (116130, 0))
# Left half of the 8-point DCT in units of 2^-13 / sqrt(8) (jfdctint.c with its sums multiplied out: it rounds nowhere
# before the end of a pass). The right half mirrors it, with the sign changed in odd rows. Its transpose is jidctint.c.
_HALF_DCT = (
    (8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703),
    (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433),
    (2260, -6436, 9633, -11363),
)
_DCT = tuple((*half, *((-1) ** row * value for value in half[::-1])) for row, half in enumerate(_HALF_DCT))


@lru_cache(maxsize=64)
def _constant(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept on the device, which would have to wait for it at every step."""
    return torch.tensor(values, dtype=dtype, device=device)


def _shifted(values: Tensor, offset: int | tuple[int, ...], bits: int) -> Tensor:
    """Returns floor((values + offset) / 2^bits); an offset per channel of [n, C, H, W] or one for all."""
    added = offset if isinstance(offset, int) else _constant(offset, values.dtype, values.device).view(-1, 1, 1)
    return torch.floor((values + added) / 2**bits)


def _quantised(planes: Tensor, tables: Tensor) -> Tensor:
    """Returns planes [n, c, H, W] of levels after DCT, quantisation by tables [n, c, 8, 8], and back; H, W multiples of 8.

    The transform rounds after each of its two passes, rows first; its results are 8 times the coefficients.
    """
    dct = _constant(_DCT, planes.dtype, planes.device)  # [frequency, place]
    height, width = planes.shape[2:]
    blocks = planes.reshape(*planes.shape[:2], height // 8, 8, width // 8, 8).transpose(3, 4) - 128
    rows = _shifted(blocks @ dct.T, 2**10, 11)
    coefficients = _shifted(dct @ rows, 2**14, 15)
    steps = tables[:, :, None, None]
    # To the nearest, halves away from zero.
    multiples = coefficients.sign() * torch.floor((coefficients.abs() + 4 * steps) / (8 * steps))
    columns = _shifted(dct.T @ (multiples * steps), 2**10, 11)
    blocks = (_shifted(columns @ dct, 2**17, 18) + 128).clamp(0, 255)
    return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def _averaged(chroma: Tensor, sampling: tuple[int, int]) -> Tensor:
    """Returns the box averages of whole levels; halves are rounded down and up by turns from column to column."""
    across, down = sampling
    if sampling == (1, 1):
        return chroma
    sums = F.avg_pool2d(chroma, (down, across), divisor_override=1)
    by_turns = torch.arange(sums.shape[3], dtype=sums.dtype, device=sums.device) % 2
    return torch.floor((sums + by_turns + (down - 1)) / (across * down))


def _upsampled(planes: Tensor, sampling: tuple[int, int], *, is_rounded: bool) -> Tensor:
    """Returns planes [n, c, H, W] at the luma's resolution: per doubled axis 3/4 of the nearer and 1/4 of the farther of
    two neighbours; whole levels are rounded as libjpeg does. Where planes repeat their border, so does the result."""
    across, down = sampling
    if down == 2:
        planes = _doubled(planes, 2)
    if across == 2:
        planes = _doubled(planes, 3)
    total = (across * down) ** 2  # of the weights
    if not is_rounded or sampling == (1, 1):
        return planes / total
    by_turns = torch.arange(planes.shape[3], dtype=planes.dtype, device=planes.device) % 2
    half = by_turns + 1 if down == 1 else 8 - by_turns
    return torch.floor((planes + half) / total)


def _doubled(planes: Tensor, dim: int) -> Tensor:
    """Returns 3 * nearer + farther neighbour, twice as long along `dim`; beyond its ends the planes repeat."""
    length = planes.shape[dim]
    before = torch.cat([planes.narrow(dim, 0, 1), planes.narrow(dim, 0, length - 1)], dim)
    after = torch.cat([planes.narrow(dim, 1, length - 1), planes.narrow(dim, length - 1, 1)], dim)
    return torch.stack([3 * planes + before, 3 * planes + after], dim + 1).flatten(dim, dim + 1)


def _chroma_sizes(sizes: Tensor, sampling: tuple[int, int]) -> Tensor:
    divisors = _constant(sampling[::-1], sizes.dtype, sizes.device)
    return (sizes + (divisors - 1)) // divisors


def _padded(images: Tensor, down: int, across: int) -> Tensor:
    """Returns images with zeros below and to the right up to a height divisible by `down` and a width by `across`."""
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % across, 0, -height % down))


def _repeat_border(planes: Tensor, sizes: Tensor) -> Tensor:
    """Returns planes [n, c, H, W] with each image's last row and column, by sizes [n, 2], in place of all beyond."""
    last = (sizes[:, 1] - 1).view(-1, 1, 1, 1).expand(-1, *planes.shape[1:3], 1)
    is_beyond = torch.arange(planes.shape[3], device=planes.device) >= sizes[:, 1, None, None, None]
    return _repeat_rows(torch.where(is_beyond, planes.gather(3, last), planes), sizes)


def _repeat_rows(planes: Tensor, sizes: Tensor) -> Tensor:
    # One gather of distinct places, not one per place beyond: its backward adds nothing up, in whatever order.
    last = (sizes[:, 0] - 1).view(-1, 1, 1, 1).expand(-1, planes.shape[1], 1, planes.shape[3])
    is_beyond = torch.arange(planes.shape[2], device=planes.device)[:, None] >= sizes[:, 0, None, None, None]
    return torch.where(is_beyond, planes.gather(2, last), planes)
