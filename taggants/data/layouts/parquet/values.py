"""The values in the body of a page, in the encodings that images are stored in: plain, lengths apart, dictionary indices.

Source: github.com/apache/parquet-format, Encodings.md.
"""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taggants.data.layouts.parquet.delta import read_delta

PLAIN, DELTA_LENGTH = 0, 6


def split_values(body: bytes, count: int, encoding: int) -> tuple[list[bytes], tuple[int, int] | None]:
    """Returns: the values of a page without a dictionary; of lengths apart from their values, the shape of their blocks."""
    if encoding == PLAIN:
        return split_plain(body, count), None
    lengths, shape, start = read_delta(body, count)
    ends = [start, *(start + end for end in itertools.accumulate(lengths))]
    if len(lengths) != count or min(lengths, default=0) < 0 or ends[-1] > len(body):
        raise pa.ArrowInvalid("a value beyond its page")
    return [body[first:end] for first, end in itertools.pairwise(ends)], shape


def split_plain(body: bytes, count: int) -> list[bytes]:
    values, position = [], 0
    for _ in range(count):
        end = position + 4 + int.from_bytes(body[position : position + 4], "little")
        if position + 4 > len(body) or end > len(body):
            raise pa.ArrowInvalid("a value beyond its page")
        values.append(body[position + 4 : end])
        position = end
    return values


def join_plain(values: list[bytes]) -> bytes:
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)


def read_indices(body: bytes, count: int) -> NDArray[np.int64]:
    if not count:
        return np.zeros(0, np.int64)
    if not body or body[0] > 32:
        raise pa.ArrowInvalid("indices of no width")
    return read_hybrid(body[1:], body[0], count)


def write_indices(indices: NDArray[np.int64], num_values: int) -> bytes:
    """Returns: one bit-packed run."""
    width = max((num_values - 1).bit_length(), 1)
    padded = np.concatenate([indices, np.zeros(-len(indices) % 8, np.int64)])
    bits = (padded[:, None] >> np.arange(width)) & 1
    head, groups = bytearray([width]), len(padded) // 8 << 1 | 1
    while groups > 127:
        head.append(groups & 127 | 128)
        groups >>= 7
    return bytes([*head, groups]) + np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()


def read_hybrid(data: bytes, width: int, count: int) -> NDArray[np.int64]:
    """Returns: so many integers of a width in bits, in the hybrid of runs and bit-packed groups."""
    parts: list[NDArray[np.int64]] = []
    position = num_read = 0
    while num_read < count:
        head = shift = 0
        while True:
            if position >= len(data) or shift > 35:
                raise pa.ArrowInvalid("integers cut off")
            head |= (data[position] & 127) << shift
            shift += 7
            position += 1
            if data[position - 1] < 128:
                break
        length = min((head >> 1) * (8 if head & 1 else 1), count - num_read + 7)
        if head & 1:
            size = (head >> 1) * width
            bits = np.unpackbits(np.frombuffer(data[position : position + size], np.uint8), bitorder="little")
            length = min(length, len(bits) // width if width else length)
            integers = bits[: length * width].reshape(length, width).astype(np.int64) @ (1 << np.arange(width))
        else:
            size = (width + 7) // 8
            integers = np.full(length, int.from_bytes(data[position : position + size], "little"), np.int64)
        if not length:
            raise pa.ArrowInvalid("a run of no integers")
        position += size
        parts.append(integers)
        num_read += length
    return np.concatenate(parts)[:count] if parts else np.zeros(0, np.int64)
