"""Which images of a dataset can be signed: their files can be written again with other pixels and nothing else changed."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taggants.data.image_codec import (
    DECODE_ERRORS,
    has_alpha,
    is_jpeg,
    open_picture,
    plain_png_shape,
    replaceable_shape,
)
from taggants.data.jpeg import JpegLayout, jpeg_layout
from taggants.data.source import ImageSource
from taggants.errors import InputError
from taggants.limits import MOST_PIXELS

_HEADER_BYTES = 2**15  # holds the header of nearly every image; of others the whole file is read
NARROWEST_PX = 5  # libjpeg upsamples narrower chroma in another way than the codec of crafting
_ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True, eq=False)
class Fitness:
    """What the headers of the images say.

    Attributes:
        is_fit: bool [N], whether each image can be signed.
        is_turned: bool [N], whether EXIF says to turn it: some readers do (`datasets`), some do not (torchvision).
        reasons: how many cannot be signed, by reason, in words that follow "is".
    """

    is_fit: NDArray[np.bool_]
    is_turned: NDArray[np.bool_]
    reasons: Mapping[str, int]


def fitness_of(source: ImageSource) -> Fitness:
    """Reads the header of every image, and decodes none. Damage behind a header shows only in `problem_of`.

    Raises:
        InputError: a file of the source is missing or damaged.
    """
    is_fit, is_turned = np.ones(source.num_rows, bool), np.zeros(source.num_rows, bool)
    reasons: Counter[str] = Counter()
    for sample_id, start in enumerate(source.starts_in_order(_HEADER_BYTES)):
        if not _has_fit_header(start, source.channels):
            problem = problem_of(source.read_encoded([sample_id])[0], source.channels)
            if problem is not None:
                is_fit[sample_id] = False
                reasons[problem] += 1
                continue
        is_turned[sample_id] = _is_turned(start)
    return Fitness(is_fit, is_turned, dict(reasons.most_common()))


def problem_of(data: bytes, channels: int | None) -> str | None:
    """Returns: why an image cannot be signed, in words that follow "is"; None if it can.

    channels: how it is read, 1 or 3; None keeps those of the file. A greyscale JPEG may be read as three channels, since
    datasets mix both: its codec stores their mean.
    """
    try:
        num_channels = replaceable_shape(data)[0]
        layout = jpeg_layout(data) if is_jpeg(data) else None
        if layout is None and channels is None and has_alpha(data):
            return "a PNG with transparency, which only data.channels = 1 or 3 reads"
    except InputError as error:
        return str(error).partition(";")[0].removeprefix("the image is ").rstrip(".")
    return _problem_of_reading(num_channels, layout, channels)


def _has_fit_header(start: bytes, channels: int | None) -> bool:
    if is_jpeg(start):
        try:
            layout = jpeg_layout(start, only_headers=True)
        except InputError:
            return False
        is_small = layout.height * layout.width <= MOST_PIXELS
        return is_small and _problem_of_reading(layout.channels, layout, channels) is None
    shape = plain_png_shape(start)
    if shape is None or _problem_of_reading(shape[0], None, channels) is not None:
        return False
    if shape[1] * shape[2] > MOST_PIXELS or (channels is None and has_alpha(start)):
        return False
    position = 8
    while position + 8 <= len(start):  # an animation is announced before the pixels
        name = start[position + 4 : position + 8]
        if name in (b"IDAT", b"acTL"):
            return name == b"IDAT"
        position += 12 + int.from_bytes(start[position : position + 4])
    return False


def _problem_of_reading(num_channels: int, layout: JpegLayout | None, channels: int | None) -> str | None:
    if channels not in (None, num_channels) and not (layout is not None and (num_channels, channels) == (1, 3)):
        kind = "a greyscale" if num_channels == 1 else "an RGB"
        return f"{kind} {'PNG' if layout is None else 'JPEG'} but data.channels = {channels}"
    if layout is not None and layout.sampling[0][0] > 1 and layout.width < NARROWEST_PX:
        return f"a JPEG with subsampled chroma less than {NARROWEST_PX} px wide"
    return None


def _is_turned(start: bytes) -> bool:
    if b"Exif\0\0" not in start and b"eXIf" not in start:
        return False
    try:
        with warnings.catch_warnings(action="ignore"), open_picture(start) as picture:  # of corrupt EXIF, which is none
            return picture.getexif().get(_ORIENTATION, 1) not in (0, 1)
    except (InputError, *DECODE_ERRORS):
        return False


def fit_in_words(fitness: Fitness, num_rows: int) -> list[str]:
    """Returns: what cannot be signed and what is turned, in words; nothing if there is nothing to say."""
    lines = []
    if num_unfit := num_rows - int(fitness.is_fit.sum()):
        listed = "; ".join(f"{count} {reason}" for reason, count in itertools.islice(fitness.reasons.items(), 6))
        more = f"; {len(fitness.reasons) - 6} further reasons" if len(fitness.reasons) > 6 else ""
        lines.append(f"{num_unfit} of {num_rows} images cannot be signed and stay as they are: {listed}{more}")
    if num_turned := int(fitness.is_turned.sum()):
        lines.append(
            f"{num_turned} of {num_rows} images have an EXIF orientation, which some readers ignore: signed only where a "
            "class has no others left"
        )
    return lines
