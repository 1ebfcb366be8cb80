"""Encoded images to uint8 arrays [channels, height, width], and back into a file like the one that they came from."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from taggants.data.jpeg import SIGNATURE as _JPEG_SIGNATURE
from taggants.data.jpeg import encode_jpeg_like, jpeg_layout, without_credentials_in_jpeg, without_scans
from taggants.data.png import (
    PILLOW_DEFAULT,
    SIGNATURE,
    PngSetting,
    chunks,
    common_settings,
    setting_of,
    write_png,
)
from taggants.errors import InputError
from taggants.limits import check_pixels

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF")
"""What is read, whatever a file is called: of Pillow's other decoders some start programs, as EPS does Ghostscript."""
_CHANNELS_OF_MODE = {"L": 1, "RGB": 3}
_MODE_OF_CHANNELS = {1: "L", 3: "RGB"}
# Pillow turns these into 8 bits by clipping, which is silent damage.
_WIDE_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
# What Pillow's decoders raise for damaged data.
DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, OverflowError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)


def decode_image(data: bytes, channels: int | None = None) -> NDArray[np.uint8]:
    """Decodes an image in any format that Pillow reads.

    Args:
        data: the encoded image.
        channels: 1 or 3 converts: grey becomes three equal channels, colour becomes ITU-R 601-2 luma, transparency is
            dropped. None keeps a greyscale image (mode L) at 1 channel and an RGB image at 3, and refuses other modes.

    Returns: uint8 [C, H, W], writable.

    Raises:
        InputError: the data are no whole image, or their mode cannot be converted to 8-bit grey or RGB without damage.
    """
    return channels_first(decode_picture(data, channels))


def channels_first(picture: Image.Image) -> NDArray[np.uint8]:
    """Returns: uint8 [C, H, W], writable, the pixels of a picture of mode L or RGB."""
    pixels = np.array(picture)
    channels_last = pixels.reshape(*pixels.shape[:2], -1)  # [H, W, C]
    return np.ascontiguousarray(channels_last.transpose(2, 0, 1))


def decode_picture(data: bytes, channels: int | None = None) -> Image.Image:
    """Returns: what `decode_image` returns, and raises as that does, as a picture of Pillow of mode L or RGB."""
    if channels not in (None, 1, 3):
        raise InputError(f"channels is {channels}; give 1 (grey) or 3 (RGB).")
    try:
        with open_picture(data) as image:
            # Pillow cuts colours of 16 bits to 8 without a word.
            if image.mode in _WIDE_MODES or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
                raise InputError(f"the image has mode {image.mode} of 16 bits or more; give 8 bits per channel.")
            image.load()
            if channels is not None:
                return image.convert(_MODE_OF_CHANNELS[channels])
            if image.mode in _CHANNELS_OF_MODE:
                return image
            raise InputError(
                f"the image has mode {image.mode}, neither L nor RGB; convert with channels=1 or channels=3."
            )
    except InputError:
        raise
    except DECODE_ERRORS as error:
        raise InputError(f"the image cannot be decoded ({_first_words(error)}); replace it.") from None


def open_picture(data: bytes) -> Image.Image:
    """Returns: an image of one of `FORMATS`, of which only the header was read.

    Raises:
        InputError: it is too large, by `limits`. What Pillow raises for other data.
    """
    # Other packages of the process may have told Pillow to fill what is missing with grey, as WeasyPrint does.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    check_pixels(image.height, image.width)
    return image


def encode_png(image: NDArray[np.uint8], like: bytes | None = None, setting: PngSetting | None = None) -> bytes:
    """Encodes an image as PNG: mode L for one channel, RGB for three.

    Args:
        image: uint8 [C, H, W] with C 1 or 3.
        like: the plain PNG whose pixels are replaced. Its alpha channel, if it has one, and its other chunks (colour
            profile, gamma, text) stay as they are and where they are, so that the result differs in the colours alone.
        setting: how it is written; None: as `like` was if that is found out, else as Pillow does by default.

    Returns: the PNG, a function of the arguments and the versions of Pillow and zlib alone.
    """
    assert image.dtype == np.uint8, image.dtype
    assert image.ndim == 3, image.shape
    assert image.shape[0] in _MODE_OF_CHANNELS, image.shape
    if setting is None and like is not None:
        setting = png_setting(like)
    pixels = _channels_last(image)
    alpha = None if like is None else alpha_of(like)
    if alpha is not None:
        pixels = np.dstack([pixels, alpha])
    return write_png(pixels, setting or PILLOW_DEFAULT, like)


def png_setting(data: bytes, preferred: Sequence[PngSetting] = ()) -> PngSetting | None:
    """Returns: the first setting, of the `preferred` ones first, that reproduces a plain PNG byte for byte; None if none
    does.

    Raises:
        InputError: it is damaged.
    """
    return setting_of(data, _stored_pixels(data), preferred)


def common_png_settings(images: Iterable[bytes]) -> tuple[PngSetting, ...]:
    """Returns: the settings that reproduce some of these images, those of most first; what is no plain PNG does not count.

    Raises:
        InputError: one is damaged.
    """
    pngs = (data for data in images if plain_png_shape(data) is not None)
    return common_settings((data, _stored_pixels(data)) for data in pngs)


def has_alpha(data: bytes) -> bool:
    """Returns: whether a plain PNG has an alpha channel, by its colour type (PNG, 11.2.1)."""
    return data[25] in (4, 6)


def alpha_of(data: bytes) -> NDArray[np.uint8] | None:
    """Returns: uint8 [H, W], the alpha channel of a plain PNG; None if it has none.

    Raises:
        InputError: it is damaged.
    """
    return _stored_pixels(data)[..., -1] if has_alpha(data) else None


def _stored_pixels(data: bytes) -> NDArray[np.uint8]:
    """Returns: uint8 [H, W] or [H, W, C], what a plain PNG stores, with alpha as the last channel if it has one."""
    if not has_alpha(data):
        return _channels_last(decode_image(data))
    try:
        with open_picture(data) as picture:
            picture.load()
            return np.array(picture)
    except DECODE_ERRORS as error:
        raise InputError(f"the image cannot be decoded ({_first_words(error)}); replace it.") from None


def _channels_last(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0))


def encoding_of(data: bytes) -> str:
    """Returns: the image format by its content, in Pillow's name ("PNG", "JPEG", ...).

    Raises:
        InputError: the data are no image.
    """
    try:
        with open_picture(data) as image:
            return image.format or "unknown"
    except InputError:
        raise
    except DECODE_ERRORS as error:
        raise InputError(f"the image cannot be decoded ({_first_words(error)}); replace it.") from None


def plain_png_shape(data: bytes) -> tuple[int, int, int] | None:
    """Returns: (C, H, W) of a PNG whose colours `encode_png` can replace without any other change: 8 bits per channel,
    grey or RGB, no palette, not interlaced. C counts no alpha channel. None for anything else."""
    # The header is always the first chunk; its length and name take the 8 bytes after the signature (PNG, 11.2.1).
    if len(data) < 33 or not data.startswith(SIGNATURE):
        return None
    width, height, bit_depth, colour_type, compression, filtering, interlace = struct.unpack(">IIBBBBB", data[16:29])
    if (bit_depth, compression, filtering, interlace) != (8, 0, 0, 0) or colour_type not in (0, 2, 4, 6):
        return None
    if not width or not height:
        return None
    return (3 if colour_type & 2 else 1), height, width


def is_jpeg(data: bytes) -> bool:
    """Returns: whether the data begin as a JPEG does."""
    return data.startswith(_JPEG_SIGNATURE)


def replaceable_shape(data: bytes) -> tuple[int, int, int]:
    """Returns: (C, H, W) of a file whose pixels `encode_like` can replace, in the channels that it stores.

    Raises:
        InputError: it is neither a plain PNG nor a baseline or progressive JPEG in YCbCr or grey.
    """
    if is_jpeg(data):
        layout = jpeg_layout(data)
        check_pixels(layout.height, layout.width)
        return layout.channels, layout.height, layout.width
    shape = plain_png_shape(data)
    if shape is None:
        found = encoding_of(data)
        kind = "PNG with a palette, interlacing or 16 bits" if found == "PNG" else found
        raise InputError(f"the image is {kind}; give 8-bit greyscale or RGB PNG, or 8-bit JPEG.")
    check_pixels(*shape[1:])
    for name, chunk in chunks(data):
        if name == b"acTL":
            raise InputError("the image is an animated PNG; give one without animation.")
        if name and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
            raise InputError(f"the image has a wrong checksum in its PNG chunk {name!r}; write it again.")
    return shape


def encode_like(image: NDArray[np.uint8], like: bytes, setting: PngSetting | None = None) -> bytes:
    """Encodes an image into a file that differs from another in the pixels alone: losslessly into a PNG, with the
    original's loss into a JPEG.

    Args:
        image: uint8 [C, H, W], of the `replaceable_shape` of `like`.
        setting: of a PNG, as for `encode_png`.

    Raises:
        InputError: as `replaceable_shape`.
    """
    return encode_jpeg_like(image, like) if is_jpeg(like) else encode_png(image, like, setting)


def without_credentials(data: bytes) -> bytes:
    """Returns: a PNG or JPEG without its content credentials (C2PA in JUMBF boxes), which hold hashes of the file; others
    as they are.

    Raises:
        InputError: it is a damaged JPEG.
    """
    if is_jpeg(data):
        return without_credentials_in_jpeg(data)
    if not data.startswith(SIGNATURE):
        return data
    return SIGNATURE + b"".join(chunk for name, chunk in chunks(data) if name != b"caBX")


def without_pixels(data: bytes) -> bytes:
    """Returns: all of a PNG or JPEG that `encode_like` must keep: headers, tables and metadata in their order.

    Raises:
        InputError: it is a damaged JPEG.
    """
    if is_jpeg(data):
        return without_scans(data)
    return b"".join(chunk for name, chunk in chunks(data) if name != b"IDAT")


def _first_words(error: Exception) -> str:
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    # Pillow quotes the buffer object, whose address would make the message differ from run to run.
    return words.partition(" <")[0].rstrip(".")
