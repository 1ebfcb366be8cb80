"""New images in the place of their originals: how they are stored, and whether they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from taggants.data.image_codec import (
    alpha_of,
    decode_image,
    encode_like,
    encode_png,
    is_jpeg,
    plain_png_shape,
    png_setting,
    replaceable_shape,
    without_credentials,
    without_pixels,
)
from taggants.data.png import PILLOW_DEFAULT, PngSetting
from taggants.data.stored_hashes import HashPolicy, changed_hashes
from taggants.errors import InputError

Signed: TypeAlias = Mapping[int, NDArray[np.uint8]]  # images [C, H, W] by sample id


@dataclass(frozen=True)
class ImageStorage:
    """How an export stores images and what lies beside them, so that those which are signed do not stand out.

    Attributes:
        png_settings: of the encoders that wrote the dataset's PNG, the likeliest first.
        reencodes_png: write all plain PNG alike, with the same pixels, instead of each signed one as its original was.
        strips_credentials: of all images.
        hashes: what becomes of stored hashes of the images: "recompute" those of changed images, "strip" all; "refuse":
            there are none.
    """

    png_settings: tuple[PngSetting, ...] = ()
    reencodes_png: bool = False
    strips_credentials: bool = False
    hashes: HashPolicy = "refuse"

    @property
    def of_all_rows(self) -> tuple[str, ...]:
        """What is done to images that are not signed too."""
        done = {"png": self.reencodes_png, "credentials": self.strips_credentials, "hashes": self.hashes == "strip"}
        return tuple(what for what, is_done in done.items() if is_done)


@dataclass(frozen=True, eq=False)
class Replacement:
    """What takes the place of one image: pixels, uint8 [C, H, W], or None for its own, and how they are stored."""

    pixels: NDArray[np.uint8] | None
    storage: ImageStorage

    def hash_changes(self, original: bytes, data: bytes) -> dict[bytes, bytes]:
        """Returns: by hash of the original what stands for it beside `data`, which takes its place."""
        return changed_hashes(original, data, self.storage.hashes)


Replacements: TypeAlias = Mapping[int, Replacement]  # by row in a file


def replaced(original: bytes, new: Replacement) -> bytes:
    """Returns: the file that takes the place of its original: like it, and in the channels of that."""
    storage = new.storage
    if new.pixels is None:
        return _unsigned(original, storage)
    like = without_credentials(original) if storage.strips_credentials else original
    png_shape = plain_png_shape(like)
    setting = None
    if png_shape is not None:
        setting = PILLOW_DEFAULT if storage.reencodes_png else png_setting(original, storage.png_settings)
    return encode_like(new.pixels[: replaceable_shape(like)[0]], like, setting)


def _unsigned(original: bytes, storage: ImageStorage) -> bytes:
    """Returns: an image that is not signed, as the export holds it; a damaged one, which cannot be signed, as it is."""
    try:
        like = without_credentials(original) if storage.strips_credentials else original
        shape = plain_png_shape(like)
        if not storage.reencodes_png or shape is None:
            return like
        return encode_png(decode_image(like, shape[0]), like, PILLOW_DEFAULT)
    except InputError:
        return original


def is_replaced(original: bytes, data: bytes, new: Replacement) -> bool:
    """Returns: whether `data` is the original but for the pixels and what `new.storage` changes, and reads as the image does
    once it is stored there."""
    if new.pixels is None and data == _unsigned(original, new.storage):
        return True
    try:
        like = without_credentials(original) if new.storage.strips_credentials else original
        png_shape = plain_png_shape(like)
        if new.pixels is None and not (new.storage.reencodes_png and png_shape is not None):
            return False
        # By pixels, not bytes: another version of the encoder may write the same pixels otherwise.
        channels = replaceable_shape(like)[0]
        expected = decode_image(like, channels) if new.pixels is None else new.pixels[:channels]
        if is_jpeg(like):
            expected = decode_image(encode_like(expected, like=like))
        if without_pixels(data) != without_pixels(like) or not np.array_equal(decode_image(data, channels), expected):
            return False
        if png_shape is None:
            return True
        found, kept = alpha_of(data), alpha_of(like)
        return found is kept if found is None or kept is None else np.array_equal(found, kept)
    except InputError:  # it cannot be read
        return False
