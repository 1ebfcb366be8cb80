"""Thrift's compact protocol, in which Parquet stores its metadata: any struct, read and written without its definition.

Source: github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, STRUCT = range(1, 13)
_MOST_LEVELS = 16  # Parquet's structs are 5 deep


class Struct(dict[int, tuple[int, Any]]):
    """Type and value of each field that is there, by its number, in the order of the file. Of a list the value is a pair
    of its elements' type and the elements."""

    def value(self, field: int, default: Any = None) -> Any:
        """Returns: the value of a field; `default` if it is not there."""
        return self[field][1] if field in self else default

    def elements(self, field: int) -> list[Any]:
        """Returns: the elements of a list, to be changed in place; none if it is not there."""
        return self[field][1][1] if field in self else []

    def change(self, field: int, value: Any) -> None:
        """Sets the value of a field that is there."""
        if field in self:
            self[field] = (self[field][0], value)


class Incomplete(pa.ArrowInvalid):  # type: ignore[misc]
    """The bytes end before the struct does."""


def read_struct(data: bytes, start: int = 0) -> tuple[Struct, int]:
    """Returns: the struct at a place in some bytes, and where it ends.

    Raises:
        Incomplete: the bytes end first.
        pyarrow.ArrowInvalid: there is none.
    """
    reader = _Reader(data, start)
    return reader.struct(0), reader.position


def write_struct(struct: Struct) -> bytes:
    """Returns: the bytes of a struct."""
    parts = bytearray()
    _put_struct(parts, struct)
    return bytes(parts)


class _Reader:
    def __init__(self, data: bytes, position: int) -> None:
        self._data, self.position = data, position

    def struct(self, level: int) -> Struct:
        if level > _MOST_LEVELS:
            raise pa.ArrowInvalid("metadata nested too deeply")
        found, field = Struct(), 0
        while head := self._byte():
            kind = head & 15
            field = field + (head >> 4) if head >> 4 else self._integer()
            found[field] = (kind, kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, level + 1))
        return found

    def _value(self, kind: int, level: int) -> Any:
        if kind in (_TRUE, _FALSE):  # in a list; a field's value is in its head
            return self._byte() == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind in (_I16, _I32, _I64):
            return self._integer()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_LIST, _SET):
            head = self._byte()
            length = head >> 4 if head >> 4 < 15 else self._varint()
            if length > len(self._data):
                raise Incomplete("a list longer than its bytes")
            return head & 15, [self._value(head & 15, level) for _ in range(length)]
        if kind == STRUCT:
            return self.struct(level)
        raise pa.ArrowInvalid(f"metadata of type {kind}")  # Parquet has no maps

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._data):
            raise Incomplete("metadata cut off")
        found = self._data[self.position : end]
        self.position = end
        return found

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise pa.ArrowInvalid("a number too large")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def _put_struct(parts: bytearray, struct: Struct) -> None:
    before = 0
    for field, (kind, value) in struct.items():
        if kind in (_TRUE, _FALSE):
            kind = _TRUE if value else _FALSE
        if 0 < field - before <= 15:
            parts.append((field - before) << 4 | kind)
        else:
            parts.append(kind)
            _put_integer(parts, field)
        if kind not in (_TRUE, _FALSE):
            _put(parts, kind, value)
        before = field
    parts.append(0)


def _put(parts: bytearray, kind: int, value: Any) -> None:
    if kind in (_TRUE, _FALSE):
        parts.append(_TRUE if value else _FALSE)
    elif kind == _BYTE:
        parts.append(value)
    elif kind in (_I16, _I32, _I64):
        _put_integer(parts, value)
    elif kind == _DOUBLE:
        parts += value
    elif kind == _BINARY:
        _put_varint(parts, len(value))
        parts += value
    elif kind in (_LIST, _SET):
        element, values = value
        parts.append(min(len(values), 15) << 4 | element)
        if len(values) >= 15:
            _put_varint(parts, len(values))
        for one in values:
            _put(parts, element, one)
    else:
        _put_struct(parts, value)


def _put_integer(parts: bytearray, value: int) -> None:
    _put_varint(parts, value << 1 if value >= 0 else (-value << 1) - 1)


def _put_varint(parts: bytearray, value: int) -> None:
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
