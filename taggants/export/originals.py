"""Whether signed images can take the place of their originals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from taggants.data.image_codec import replaceable_shape
from taggants.data.signed_images import Signed
from taggants.data.source import ImageSource
from taggants.errors import InputError

_CHUNK = 512


def check_signed(source: ImageSource, signed: Signed) -> None:
    """Checks that every signed image can take the place of its original.

    Raises:
        InputError: there are none, a sample id is unknown, a shape differs, or an original cannot be replaced.
    """
    if not signed:
        raise InputError("There are no signed images to export; give at least one.")
    for sample_id, original in originals_of(source, sorted(int(i) for i in signed)):
        _check_fits(source, sample_id, original, signed[sample_id])


def originals_of(source: ImageSource, sample_ids: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Yields: sample id and encoded image, of which few are held at a time."""
    for start in range(0, len(sample_ids), _CHUNK):
        part = sample_ids[start : start + _CHUNK]
        yield from zip(part, source.read_encoded(part), strict=True)


def _check_fits(source: ImageSource, sample_id: int, original: bytes, image: NDArray[np.uint8]) -> None:
    num_channels, *size = _stored_shape(source, sample_id, original)
    place = source.place_of(sample_id)
    read_shape = (source.channels or num_channels, *size)
    if image.dtype != np.uint8 or image.shape != read_shape:
        raise InputError(
            f"The signed image for {place} is {image.dtype} of shape {image.shape}; give uint8 of shape {read_shape}."
        )
    if num_channels > len(image):
        raise InputError(f"{place} is RGB but was signed in greyscale; read the source with channels=3 or none.")
    if num_channels < len(image) and not (image == image[:1]).all():
        raise InputError(f"{place} is greyscale but its signed image has colours; keep its three channels equal.")


def _stored_shape(source: ImageSource, sample_id: int, original: bytes) -> tuple[int, int, int]:
    """Returns: (C, H, W) of an original that can be written again as it is."""
    try:
        return replaceable_shape(original)
    except InputError as error:
        raise InputError(f"{source.place_of(sample_id)}: {error}") from None
