"""Encoders here are the real Pillow and libpng (by torchvision), and OpenCV's and zopfli's ways by a slow oracle."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision import io as _registers_libpng  # noqa: F401

from taggants.data.png import PILLOW_DEFAULT, chunks, common_settings, setting_of, write_png

PHOTO = load_sample_image("china.jpg")
Encoder = Callable[[np.ndarray], bytes]


def by_pillow(**options: object) -> Encoder:
    def encode(pixels: np.ndarray) -> bytes:
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "PNG", **options)
        return sink.getvalue()

    return encode


def by_libpng(level: int) -> Encoder:
    def encode(pixels: np.ndarray) -> bytes:
        image = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1).copy())
        return torch.ops.image.encode_png(image, level).numpy().tobytes()  # type: ignore[no-any-return]

    return encode


def filtered_by_hand(pixels: np.ndarray, kind: int) -> bytes:
    """PNG 9.2, byte by byte."""
    channels = 1 if pixels.ndim == 2 else 3
    rows = pixels.reshape(len(pixels), -1).tolist()
    out, above = b"", [0] * len(rows[0])
    for row in rows:
        left, corner = [0] * channels + row, [0] * channels + above
        predicted = []
        for i in range(len(row)):
            a, b, c = left[i], above[i], corner[i]
            paeth = min((a, b, c), key=lambda side, p=a + b - c: abs(p - side))
            predicted.append((0, a, b, (a + b) // 2, paeth)[kind])
        out += bytes([kind]) + bytes((x - p) % 256 for x, p in zip(row, predicted, strict=True))
        above = row
    return out


def assembled(pixels: np.ndarray, compressed: bytes, chunk_bytes: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    pieces = [compressed[i : i + chunk_bytes] for i in range(0, len(compressed), chunk_bytes)]
    data = b"".join(chunk(b"IDAT", piece) for piece in pieces)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


def by_hand(kind: int, level: int, strategy: int, chunk_bytes: int = 8192) -> Encoder:
    def encode(pixels: np.ndarray) -> bytes:
        compressor = zlib.compressobj(level, zlib.DEFLATED, 15, 8, strategy)
        return assembled(pixels, compressor.compress(filtered_by_hand(pixels, kind)) + compressor.flush(), chunk_bytes)

    return encode


def searched(pixels: np.ndarray) -> bytes:
    """As zopfli: filters by trial, and blocks that zlib would not cut there."""
    raw = b"".join(
        min(
            (filtered_by_hand(pixels, kind)[i * (1 + pixels[0].size) :][: 1 + pixels[0].size] for kind in range(5)),
            key=lambda row: (len(zlib.compress(row, 9)), row),
        )
        for i in range(len(pixels))
    )
    compressor = zlib.compressobj(9)
    pieces = [compressor.compress(raw[:500]), compressor.flush(zlib.Z_BLOCK), compressor.compress(raw[500:])]
    return assembled(pixels, b"".join([*pieces, compressor.flush()]), 2**31)


ENCODERS: dict[str, Encoder] = {
    "pillow": by_pillow(),
    "pillow optimize": by_pillow(optimize=True),
    **{f"pillow level {level}": by_pillow(compress_level=level) for level in (0, 1, 4, 9)},
    "pillow huffman": by_pillow(compress_type=2),
    **{f"libpng level {level}": by_libpng(level) for level in (0, 1, 6, 9)},
    "opencv": by_hand(1, 1, zlib.Z_RLE),
    "no filter, fixed codes": by_hand(0, 6, zlib.Z_FIXED, 2**31),
    "paeth": by_hand(4, 9, zlib.Z_DEFAULT_STRATEGY, 1000),
    "average": by_hand(3, 5, zlib.Z_FILTERED),
}
IMAGES = {
    "photograph": PHOTO[100:140, 200:250].copy(),
    "grey": PHOTO[60:100, 100:133, 1].copy(),
    "small": PHOTO[100:108, 300:308].copy(),
    "noise": np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8),
    "one column": PHOTO[:9, :1].copy(),
}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", IMAGES)
def test_new_pixels_are_written_as_the_encoder_itself_would(encoder: str, name: str) -> None:
    encode, pixels = ENCODERS[encoder], IMAGES[name]
    if name == "noise" and "level 0" not in encoder and encoder != "pillow":
        pixels = pixels[:20, :20].copy()  # the oracle is slow
    others = [encode(image) for image in (PHOTO[40:64, 40:70].copy(), PHOTO[200:215, 300:320].copy(), pixels)]
    preferred = common_settings(zip(others, (PHOTO[40:64, 40:70], PHOTO[200:215, 300:320], pixels), strict=True))
    original = encode(pixels)
    setting = setting_of(original, pixels, preferred)
    assert setting is not None
    new = np.roll(pixels, 1, 0) ^ 3
    assert write_png(new, setting, original) == encode(new)


def test_a_large_image_is_filtered_in_bands() -> None:
    pixels = np.tile(PHOTO, (2, 2, 1))
    assert pixels.size > 2**21
    for encode in (ENCODERS["libpng level 1"], ENCODERS["pillow"]):
        original = encode(pixels)
        setting = setting_of(original, pixels)
        assert setting is not None
        assert write_png(pixels ^ 1, setting, original) == encode(pixels ^ 1)


def test_the_setting_of_a_dataset_is_that_of_most_files() -> None:
    """A flat image may be the work of many settings."""
    images = [np.zeros((50, 40, 3), np.uint8), PHOTO[:50, :40].copy(), PHOTO[99:149, 99:139].copy()]
    for level in (9, 1):
        pngs = [by_libpng(level)(image) for image in images]
        settings = common_settings(zip(pngs, images, strict=True))
        assert write_png(images[1], settings[0], pngs[0]) == pngs[1]
        found = setting_of(pngs[0], images[0], settings)
        assert found is not None
        assert write_png(images[2], found, pngs[0]) == pngs[2]


def test_what_no_setting_reproduces_is_said_to_be_so() -> None:
    pixels = IMAGES["photograph"]
    found = searched(pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(found))), pixels)
    assert setting_of(found, pixels) is None
    assert common_settings([(found, pixels)]) == ()
    png = by_libpng(6)(pixels)
    compressed = b"".join(chunk[8:-4] for name, chunk in chunks(png) if name == b"IDAT")
    odd = assembled(pixels, compressed, 3000)
    assert setting_of(odd, pixels) is not None
    first = next(chunk for name, chunk in chunks(odd) if name == b"IDAT")
    uneven = odd.replace(first, b"".join(first_and_rest(first)))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(uneven))), pixels)
    assert setting_of(uneven, pixels) is None
    for damaged in (png[:60], png.replace(compressed[:8192], b"\0" * len(compressed[:8192]))):
        assert setting_of(damaged, pixels) is None


def first_and_rest(chunk: bytes) -> list[bytes]:
    parts = []
    for data in (chunk[8:108], chunk[108:-4]):
        parts.append(struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data)))
    return parts


def test_pillows_default_is_pillows_default() -> None:
    for pixels in IMAGES.values():
        assert write_png(pixels, PILLOW_DEFAULT) == by_pillow()(pixels)
