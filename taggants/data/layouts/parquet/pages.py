"""One column chunk of encoded images, a page at a time: some values replaced, every other page byte for byte the same.

Field numbers and encodings after github.com/apache/parquet-format (parquet.thrift, Encodings.md).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taggants.data.layouts.parquet.delta import write_delta
from taggants.data.layouts.parquet.thrift import Incomplete, Struct, read_struct, write_struct
from taggants.data.layouts.parquet.values import (
    DELTA_LENGTH,
    PLAIN,
    join_plain,
    read_hybrid,
    read_indices,
    split_plain,
    split_values,
    write_indices,
)
from taggants.errors import InputError
from taggants.storage.store import PIECE_BYTES

_CODECS = {0: None, 1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
_RLE, _DICTIONARY = 3, (2, 8)  # encodings
_DATA, _DICTIONARY_PAGE, _DATA_V2 = 0, 2, 3
_MOST_PAGE_BYTES = 2**31 - 1
LONGEST_BOUND = 4096  # bytes of a minimum or maximum, as Arrow stores them

Edit = Callable[[int, bytes], bytes]
"""From a row and its value, the value to store."""


@dataclass
class Page:
    """A page as it is written, with its header; offset: where it began in the old file."""

    offset: int
    data: bytes
    is_data: bool  # not the dictionary
    uncompressed_change: int = 0
    values_change: int = 0  # in bytes of the values, before any encoding
    bounds: tuple[bytes, bytes] | None = None  # least and largest value, where they were asked for


@dataclass
class _RawPage:
    offset: int
    header: Struct
    header_size: int
    body: bytes

    @property
    def kind(self) -> int:
        return int(self.header.value(1, -1))

    @property
    def details(self) -> Struct:
        found = self.header.value({_DATA: 5, _DICTIONARY_PAGE: 7, _DATA_V2: 8}.get(self.kind, -1))
        if not isinstance(found, Struct):
            raise pa.ArrowInvalid("a page without its header")
        return found

    @property
    def num_rows(self) -> int:
        return int(self.details.value(1, 0))

    @property
    def encoding(self) -> int:
        return int(self.details.value(4 if self.kind == _DATA_V2 else 2, -1))


class ImageChunk:
    """A column chunk of byte arrays, not repeated.

    Args:
        handle: the open file.
        metadata: the chunk's ColumnMetaData.
        max_level: the largest definition level: how many nodes of the column's path are optional.
        with_bounds: find the least and largest value of every page that is written again, and of all others.

    Raises:
        InputError: codec or encoding is none that can be written again.
    """

    def __init__(self, handle: pa.NativeFile, metadata: Struct, max_level: int, *, with_bounds: bool) -> None:
        self._handle = handle
        self._max_level = max_level
        codec = metadata.value(4)
        if codec not in _CODECS:
            raise InputError("its images are compressed with LZO or Hadoop's LZ4; write them with zstd or snappy")
        name = _CODECS[codec]
        self._codec = None if name is None else pa.Codec(name)
        self.start, self.end = chunk_extent(metadata)
        self._with_bounds = with_bounds
        self._window, self._window_start = b"", 0

    def rewritten(self, rows: Collection[int], edit: Edit) -> Iterator[Page]:
        """Yields: every page in order, the values of `rows` (in the row group) replaced by what `edit` returns."""
        dictionary, uses, indices = self._dictionary_changes(rows, edit)
        row = 0
        for page in self._pages():
            if page.kind == _DICTIONARY_PAGE and dictionary is not None and rows:
                # Also if it is as before: what compressing it again changes would tell the others.
                yield self._packed(page, b"", join_plain(dictionary), num_values=len(dictionary))
                continue
            if page.kind not in (_DATA, _DATA_V2):
                yield self._same(page)
                continue
            start, row = row, row + page.num_rows
            is_here = any(start <= i < row for i in rows)
            if not is_here and not self._with_bounds:
                yield self._same(page)
                continue
            levels, body = self._unpack(page)
            valid = self._valid(page, levels)
            if page.encoding in _DICTIONARY:
                assert dictionary is not None
                assert uses is not None
                coded = read_indices(body, int(valid.sum()))
                changed = coded.copy()
                for position, i in enumerate(np.flatnonzero(valid).tolist()):
                    changed[position] = indices.get(start + i, coded[position])
                values = [dictionary[i] for i in changed.tolist()]
                old_size = sum(len(uses[i]) for i in coded.tolist())
                body = body if np.array_equal(coded, changed) else write_indices(changed, len(dictionary))
            else:
                values, lengths = split_values(body, int(valid.sum()), page.encoding)
                old_size = sum(map(len, values))
                for position, i in enumerate(np.flatnonzero(valid).tolist()):
                    if start + i in rows:
                        values[position] = edit(start + i, values[position])
                body = (
                    join_plain(values)
                    if lengths is None
                    else write_delta([*map(len, values)], lengths) + b"".join(values)
                )
            bounds = (min(values), max(values)) if values else None
            new = self._packed(page, levels, body, bounds=bounds) if is_here else self._same(page)
            new.bounds, new.values_change = bounds, sum(map(len, values)) - old_size
            yield new

    def _dictionary_changes(
        self, rows: Collection[int], edit: Edit
    ) -> tuple[list[bytes] | None, list[bytes] | None, dict[int, int]]:
        """Returns: the new and the old dictionary (None without), and by row the new index of each that needs another."""
        old: list[bytes] | None = None
        counts = np.zeros(0, np.int64)
        found: dict[int, int] = {}
        row = 0
        for page in self._pages(only_dictionary=True):
            if page.kind == _DICTIONARY_PAGE:
                old = split_plain(self._unpack(page)[1], page.num_rows)
                counts = np.zeros(len(old), np.int64)
                continue
            start, row = row, row + page.num_rows
            if page.encoding not in _DICTIONARY:
                if page.encoding not in (PLAIN, DELTA_LENGTH):
                    raise InputError(
                        f"its images are stored in Parquet's encoding number {page.encoding}; write them as PLAIN or with a "
                        "dictionary"
                    )
                continue
            levels, body = self._unpack(page)
            valid = self._valid(page, levels)
            coded = read_indices(body, int(valid.sum()))
            if old is None or (len(coded) and coded.max() >= len(old)):
                raise pa.ArrowInvalid("an index beyond the dictionary")
            counts += np.bincount(coded, minlength=len(old))
            found |= {
                start + i: int(k)
                for i, k in zip(np.flatnonzero(valid).tolist(), coded, strict=True)
                if start + i in rows
            }
        if old is None:
            return None, None, {}
        new, indices = list(old), {}
        num_left = counts.copy()  # rows that still use a value
        for i, k in found.items():
            value = edit(i, old[k])
            num_left[k] -= value != old[k] or counts[k] == 1
            if not num_left[k]:  # else what nobody uses would stay, and show what was there before
                new[k] = value
            elif value != old[k]:  # other rows hold the same image, and keep it
                indices[i] = len(new)
                new.append(value)
        return new, old, indices

    def _pages(self, *, only_dictionary: bool = False) -> Iterator[_RawPage]:
        """Yields: the pages; of plain ones only the header where they are not asked for."""
        position = self.start
        while position < self.end:
            try:
                header, size = read_struct(self._read(position, 2**14))
            except Incomplete:
                header, size = read_struct(self._read(position, 2**20))
            length = header.value(3, -1)
            body_start = position + size
            if not 0 <= length <= self.end - body_start or not 0 <= header.value(2, -1) <= _MOST_PAGE_BYTES:
                raise pa.ArrowInvalid("a page beyond its column chunk")
            page = _RawPage(position, header, size, b"")
            is_wanted = not only_dictionary or page.kind == _DICTIONARY_PAGE or page.encoding in _DICTIONARY
            if is_wanted:
                page.body = self._read(body_start, length)
                if len(page.body) < length:
                    raise pa.ArrowInvalid("a page cut off")
            yield page
            position = body_start + length

    def _read(self, start: int, size: int) -> bytes:
        """Returns: bytes of the chunk, fewer at its end; through a window, since each read may be a request."""
        size = min(size, self.end - start)
        offset = start - self._window_start
        if offset < 0 or offset + size > len(self._window):
            self._window = bytes(self._handle.read_at(min(max(size, PIECE_BYTES), self.end - start), start))
            self._window_start, offset = start, 0
        return self._window[offset : offset + size]

    def _same(self, page: _RawPage) -> Page:
        size = page.header_size + len(page.body)
        return Page(page.offset, self._read(page.offset, size), page.kind != _DICTIONARY_PAGE)

    def _unpack(self, page: _RawPage) -> tuple[bytes, bytes]:
        """Returns: the levels of a page as they are stored, and its values, decompressed."""
        size = int(page.header.value(2))
        if page.kind == _DATA_V2:
            num_levels = page.details.value(5, 0) + page.details.value(6, 0)
            if not 0 <= num_levels <= min(size, len(page.body)):
                raise pa.ArrowInvalid("levels beyond their page")
            levels, body = page.body[:num_levels], page.body[num_levels:]
            return levels, self._decompress(body, size - num_levels) if page.details.value(7, True) else body
        body = self._decompress(page.body, size)
        if page.kind == _DICTIONARY_PAGE or not self._max_level:
            return b"", body
        num_levels = 4 + int.from_bytes(body[:4], "little")
        if page.details.value(3) != _RLE or num_levels > len(body):
            raise pa.ArrowInvalid("levels beyond their page")
        return body[:num_levels], body[num_levels:]

    def _decompress(self, body: bytes, size: int) -> bytes:
        if self._codec is None:
            return body
        return bytes(self._codec.decompress(body, size, asbytes=True)) if size else b""

    def _valid(self, page: _RawPage, levels: bytes) -> NDArray[np.bool_]:
        """Returns: which rows of a page have a value."""
        if not self._max_level:
            return np.ones(page.num_rows, bool)
        stored = levels if page.kind == _DATA_V2 else levels[4:]
        found: NDArray[np.bool_] = read_hybrid(stored, self._max_level.bit_length(), page.num_rows) == self._max_level
        return found

    def _packed(
        self,
        page: _RawPage,
        levels: bytes,
        body: bytes,
        *,
        bounds: tuple[bytes, bytes] | None = None,
        num_values: int | None = None,
    ) -> Page:
        """Returns: a page with another content, its header as it was but for what follows from that."""
        header, details = Struct(page.header), Struct(page.details)
        uncompressed = len(levels) + len(body)
        if page.kind == _DATA_V2:
            is_compressed = self._codec is not None and details.value(7, True)
            stored = levels + (self._codec.compress(body, asbytes=True) if is_compressed and self._codec else body)
        else:
            stored = levels + body
            stored = stored if self._codec is None else self._codec.compress(stored, asbytes=True)
        if num_values is not None:
            details.change(1, num_values)
            details.change(3, False)  # no longer sorted
        statistics = 8 if page.kind == _DATA_V2 else 5
        if page.kind != _DICTIONARY_PAGE and statistics in details:
            details.change(statistics, with_bounds(details.value(statistics), bounds))
        header.change({_DATA: 5, _DICTIONARY_PAGE: 7, _DATA_V2: 8}[page.kind], details)
        change = uncompressed - int(header.value(2))
        header.change(2, uncompressed)
        header.change(3, len(stored))
        if 4 in header:
            checksum = zlib.crc32(stored)
            header.change(4, checksum - 2**32 if checksum >= 2**31 else checksum)
        head = write_struct(header)
        return Page(
            page.offset,
            head + stored,
            page.kind != _DICTIONARY_PAGE,
            uncompressed_change=change + len(head) - page.header_size,
        )


def chunk_extent(metadata: Struct) -> tuple[int, int]:
    """Returns: first byte and end of a column chunk, from its ColumnMetaData."""
    start = int(metadata.value(9, -1))
    dictionary = metadata.value(11)
    if dictionary is not None and 0 < dictionary < start:
        start = int(dictionary)
    return start, start + int(metadata.value(7, -1))


def unpacked_bytes(data: bytes) -> int:
    """Returns: how many bytes the pages of a whole file say they unpack to, which its footer may not.

    Not by pyarrow's metadata, which end the process for some damaged statistics.

    Raises:
        pyarrow.ArrowInvalid: the footer or a page is damaged, or a page lies beyond the file.
    """
    total = 0
    try:
        footer, _ = read_struct(data, max(0, len(data) - 8 - int.from_bytes(data[-8:-4], "little")))
        for chunk in (chunk for group in footer.elements(4) for chunk in group.elements(1)):
            position, end = chunk_extent(chunk.value(3))
            while position < end:
                header, position = read_struct(data, max(position, 0))
                size, length = header.value(2), header.value(3)
                if min(size, length) < 0 or position + length > len(data):
                    raise pa.ArrowInvalid("a page beyond its file")
                total += int(size)
                position += length
    except (AttributeError, TypeError, ValueError, IndexError):
        raise pa.ArrowInvalid("values of other types than a file has") from None
    return total


def has_bounds(statistics: Struct | None) -> bool:
    """Returns: whether Statistics hold a least or largest value."""
    return statistics is not None and any(field in statistics for field in (1, 2, 5, 6))


def with_bounds(statistics: Struct, bounds: tuple[bytes, bytes] | None) -> Struct:
    """Returns: Statistics with other least and largest values, as long as those may be; without them if they may not be."""
    found = Struct(statistics)
    for deprecated in (1, 2):  # whose order of bytes is not defined
        found.pop(deprecated, None)
    for field, exact, bound in ((5, 7, bounds and bounds[1]), (6, 8, bounds and bounds[0])):
        if field not in found:
            continue
        longest = LONGEST_BOUND if found.value(exact, True) else len(found.value(field))
        short = None if bound is None else bound_within(bound, longest, is_largest=field == 5)
        if short is None or (short != bound and exact not in found):
            del found[field]
            found.pop(exact, None)
            continue
        found.change(field, short)
        found.change(exact, short == bound)
    return found


def bound_within(bound: bytes, longest: int, *, is_largest: bool) -> bytes | None:
    """Returns: a bound of at most so many bytes, which holds for all that the longer one holds for; None if there is none."""
    if len(bound) <= longest:
        return bound
    short = bound[:longest]
    if not is_largest:
        return short
    short = short.rstrip(b"\xff")
    return short[:-1] + bytes([short[-1] + 1]) if short else None
