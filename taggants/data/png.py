"""PNG at the byte level: which settings of which encoder wrote a file, and new pixels in a file of the same settings.

Filter heuristics after libpng (png_write_find_filter) and Pillow (ZipEncode.c), which differ in what they try and in what
order; zlib's parameters are found by trial. What zopfli and its like search for is not found.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LIBPNG, _PILLOW, _PILLOW_OPTIMISED, _FAST = (0, 1, 2, 3, 4), (0, 2, 1, 4), (0, 2, 1, 3, 4), (0, 1, 2)
_FILTERS = (_PILLOW, _LIBPNG, _PILLOW_OPTIMISED, _FAST, (1,), (0,), (2,), (3,), (4,))
_LIBPNG_CHUNK, _PILLOW_CHUNK = 8192, 65536
_BAND_BYTES = 2**20  # rows are filtered in bands: the five candidates of a large image would take a gigabyte
_PIECE_BYTES = 2**16


@dataclass(frozen=True)
class PngSetting:
    """How an encoder writes PNG.

    Attributes:
        filters: the row filters it tries (PNG, 9.2), of which the one of least sum of absolute values is taken, the first
            of equal ones; one filter is always taken.
        level, strategy, memory_level: zlib's. Level 0 stores.
        is_window_by_size: zlib's window is 32 KiB, or as libpng fits it to a small image.
        chunk_bytes: size of each IDAT chunk but the last; 0 for a single one of any size.
        by_pillow: Pillow's own zlib writes it, which may be another than Python's (zlib-ng).
    """

    filters: tuple[int, ...]
    level: int
    strategy: int = zlib.Z_FILTERED
    memory_level: int = 9
    is_window_by_size: bool = False
    chunk_bytes: int = _PILLOW_CHUNK
    by_pillow: bool = False


PILLOW_DEFAULT = PngSetting(_PILLOW, 6, by_pillow=True)
"""What Pillow does unless it is told otherwise."""


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields: the name of each chunk, and the whole chunk with its length, name and checksum; at last b"" and what follows
    the end of the image, which readers pass over."""
    start, name = len(SIGNATURE), b""
    while start + 12 <= len(png) and name != b"IEND":
        end = start + 12 + int.from_bytes(png[start : start + 4])
        name = png[start + 4 : start + 8]
        yield name, png[start:end]
        start = end
    yield b"", png[start:]


def write_png(pixels: NDArray[np.uint8], setting: PngSetting, like: bytes | None = None) -> bytes:
    """Writes an image as an encoder of that setting does.

    Args:
        pixels: uint8 [H, W] or [H, W, C], C 2 to 4: grey, grey and alpha, RGB, RGBA.
        like: a PNG of the same size and colour type, plain (`plain_png_shape`), whose other chunks are kept where they are.

    Returns: the PNG, a function of the arguments and the versions of Pillow and zlib alone.
    """
    if like is None or setting.by_pillow:
        png = _by_pillow(pixels, setting)
        return png if like is None else _with_data_of(like, [c for name, c in chunks(png) if name == b"IDAT"])
    old = [chunk[8:-4] for name, chunk in chunks(like) if name == b"IDAT"]
    raw, compressed = _filtered(pixels, setting.filters), b"".join(old)
    if setting.level == 0:
        data = _stored_like(compressed, raw)
        assert data is not None, "the setting was found from this file"
    else:
        # libpng changes the window in zlib's header after compressing, by the size of the image alone.
        data = compressed[:2] + _compressed(raw, setting)[2:]
    size = setting.chunk_bytes or len(data)
    return _with_data_of(like, [_chunk(data[i : i + size]) for i in range(0, len(data), size)])


def setting_of(png: bytes, pixels: NDArray[np.uint8], preferred: Sequence[PngSetting] = ()) -> PngSetting | None:
    """Returns: the first setting that reproduces the compressed data and chunks of a plain PNG byte for byte, of the
    `preferred` ones first; None if none does. pixels: as `write_png` takes them, which it holds."""
    return next(_settings(png, pixels, preferred), None)


def common_settings(files: Iterable[tuple[bytes, NDArray[np.uint8]]]) -> tuple[PngSetting, ...]:
    """Returns: the settings that reproduce some of the files (each a PNG and its pixels), those of most files first: small
    images may be the work of several."""
    counts = Counter(setting for png, pixels in files for setting in _settings(png, pixels))
    return tuple(sorted(counts, key=lambda setting: -counts[setting]))  # stable: equal ones as they were tried


def _settings(png: bytes, pixels: NDArray[np.uint8], preferred: Sequence[PngSetting] = ()) -> Iterator[PngSetting]:
    old = [chunk for name, chunk in chunks(png) if name == b"IDAT"]
    compressed = b"".join(chunk[8:-4] for chunk in old)
    stride = 1 + pixels[0].size
    try:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(compressed, len(pixels) * stride + 1)
    except zlib.error:
        return iter(())
    if len(raw) != len(pixels) * stride or not inflater.eof or inflater.unused_data:
        return iter(())
    used = {filters: raw == _filtered(pixels, filters) for filters in _filter_sets(raw[::stride])}
    by_pillow: dict[PngSetting, bool] = {}
    by_zlib: dict[tuple[int, int, int, int], bool] = {}

    def reproduces(setting: PngSetting) -> bool:
        if not used.get(setting.filters, False):
            return False
        if setting.by_pillow:
            if setting not in by_pillow:
                new = [chunk for name, chunk in chunks(_by_pillow(pixels, setting)) if name == b"IDAT"]
                by_pillow[setting] = new == old
            return by_pillow[setting]
        if setting.chunk_bytes not in _chunk_sizes(old):
            return False
        window = _window_bits(len(raw)) if setting.is_window_by_size else zlib.MAX_WBITS
        key = (setting.level, setting.strategy, setting.memory_level, window)
        if key not in by_zlib:
            by_zlib[key] = (
                _stored_like(compressed, raw) == compressed
                if setting.level == 0
                else _compresses_to(raw, setting, compressed)
            )
        return by_zlib[key]

    every = _candidates(compressed, [filters for filters, is_used in used.items() if is_used], _chunk_sizes(old))
    return (setting for setting in dict.fromkeys(itertools.chain(preferred, every)) if reproduces(setting))


def _filter_sets(row_filters: bytes) -> Iterator[tuple[int, ...]]:
    found = set(row_filters)
    return (filters for filters in _FILTERS if found <= set(filters))


def _chunk_sizes(data_chunks: Sequence[bytes]) -> list[int]:
    """Returns: the `chunk_bytes` that the IDAT chunks allow, the likeliest first."""
    sizes = [len(chunk) - 12 for chunk in data_chunks]
    if len(sizes) == 1:
        return [size for size in (_LIBPNG_CHUNK, _PILLOW_CHUNK) if sizes[0] <= size] + [0]
    return [sizes[0]] if len(set(sizes[:-1])) == 1 and 0 < sizes[-1] <= sizes[0] else []


def _candidates(
    compressed: bytes, filter_sets: Sequence[tuple[int, ...]], chunk_sizes: Sequence[int]
) -> Iterator[PngSetting]:
    """Yields: the settings that zlib's header allows: it tells the level in two bits (RFC 1950), in which strategies
    without a search for matches count as the lowest."""
    levels = {0: (1,), 1: (2, 3, 4, 5), 2: (6,), 3: (9, 8, 7)}[compressed[1] >> 6]
    searches = list(itertools.product(levels, (zlib.Z_FILTERED, zlib.Z_DEFAULT_STRATEGY)))
    if compressed[1] >> 6 == 0:
        searches += [
            (1, zlib.Z_RLE),
            (1, zlib.Z_HUFFMAN_ONLY),
            *((level, zlib.Z_FIXED) for level in range(1, 10)),
            (0, zlib.Z_FILTERED),
        ]
    for filters in filter_sets:
        if filters in (_PILLOW, _PILLOW_OPTIMISED):
            yield from (PngSetting(filters, *search, by_pillow=True) for search in searches)
    for filters in filter_sets:
        for (level, strategy), memory_level, by_size, chunk_bytes in itertools.product(
            searches, (8, 9), (True, False), chunk_sizes
        ):
            if level or (strategy, memory_level, by_size) == (zlib.Z_FILTERED, 8, True):  # storing has one way
                yield PngSetting(filters, level, strategy, memory_level, by_size, chunk_bytes)


def _by_pillow(pixels: NDArray[np.uint8], setting: PngSetting) -> bytes:
    sink = io.BytesIO()
    options = {"compress_level": setting.level, "compress_type": setting.strategy}
    if setting == PILLOW_DEFAULT:
        options = {}
    Image.fromarray(np.ascontiguousarray(pixels)).save(sink, "PNG", optimize=3 in setting.filters, **options)
    return sink.getvalue()


def _filtered(pixels: NDArray[np.uint8], filters: tuple[int, ...]) -> bytes:
    """Returns: the rows, each after the byte that names its filter."""
    height, stride = len(pixels), pixels[0].size
    bytes_per_pixel = 1 if pixels.ndim == 2 else pixels.shape[2]
    rows = np.zeros((height + 1, bytes_per_pixel + stride), np.uint8)  # what lies outside counts as 0
    rows[1:, bytes_per_pixel:] = pixels.reshape(height, stride)
    filtered = np.empty((height, 1 + stride), np.uint8)
    step = max(_BAND_BYTES // stride, 1)
    for first in range(0, height, step):
        band = rows[first : first + step + 1]
        above, left, corner = band[:-1, bytes_per_pixel:], band[1:, :-bytes_per_pixel], band[:-1, :-bytes_per_pixel]
        here = band[1:, bytes_per_pixel:]
        tried = np.stack([here - _prediction(kind, left, above, corner) for kind in filters])
        sums = np.minimum(tried, np.negative(tried)).sum(axis=2, dtype=np.int64)  # of bytes as signed numbers
        best = sums.argmin(axis=0)
        filtered[first : first + step, 0] = np.array(filters, np.uint8)[best]
        filtered[first : first + step, 1:] = tried[best, np.arange(len(here))]
    return filtered.tobytes()


def _prediction(
    kind: int, left: NDArray[np.uint8], above: NDArray[np.uint8], corner: NDArray[np.uint8]
) -> NDArray[np.uint8] | np.uint8:
    if kind == 0:
        return np.uint8(0)
    if kind < 3:
        return left if kind == 1 else above
    if kind == 3:
        return ((left.astype(np.uint16) + above) // 2).astype(np.uint8)
    a, b, c = (side.astype(np.int16) for side in (left, above, corner))  # Paeth's; PNG, 9.4
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, above, corner))


def _window_bits(raw_bytes: int) -> int:
    """Returns: zlib's window as libpng fits it (png_deflate_claim)."""
    bits = zlib.MAX_WBITS
    while raw_bytes <= 16384 and raw_bytes + 262 <= 1 << (bits - 1):
        bits -= 1
    return bits


def _compressor(raw: bytes, setting: PngSetting) -> zlib._Compress:
    window = _window_bits(len(raw)) if setting.is_window_by_size else zlib.MAX_WBITS
    return zlib.compressobj(setting.level, zlib.DEFLATED, window, setting.memory_level, setting.strategy)


def _compressed(raw: bytes, setting: PngSetting) -> bytes:
    compressor = _compressor(raw, setting)
    return compressor.compress(raw) + compressor.flush()


def _compresses_to(raw: bytes, setting: PngSetting, expected: bytes) -> bool:
    """Returns: whether that is what zlib makes, but for its header; it stops at the first difference."""
    compressor, position = _compressor(raw, setting), 0
    for start in range(0, len(raw) + 1, _PIECE_BYTES):
        is_last = start + _PIECE_BYTES > len(raw)
        piece = compressor.compress(raw[start : start + _PIECE_BYTES]) + (compressor.flush() if is_last else b"")
        skipped = max(2 - position, 0)
        if piece[skipped:] != expected[position + skipped : position + len(piece)]:
            return False
        position += len(piece)
    return position == len(expected)


def _stored_like(compressed: bytes, raw: bytes) -> bytes | None:
    """Returns: `raw` in stored blocks of the same sizes as those of another stream (RFC 1951, 3.2.4); None if that has
    others."""
    parts, position, done, is_last = [compressed[:2]], 2, 0, False
    while not is_last:
        head = compressed[position : position + 5]
        if len(head) < 5 or head[0] > 1:
            return None
        size, is_last = int.from_bytes(head[1:3], "little"), head[0] == 1
        parts += [head, raw[done : done + size]]
        position, done = position + 5 + size, done + size
    return b"".join(parts) + struct.pack(">I", zlib.adler32(raw)) if done == len(raw) else None


def _chunk(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))


def _with_data_of(original: bytes, data_chunks: Sequence[bytes]) -> bytes:
    parts, new = [SIGNATURE], b"".join(data_chunks)
    for name, chunk in chunks(original):
        if name != b"IDAT":
            parts.append(chunk)
        else:
            parts.append(new)
            new = b""  # the data chunks are consecutive: the first one's place holds all
    return b"".join(parts)
