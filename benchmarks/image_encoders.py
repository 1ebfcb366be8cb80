"""PNG and JPEG as different encoders write them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import io as _registers_libpng  # noqa: F401

Pixels = NDArray[np.uint8]  # [H, W, 3]


def saved(image_format: str, **options: object) -> Callable[[Pixels], bytes]:
    def encode(pixels: Pixels) -> bytes:
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, image_format, **options)
        return sink.getvalue()

    return encode


def by_libpng(pixels: Pixels) -> bytes:
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    return bytes(torch.ops.image.encode_png(image, 6).numpy().tobytes())


def by_opencv(pixels: Pixels) -> bytes:
    try:
        import cv2

        return bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
    except ImportError:
        compressor = zlib.compressobj(1, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
        return assembled(pixels, compressor.compress(b"".join(filtered(pixels)[1])) + compressor.flush(), 8192)


def by_search(pixels: Pixels) -> bytes:
    return _searched(pixels.tobytes(), pixels.shape)


@lru_cache(8192)  # the same images go into every container
def _searched(data: bytes, shape: tuple[int, ...]) -> bytes:
    pixels = np.frombuffer(data, np.uint8).reshape(shape)
    with suppress(ImportError):
        from zopfli import png

        data = bytes(png.optimize(saved("PNG")(pixels), filter_strategies="m", num_iterations=1))
        if data[25] == 2:  # RGB; of few colours it makes a palette
            return data
    raw = b"".join(
        min(tried, key=lambda row: len(zlib.compress(row, 9))) for tried in zip(*filtered(pixels), strict=True)
    )
    compressor = zlib.compressobj(9)
    pieces = [compressor.compress(raw[:1000]), compressor.flush(zlib.Z_BLOCK), compressor.compress(raw[1000:])]
    return assembled(pixels, b"".join([*pieces, compressor.flush()]), 2**31)


def filtered(pixels: Pixels) -> list[list[bytes]]:
    """Returns: every row by the filters none, sub and up, each after the filter's byte."""
    rows = pixels.reshape(len(pixels), -1)
    left, above = np.zeros_like(rows), np.zeros_like(rows)
    left[:, 3:], above[1:] = rows[:, :-3], rows[:-1]
    return [[bytes([k]) + row.tobytes() for row in tried] for k, tried in enumerate((rows, rows - left, rows - above))]


def assembled(pixels: Pixels, compressed: bytes, chunk_bytes: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0)
    pieces = [chunk(b"IDAT", compressed[i : i + chunk_bytes]) for i in range(0, len(compressed), chunk_bytes)]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(pieces) + chunk(b"IEND", b"")


ENCODERS: dict[str, Callable[[Pixels], bytes]] = {
    "pillow": saved("PNG"),
    "optimize": saved("PNG", optimize=True, dpi=(72, 72)),
    "libpng": by_libpng,
    "opencv": by_opencv,
    "zopfli": by_search,
    "jpeg": saved("JPEG", quality=90),
    "jpeg optimised": saved("JPEG", quality=80, optimize=True, subsampling=0),
    "jpeg progressive": saved("JPEG", quality=85, progressive=True, comment=b"mine"),
}
