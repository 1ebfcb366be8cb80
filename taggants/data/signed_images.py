"""Signed images in the place of their originals: how they are stored, and whether they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from taggants.data.image_codec import decode_image, encode_like, is_jpeg, replaceable_shape, without_pixels
from taggants.errors import InputError

Signed: TypeAlias = Mapping[int, NDArray[np.uint8]]  # images [C, H, W] by sample id, or by row in a file


def replaced(original: bytes, image: NDArray[np.uint8]) -> bytes:
    """Returns: the signed image in a file like its original, in the channels of that."""
    return encode_like(image[: replaceable_shape(original)[0]], like=original)


def is_replaced(original: bytes, data: bytes, image: NDArray[np.uint8]) -> bool:
    """Returns: whether `data` is the original but for the pixels, and reads as the image does once it is stored there."""
    try:
        # By pixels, not bytes: another version of the encoder may write the same pixels otherwise.
        expected = image[: replaceable_shape(original)[0]]
        if is_jpeg(original):
            expected = decode_image(encode_like(expected, like=original))
        return without_pixels(data) == without_pixels(original) and np.array_equal(decode_image(data), expected)
    except InputError:  # it cannot be read
        return False
