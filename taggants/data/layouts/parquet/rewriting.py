"""A Parquet file with some of its images replaced, every other byte as it was but for the places and sizes that follow.

Nothing is read through Arrow: other columns, their encodings, the schema, key-values and sorting columns are copied, not
written again, so that nothing in them can change. Pages of images without a replaced one are copied as well.
"""

from __future__ import annotations

import bisect
import io
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import pyarrow as pa

from taggants.data.layouts.parquet.pages import (
    LONGEST_BOUND,
    Edit,
    ImageChunk,
    Page,
    bound_within,
    chunk_extent,
    has_bounds,
    with_bounds,
)
from taggants.data.layouts.parquet.thrift import Struct, read_struct, write_struct
from taggants.errors import InputError
from taggants.storage.store import PIECE_BYTES

_MAGIC = b"PAR1"
_TRUNCATED_BYTES = 64  # to which parquet-mr and parquet-rs cut the bounds of a column index


@dataclass(frozen=True)
class ColumnEdit:
    """Values of one column of byte arrays that are replaced.

    Attributes:
        column: the ordinal of the column among the file's leaves.
        max_level: its largest definition level.
        rows: of the file; those without a value stay as they are.
        edit: from row and value the value to store.
    """

    column: int
    max_level: int
    rows: Collection[int]
    edit: Edit


def rewrite_file(handle: pa.NativeFile, edits: Sequence[ColumnEdit], sink: BinaryIO) -> Iterator[int]:
    """Writes a file with values replaced, at most one edit a column.

    Yields: the number of rows of each row group, once the last of these columns in it is written.

    Raises:
        InputError: such a column is stored in a way that cannot be written again.
        pyarrow.ArrowInvalid: the file is damaged.
    """
    yield from _Rewriting(handle, sink).rewrite(edits)


def changes_when_rewritten(handle: pa.NativeFile, column: int, max_level: int) -> bool:
    """Returns: whether `rewrite_file` with the first image in place of itself would change a byte. Only the parts that it
    writes are read.

    Raises:
        InputError, pyarrow.ArrowInvalid: as `rewrite_file`.
    """
    trial = _Trial(handle, io.BytesIO())
    for _ in trial.rewrite([ColumnEdit(column, max_level, (0,), lambda _, value: value)]):
        pass
    return trial.has_changes


def check_rewritable(handle: pa.NativeFile, column: int, max_level: int) -> bytes | None:
    """Writes the first image of a file again, from a few reads and to nowhere.

    Returns: that image, as it was found without Arrow; None if the first row has none, or there is no row.

    Raises:
        InputError: the column is stored in a way that cannot be written again.
        pyarrow.ArrowInvalid: the file is damaged.
    """
    try:
        return _first_image(handle, column, max_level)
    except InputError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError):
        raise pa.ArrowInvalid("metadata of other types than Parquet's") from None


def _first_image(handle: pa.NativeFile, column: int, max_level: int) -> bytes | None:
    footer, _ = _read_footer(handle)
    if read_struct(write_struct(footer))[0] != footer:
        raise InputError("its metadata cannot be written again; write the file with pyarrow")
    found: list[bytes] = []

    def edit(row: int, value: bytes) -> bytes:
        found.append(value)
        return value

    for group in footer.elements(4):
        if group.value(3, 0) > 0:
            for _ in itertools.islice(_chunk(handle, group, column, max_level).rewritten({0}, edit), 2):
                pass  # a dictionary and the first page
            break
    return found[0] if found else None


class _Rewriting:
    """Which parts of a file are replaced by what, and where everything after them lies then."""

    def __init__(self, handle: pa.NativeFile, sink: BinaryIO) -> None:
        self._handle, self._sink = handle, sink
        # First byte and end of each part that is not copied, and what writes it in its place.
        self._parts: list[tuple[int, int, Callable[[], Iterator[int]]]] = []
        self._written = 0
        self._ends, self._shifts = [0], [0]  # of the parts written, and by how many bytes what follows moved
        # Of rewritten chunks, by the old place of each page: its new place and size, and how much its values grew.
        self._pages: dict[int, tuple[int, int, int]] = {}
        self._moves: list[Callable[[], None]] = []

    def rewrite(self, edits: Sequence[ColumnEdit]) -> Iterator[int]:
        footer, footer_start = _read_footer(self._handle)
        rows = [sorted(edit.rows) for edit in edits]
        first = 0
        for group in footer.elements(4):
            start, first = first, first + group.value(3, 0)
            here = {}
            for edit, replaced in zip(edits, rows, strict=True):
                part = replaced[bisect.bisect_left(replaced, start) : bisect.bisect_left(replaced, first)]
                in_group = frozenset(row - start for row in part)
                here[edit.column] = ColumnEdit(edit.column, edit.max_level, in_group, _edit_from(edit.edit, start))
            self._add_row_group(group, here)
        yield from self._write(footer_start)
        data = write_struct(footer)
        self._put(data + len(data).to_bytes(4, "little") + _MAGIC)

    def _add_row_group(self, group: Struct, edits: Mapping[int, ColumnEdit]) -> None:
        last = max(edits, key=lambda column: chunk_extent(group.elements(1)[column].value(3)))
        for column, chunk in enumerate(group.elements(1)):
            metadata = chunk.value(3)
            start, end = _checked_extent(chunk)
            pages: list[Page] = []
            edit = edits.get(column)
            if edit is not None:
                self._drop_bloom_filter(metadata)
                if edit.rows:
                    images = _chunk(self._handle, group, column, edit.max_level)
                    self._parts.append((start, end, partial(self._write_images, images, edit, pages, group, chunk)))
            if column == last:
                self._parts.append((end, end, partial(iter, [group.value(3, 0)])))
            if chunk.value(2) == end:  # older writers repeat the metadata behind each chunk
                _, copy_end = read_struct(bytes(self._handle.read_at(2**20, end)))
                self._parts.append((end, end + copy_end, partial(self._write_moved, metadata)))
            if edit is not None and edit.rows:
                self._add_index(chunk, 6, partial(_with_page_bounds, pages=pages))
            self._add_index(chunk, 4, self._with_places)
            self._moves.append(partial(self._move, chunk))
        self._moves.append(lambda: group.change(5, self._place(group.value(5, 0))))

    def _write(self, end: int) -> Iterator[int]:
        """Writes the file up to its footer, whose structs then hold the new places."""
        position = 0
        for start, part_end, write in sorted(self._parts, key=lambda part: part[:2]):
            if start < position:
                raise pa.ArrowInvalid("parts of the file overlap")
            self._copy(position, start)
            yield from write()
            position = part_end
            self._ends.append(part_end)
            self._shifts.append(self._written - part_end)
        self._copy(position, end)
        for move in self._moves:
            move()

    def _write_images(
        self, images: ImageChunk, edit: ColumnEdit, pages: list[Page], group: Struct, chunk: Struct
    ) -> Iterator[int]:
        metadata = chunk.value(3)
        start = self._written
        for page in images.rewritten(edit.rows, edit.edit):
            self._pages[page.offset] = self._written, len(page.data), page.values_change
            self._put(page.data)
            page.data = b""
            pages.append(page)
        compressed = self._written - start - metadata.value(7)
        uncompressed = sum(page.uncompressed_change for page in pages)
        for struct, field, change in (
            (metadata, 7, compressed),
            (metadata, 6, uncompressed),
            (group, 2, uncompressed),
            (group, 6, compressed),
            (metadata.value(16, Struct()), 1, sum(page.values_change for page in pages)),
        ):
            struct.change(field, struct.value(field, 0) + change)
        if has_bounds(metadata.value(12)):
            bounds = [page.bounds for page in pages if page.bounds is not None]
            both = (min(b[0] for b in bounds), max(b[1] for b in bounds)) if bounds else None
            metadata.change(12, with_bounds(metadata.value(12), both))
        return iter(())

    def _drop_bloom_filter(self, metadata: Struct) -> None:
        """Leaves out a chunk's Bloom filter, bytes and all: of the old values it would tell which are no longer there, and
        for a new one every value of the chunk would have to be read."""
        start, length = metadata.value(14, 0), metadata.value(15, 0)
        for field in (14, 15):
            metadata.pop(field, None)
        if start <= 0:
            return
        if not length:  # older writers do not say
            header, size = read_struct(bytes(self._handle.read_at(2**10, start)))
            length = size + int(header.value(1, 0))
        if length < 0:
            raise pa.ArrowInvalid("a Bloom filter of negative length")
        self._parts.append((start, start + length, partial(iter, ())))

    def _add_index(self, chunk: Struct, field: int, change: Callable[[Struct], Struct | None]) -> None:
        """Adds a part of the page index, whose place and length are in a chunk's fields `field` and the next."""
        start, length = chunk.value(field, 0), chunk.value(field + 1, 0)
        if not start or not length:
            return
        if start < 0 or length < 0:
            raise pa.ArrowInvalid("a page index of negative place")
        index, _ = read_struct(bytes(self._handle.read_at(length, start)))

        def write() -> Iterator[int]:
            changed = change(index)
            if changed is None:
                chunk.pop(field)
                chunk.pop(field + 1)
                return iter(())
            data = write_struct(changed)
            chunk.change(field + 1, len(data))
            self._put(data)
            return iter(())

        self._parts.append((start, start + length, write))

    def _with_places(self, index: Struct) -> Struct:
        """Returns: an OffsetIndex after its pages moved."""
        sizes = index.elements(2)
        for i, location in enumerate(index.elements(1)):
            offset = location.value(1)
            if offset in self._pages:
                _, size, values_change = self._pages[offset]
                location.change(2, size)
                if i < len(sizes):
                    sizes[i] += values_change
            location.change(1, self._place(offset))
        return index

    def _place(self, offset: int) -> int:
        """Returns: where in the new file something lies; 0, which means nowhere, stays."""
        if offset in self._pages:
            return self._pages[offset][0]
        return offset + self._shifts[bisect.bisect_right(self._ends, offset) - 1] if offset > 0 else offset

    def _moved(self, metadata: Struct) -> Struct:
        found = Struct(metadata)
        for field in (9, 10, 11, 14):
            found.change(field, self._place(found.value(field, 0)))
        return found

    def _move(self, chunk: Struct) -> None:
        for field in (2, 4, 6):
            chunk.change(field, self._place(chunk.value(field, 0)))
        chunk.change(3, self._moved(chunk.value(3)))

    def _write_moved(self, metadata: Struct) -> Iterator[int]:
        self._put(write_struct(self._moved(metadata)))
        return iter(())

    def _put(self, data: bytes) -> None:
        self._sink.write(data)
        self._written += len(data)

    def _copy(self, start: int, end: int) -> None:
        for position in range(start, end, PIECE_BYTES):
            data = bytes(self._handle.read_at(min(PIECE_BYTES, end - position), position))
            if len(data) < min(PIECE_BYTES, end - position):
                raise pa.ArrowInvalid("the file is cut off")
            self._put(data)


class _Trial(_Rewriting):
    """Writes nothing, and knows whether what would be written is what stands there."""

    def __init__(self, handle: pa.NativeFile, sink: BinaryIO) -> None:
        super().__init__(handle, sink)
        self._size_bytes = handle.size()
        self.has_changes = False

    def rewrite(self, edits: Sequence[ColumnEdit]) -> Iterator[int]:
        yield from super().rewrite(edits)
        self.has_changes |= self._written != self._size_bytes

    def _put(self, data: bytes) -> None:
        self.has_changes = self.has_changes or self._old(len(data)) != data
        self._written += len(data)

    def _copy(self, start: int, end: int) -> None:
        self.has_changes |= start != self._written
        self._written += end - start

    def _old(self, size: int) -> bytes:
        start = min(self._written, self._size_bytes)
        return bytes(self._handle.read_at(min(size, self._size_bytes - start), start))


def _edit_from(edit: Edit, start: int) -> Edit:
    return lambda row, value: edit(start + row, value)


def row_groups_of(handle: pa.NativeFile) -> list[tuple[int, list[int]]]:
    """Returns: the number of rows and the codec of each column chunk of each row group.

    By the footer alone: pyarrow's metadata of a column end the process for some damaged statistics.
    """
    footer, _ = _read_footer(handle)
    return [(group.value(3), [chunk.value(3).value(4) for chunk in group.elements(1)]) for group in footer.elements(4)]


def _read_footer(handle: pa.NativeFile) -> tuple[Struct, int]:
    """Returns: the FileMetaData, and where it begins."""
    size = handle.size()
    tail = bytes(handle.read_at(8, max(size - 8, 0)))
    start = size - 8 - int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or start < len(_MAGIC):
        raise pa.ArrowInvalid("no footer")
    return read_struct(bytes(handle.read_at(size - 8 - start, start)))[0], start


def _chunk(handle: pa.NativeFile, group: Struct, column: int, max_level: int) -> ImageChunk:
    chunk = group.elements(1)[column]
    metadata = chunk.value(3)
    # A column index may have bounds where the chunk's own would be too long.
    with_all_bounds = has_bounds(metadata.value(12)) or bool(chunk.value(6))
    return ImageChunk(handle, metadata, max_level, with_bounds=with_all_bounds)


def _checked_extent(chunk: Struct) -> tuple[int, int]:
    metadata = chunk.value(3)
    if metadata is None or 1 in chunk:
        raise InputError("its columns lie in other files or are encrypted; write it as one plain file")
    start, end = chunk_extent(metadata)
    if not len(_MAGIC) <= start <= end:
        raise pa.ArrowInvalid("a column chunk of negative place")
    return start, end


def _with_page_bounds(index: Struct, pages: list[Page]) -> Struct | None:
    """Returns: a ColumnIndex after some pages changed; None if a bound would be longer than its writer allows."""
    least, largest = index.elements(2), index.elements(3)
    lengths = [len(bound) for bound in (*least, *largest)]
    is_cut = max(lengths, default=0) == _TRUNCATED_BYTES
    data_pages = [page for page in pages if page.is_data]
    for i, page in enumerate(data_pages[: len(least)]):
        if page.bounds is None:
            continue
        for bounds, bound in ((least, page.bounds[0]), (largest, page.bounds[1])):
            longest = _TRUNCATED_BYTES if is_cut else LONGEST_BOUND
            short = bound_within(bound, longest, is_largest=bounds is largest)
            if short is None or (len(short) < len(bound) and not is_cut):
                return None
            bounds[i] = short
    if index.value(4, 0) != 0:
        known = [(a, b) for a, b, is_null in zip(least, largest, index.elements(1), strict=True) if not is_null]
        if index.value(4) == 2:
            known.reverse()
        if [a for a, _ in known] != sorted(a for a, _ in known) or [b for _, b in known] != sorted(b for _, b in known):
            index.change(4, 0)  # no longer in order
    return index
