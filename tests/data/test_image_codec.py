from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, PngImagePlugin

from taggants.data.image_codec import (
    decode_image,
    encode_like,
    encode_png,
    encoding_of,
    plain_png_shape,
    png_setting,
    replaceable_shape,
    without_pixels,
)
from taggants.data.signed_images import ImageStorage, Replacement, is_replaced, replaced
from taggants.errors import InputError

SHAPES = st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9))


def encoded(pixels: np.ndarray, image_format: str, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, image_format, **options)
    return sink.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def chunk_names(png: bytes) -> list[bytes]:
    names, start = [], 8
    while start < len(png):
        names.append(png[start + 4 : start + 8])
        start += 12 + int.from_bytes(png[start : start + 4])
    return names


def read_png_by_hand(png: bytes) -> np.ndarray:
    """Reads unfiltered 8-bit PNG rows with zlib alone: the oracle for the order of the axes."""
    width, height, _, colour_type = struct.unpack(">IIBB", png[16:26])
    channels = 1 if colour_type == 0 else 3
    data, start = b"", 8
    while start < len(png):
        length = int.from_bytes(png[start : start + 4])
        if png[start + 4 : start + 8] == b"IDAT":
            data += png[start + 8 : start + 8 + length]
        start += 12 + length
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + width * channels)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, channels).transpose(2, 0, 1)


def write_png_by_hand(image: np.ndarray) -> bytes:
    channels, height, width = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in image.transpose(1, 2, 0))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@given(image=SHAPES.flatmap(lambda shape: hnp.arrays(np.uint8, shape)))
def test_png_round_trip_is_exact(image: np.ndarray) -> None:
    png = encode_png(image)
    assert np.array_equal(decode_image(png), image)
    assert plain_png_shape(png) == image.shape
    assert encode_png(image, like=png) == png


@given(image=SHAPES.flatmap(lambda shape: hnp.arrays(np.uint8, shape)))
def test_decoding_agrees_with_a_png_written_by_hand(image: np.ndarray) -> None:
    png = write_png_by_hand(image)
    assert np.array_equal(read_png_by_hand(png), image)
    assert np.array_equal(decode_image(png), image)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_png_keeps_the_mode(channels: int, mode: str) -> None:
    with Image.open(io.BytesIO(encode_png(np.zeros((channels, 4, 5), np.uint8)))) as image:
        assert (image.format, image.mode, image.size) == ("PNG", mode, (5, 4))


def test_grey_becomes_three_equal_channels() -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    image = decode_image(encoded(grey, "PNG"), 3)
    assert image.shape == (3, 4, 5)
    assert all(np.array_equal(channel, grey) for channel in image)


def test_colour_becomes_luma() -> None:
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    # 0.299, 0.587, 0.114 of 255 (ITU-R 601-2)
    assert decode_image(encoded(colour, "PNG"), 1).tolist() == [[[76, 150, 29]]]


def test_transparency_is_dropped_on_demand_and_refused_otherwise() -> None:
    data = encoded(np.full((2, 2, 4), 9, np.uint8), "PNG")
    assert decode_image(data, 3).tolist() == np.full((3, 2, 2), 9).tolist()
    with pytest.raises(InputError, match="mode RGBA"):
        decode_image(data)


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"compress_level": 1}])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_stays_as_it_was(channels: int, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(channels)
    stored = rng.integers(0, 256, (9, 7, channels + 1), np.uint8)
    data = encoded(stored, "PNG", **options)
    assert replaceable_shape(data) == (channels, 9, 7)
    image = rng.integers(0, 256, (channels, 9, 7), np.uint8)
    setting = png_setting(data)
    assert setting is not None
    new = encode_like(image, data)
    assert new == encoded(np.dstack([image.transpose(1, 2, 0), stored[..., -1]]), "PNG", **options)
    replacement = Replacement(image, ImageStorage())
    assert replaced(data, replacement) == new
    assert is_replaced(data, new, replacement)
    for wrong in (data, encoded(np.dstack([image.transpose(1, 2, 0), stored[..., -1] ^ 1]), "PNG", **options)):
        assert not is_replaced(data, wrong, replacement)
    anew = Replacement(None, ImageStorage(reencodes_png=True))
    assert replaced(data, anew) == encoded(stored, "PNG")
    assert is_replaced(data, replaced(data, anew), anew)


def test_16_bit_is_refused_rather_than_clipped() -> None:
    with pytest.raises(InputError, match="mode I;16"):
        decode_image(encoded(np.full((2, 2), 40000, np.uint16), "PNG"), 1)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "BMP", "GIF"])
def test_encoding_is_found_by_content(image_format: str) -> None:
    assert encoding_of(encoded(np.zeros((4, 4), np.uint8), image_format)) == image_format


def test_damaged_data_are_refused_with_a_steady_message() -> None:
    png = encode_png(np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8))
    for data in (b"", b"not an image", png[: len(png) // 2], png[:40] + b"\0" * 100 + png[140:]):
        messages = []
        for _ in range(2):
            with pytest.raises(InputError, match="cannot be decoded") as caught:
                decode_image(bytes(bytearray(data)))
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
        assert "0x" not in messages[0]
    with pytest.raises(InputError, match="cannot be decoded"):
        encoding_of(b"not an image")


def test_channels_other_than_1_or_3_are_refused() -> None:
    with pytest.raises(InputError, match="channels is 4"):
        decode_image(b"", 4)


def test_other_chunks_of_the_replaced_png_stay() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "mine")
    original = encoded(np.zeros((8, 8), np.uint8), "PNG", pnginfo=text, dpi=(300, 300))
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8), dtype=np.uint8)
    replaced = encode_png(image, like=original)
    assert chunk_names(replaced) == chunk_names(original)
    assert b"tEXt" in chunk_names(original)
    assert np.array_equal(decode_image(replaced), image)


def test_several_data_chunks_are_replaced_together() -> None:
    png = write_png_by_hand(np.zeros((1, 4, 4), np.uint8))
    start = png.index(b"IDAT") - 4
    length = int.from_bytes(png[start : start + 4])
    content = png[start + 8 : start + 8 + length]
    split = png[:start] + chunk(b"IDAT", content[:3]) + chunk(b"IDAT", content[3:]) + png[start + 12 + length :]
    image = np.full((1, 4, 4), 77, np.uint8)
    replaced = encode_png(image, like=split)
    assert chunk_names(replaced) == [b"IHDR", b"IDAT", b"IEND"]
    assert np.array_equal(decode_image(replaced), image)


def test_only_plain_png_has_a_plain_shape() -> None:
    grey = np.zeros((4, 5), np.uint8)
    assert plain_png_shape(encoded(grey, "PNG")) == (1, 4, 5)
    assert plain_png_shape(encoded(np.zeros((4, 5, 3), np.uint8), "PNG")) == (3, 4, 5)
    assert plain_png_shape(encoded(np.zeros((4, 5, 4), np.uint8), "PNG")) == (3, 4, 5)  # and alpha
    palette = io.BytesIO()
    Image.fromarray(grey).convert("P").save(palette, "PNG")
    interlaced = bytearray(encoded(grey, "PNG"))
    interlaced[28] = 1
    for data in (
        b"",
        encoded(grey, "JPEG"),
        palette.getvalue(),
        encoded(grey.astype(np.uint16), "PNG"),
        bytes(interlaced),
    ):
        assert plain_png_shape(data) is None


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 3)])
def test_pixels_are_replaced_in_the_format_of_the_original(image_format: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    original, other = (encoded(rng.integers(0, 256, shape, dtype=np.uint8), image_format) for _ in range(2))
    image = decode_image(other)
    replaced = encode_like(image, like=original)
    assert encoding_of(replaced) == image_format
    assert replaceable_shape(replaced) == image.shape == replaceable_shape(original)
    # The outside reference wrote the same pixels itself.
    expected = encoded(image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0).copy(), image_format)
    assert np.array_equal(decode_image(replaced), decode_image(expected))
    assert without_pixels(replaced) == without_pixels(original)
    assert len(without_pixels(original)) < len(original)


def test_what_is_kept_has_the_metadata() -> None:
    pixels = np.zeros((8, 8), np.uint8)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "mine")
    assert without_pixels(encoded(pixels, "PNG", pnginfo=text)) != without_pixels(encoded(pixels, "PNG"))
    assert without_pixels(encoded(pixels, "JPEG", comment=b"mine")) != without_pixels(encoded(pixels, "JPEG"))
    assert without_pixels(encoded(pixels, "JPEG", quality=60)) != without_pixels(encoded(pixels, "JPEG"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            encoded(np.zeros((4, 5), np.uint8), "GIF"),
            "the image is GIF; give 8-bit greyscale or RGB PNG, or 8-bit JPEG",
        ),
        (encoded(np.zeros((4, 5), np.uint8), "JPEG")[:-2], "the JPEG is damaged"),
        (b"no image", "cannot be decoded"),
    ],
)
def test_files_that_cannot_be_imitated_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replaceable_shape(data)


def png_of(width: int, height: int, *, bit_depth: int = 8, colour_type: int = 2, rows: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_only_the_formats_that_are_meant_are_opened() -> None:
    image = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    for image_format in ("EPS", "ICO", "TGA", "PCX", "JPEG2000"):  # EPS would start Ghostscript
        sink = io.BytesIO()
        image.save(sink, image_format)
        for use in (decode_image, encoding_of, replaceable_shape):
            with pytest.raises(InputError, match="cannot be decoded"):
                use(sink.getvalue())


def test_16_bit_colour_is_refused_rather_than_cut() -> None:
    data = png_of(1, 1, bit_depth=16, rows=b"\0" + b"\x12\x34" * 3)
    for channels in (None, 3, 1):
        with pytest.raises(InputError, match="16 bits or more; give 8 bits per channel"):
            decode_image(data, channels)
    with pytest.raises(InputError, match="PNG with a palette, interlacing or 16 bits"):
        replaceable_shape(data)


def test_an_image_too_large_is_refused_from_its_header() -> None:
    tracemalloc.start()
    for data in (png_of(60_000, 60_000), png_of(1, 2**31 - 1)):
        with pytest.raises(InputError, match=r"the image is \d+ x \d+ px; give images of up to|cannot be decoded"):
            decode_image(data)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_an_animated_png_is_not_signed() -> None:
    sink = io.BytesIO()
    frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (1, 2)]
    frames[0].save(sink, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="animated PNG"):
        replaceable_shape(sink.getvalue())


def test_a_wrong_checksum_is_not_signed() -> None:
    """Pillow passes over it, libpng refuses it."""
    png = bytearray(encode_png(np.zeros((3, 4, 4), np.uint8)))
    place = png.index(b"IDAT") + 4
    end = place + int.from_bytes(png[place - 8 : place - 4])
    png[end] ^= 1
    with pytest.raises(InputError, match=r"wrong checksum in its PNG chunk b'IDAT'"):
        replaceable_shape(bytes(png))


def test_what_follows_the_end_of_a_png_stays() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    for tail in (b"", b"tail", b"\0\0\0\4IDATabcd1234"):
        original = encode_png(image) + tail
        signed = encode_png(image ^ 1, like=original)
        assert signed.endswith(tail)
        assert without_pixels(signed) == without_pixels(original)
        assert np.array_equal(decode_image(signed), image ^ 1)
