"""Parquet's DELTA_BINARY_PACKED integers, by which DELTA_LENGTH_BYTE_ARRAY stores the lengths of its values.

Source: github.com/apache/parquet-format, Encodings.md.
"""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_MOST_BLOCK = 2**16


def read_delta(data: bytes, most: int) -> tuple[list[int], tuple[int, int], int]:
    """Returns: the integers with which some bytes begin, how many of them and how many miniblocks a block has, and where
    they end.

    Raises:
        pyarrow.ArrowInvalid: there are none, or more than `most`.
    """
    block, position = _varint(data, 0)
    per_block, position = _varint(data, position)
    count, position = _varint(data, position)
    value, position = _zigzag(data, position)
    if not 0 < per_block <= block <= _MOST_BLOCK or block % per_block or (block // per_block) % 8:
        raise pa.ArrowInvalid("a block of no size")
    if count > most:
        raise pa.ArrowInvalid("more integers than values")
    size = block // per_block
    values = [value] if count else []
    while len(values) < count:
        least, position = _zigzag(data, position)
        widths = data[position : position + per_block]
        position += per_block
        for width in widths:
            if len(values) >= count:
                break
            num_bytes = size * width // 8
            packed = np.frombuffer(data[position : position + num_bytes], np.uint8)
            if width > 64 or len(packed) < num_bytes:
                raise pa.ArrowInvalid("integers cut off")
            position += num_bytes
            bits = np.unpackbits(packed, bitorder="little").reshape(size, width).astype(object)
            deltas = [sum(int(bit) << i for i, bit in enumerate(row)) for row in bits] if width else [0] * size
            for delta in deltas[: count - len(values)]:
                value += least + delta
                values.append(value)
        if len(widths) < per_block:
            raise pa.ArrowInvalid("integers cut off")
    return values, (block, per_block), position


def write_delta(values: list[int], shape: tuple[int, int]) -> bytes:
    """Returns: the integers, in blocks of a shape as `read_delta` returns it."""
    block, per_block = shape
    size = block // per_block
    parts = bytearray()
    for number in (block, per_block, len(values)):
        _put_varint(parts, number)
    _put_zigzag(parts, values[0] if values else 0)
    deltas = [after - before for before, after in itertools.pairwise(values)]
    for start in range(0, len(deltas), block):
        here = deltas[start : start + block]
        least = min(here)
        _put_zigzag(parts, least)
        groups = [[delta - least for delta in here[i : i + size]] for i in range(0, len(here), size)]
        widths = [max(group).bit_length() for group in groups]
        parts += bytes(widths + [0] * (per_block - len(widths)))
        for group, width in zip(groups, widths, strict=True):
            padded: NDArray[np.int64] = np.array(group + [0] * (size - len(group)), np.int64)
            bits = (padded[:, None] >> np.arange(width)) & 1
            parts += np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()
    return bytes(parts)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 70:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
    raise pa.ArrowInvalid("a number cut off")


def _zigzag(data: bytes, position: int) -> tuple[int, int]:
    value, position = _varint(data, position)
    return (value >> 1) ^ -(value & 1), position


def _put_varint(parts: bytearray, value: int) -> None:
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)


def _put_zigzag(parts: bytearray, value: int) -> None:
    _put_varint(parts, value << 1 if value >= 0 else (-value << 1) - 1)
