"""The Parquet layout: files with some images replaced, a row group at a time, and new files."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from taggants.data.layouts.layout import Layout, Sample
from taggants.data.layouts.numbered_files import is_numbered, numbered_files
from taggants.data.layouts.parquet.rewriting import (
    ColumnEdit,
    changes_when_rewritten,
    check_rewritable,
    rewrite_file,
    row_groups_of,
)
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.data.layouts.parquet.subset import write_subset
from taggants.data.signed_images import Replacements, is_replaced, replaced
from taggants.data.source import DatasetIndex, read_side_by_side
from taggants.data.stored_hashes import with_hashes
from taggants.errors import InputError
from taggants.storage import Root, damage_named

_BATCH_BYTES = 2 * 2**20  # small enough to be used again from the processor's cache
_ROW_GROUP_ROWS = 100  # as Hugging Face's datasets writes images
_COMPANION_ROWS = 64
_IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


class ParquetLayout(Layout[ParquetSource]):
    """Parquet files with an image and a label column. New files are `train-00000.parquet` and so on, of rows (image:
    struct<bytes, path>, label), with class names as the Hugging Face ClassLabel."""

    suffix = "parquet"
    # pyarrow's own threads stay out of it, and one thread writes: memory that one allocates and another frees, or of the
    # size of a row group in a thread's own arena, goes back to the system and comes back cleared, which took as much time
    # as the work itself.
    num_threads = 2
    is_written_in_order = True
    has_subsets = True

    def open(
        self, root: Root, files: str, *, channels: int | None, image_column: str, label_column: str
    ) -> ParquetSource:
        return ParquetSource(
            root, (files,) if files.endswith(f".{self.suffix}") else files, image_column, label_column, channels
        )

    def write_subset(
        self, source: ParquetSource, root: Root, path: str, *, num_classes: int, images_per_class: int | None
    ) -> None:
        write_subset(source, root, path, num_classes=num_classes, images_per_class=images_per_class)

    def files(self, source: ParquetSource) -> Iterator[tuple[str, int]]:
        for name, row_group_rows in zip(source.file_names, source.row_group_rows, strict=True):
            yield name, sum(row_group_rows)

    def rewrite(self, source: ParquetSource, name: str, rows: Replacements, sink: BinaryIO) -> Iterator[int]:
        """Writes a file with the images of some rows replaced, and every other byte as it is but for places, sizes and
        hashes of the images.

        Yields: the number of rows of each row group, once it is written.
        """
        with source.open_file(name) as file:
            column, max_level = source.image_leaf(file)
            leaves = [file.schema.column(i) for i in range(len(file.schema))]
        first = source.file_offsets[source.file_names.index(name)]

        def edit(row: int, original: bytes) -> bytes:
            return replaced(original, rows[row])

        @functools.lru_cache(_COMPANION_ROWS)  # of several columns
        def hash_changes(row: int) -> dict[bytes, bytes]:
            (original,) = source.read_encoded([first + row])
            return rows[row].hash_changes(original, replaced(original, rows[row]))

        def edit_hashes(row: int, value: bytes) -> bytes:
            return bytes(with_hashes(value, hash_changes(row)))

        edits = [ColumnEdit(column, max_level, rows, edit)]
        hashed = [row for row, new in rows.items() if new.storage.hashes != "refuse"]
        for i, leaf in enumerate(leaves if hashed else ()):
            if i != column and leaf.physical_type == "BYTE_ARRAY" and leaf.max_repetition_level == 0:
                edits.append(ColumnEdit(i, leaf.max_definition_level, hashed, edit_hashes))
        with source.root.open_input(name) as handle, damage_named(source.root.uri_of(name)):
            yield from rewrite_file(handle, edits, sink)

    def check_rewritable(self, source: ParquetSource, name: str) -> None:
        uri = source.root.uri_of(name)
        with source.open_file(name) as file, source.root.open_input(name) as handle, damage_named(uri):
            try:
                found = check_rewritable(handle, *source.image_leaf(file))
            except InputError as error:
                raise InputError(f"{uri} cannot be signed: {error}.") from None
        if found is not None:
            first = source.file_offsets[source.file_names.index(name)]
            if source.read_encoded([first]) != [found]:
                raise InputError(f"{uri} cannot be signed: its pages are not where its metadata says; write it again.")

    def leaves_traces(self, source: ParquetSource) -> bool:
        """Tries the first file of each writer: its compression level, say, is not stored."""

        def writer_of(name: str) -> str | None:
            with source.open_file(name) as file:
                return file.metadata.created_by or "" if file.metadata.num_rows else None

        first_files: dict[str, str] = {}
        for name, writer in zip(source.file_names, read_side_by_side(writer_of, source.file_names), strict=True):
            if writer is not None:
                first_files.setdefault(writer, name)
        return any(self._changes_when_rewritten(source, name) for name in first_files.values())

    def _changes_when_rewritten(self, source: ParquetSource, name: str) -> bool:
        with source.open_file(name) as file:
            leaf = source.image_leaf(file)
        with source.root.open_input(name) as handle, damage_named(source.root.uri_of(name)):
            return changes_when_rewritten(handle, *leaf)

    def companions(self, source: ParquetSource, sample_ids: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        place: tuple[int, int, int] | None = None
        batch: pa.RecordBatch | None = None
        for sample_id in sample_ids:
            file_index, row_group, row = source.locate(sample_id)
            if (file_index, row_group, row // _COMPANION_ROWS) != place:  # neighbours lie in one batch
                place = file_index, row_group, row // _COMPANION_ROWS
                with source.open_file(source.file_names[file_index], in_pieces=True) as file:
                    leaves = [file.schema.column(i).path for i in range(len(file.schema))]
                    others = [path for i, path in enumerate(leaves) if i != source.image_leaf(file)[0]]
                    batches = file.iter_batches(_COMPANION_ROWS, row_groups=[row_group], columns=others)
                    batch = next(itertools.islice(batches, place[2], None))
            assert batch is not None
            cells = batch.slice(row % _COMPANION_ROWS, 1).to_pylist()[0]
            rest = cells.pop(source.image_column, None) or {}
            yield {f"column {name}": cell for name, cell in (*cells.items(), *rest.items())}

    def difference(self, source: ParquetSource, name: str, rows: Replacements, destination: Root) -> str | None:
        with source.open_file(name) as before, source.at(destination).open_file(name) as after:
            if not after.schema_arrow.equals(before.schema_arrow, check_metadata=True):
                return "the schema differs"
            if _row_groups(source.root, name) != _row_groups(destination, name):
                return "the row groups or codecs differ"
            start = 0
            for old, new in _side_by_side(before, after):
                here = _rows_of(rows, start, old.num_rows)
                old_images, new_images = old.column(source.image_column), new.column(source.image_column)
                changes = _hash_changes(here, old_images, new_images)
                expected = _with_hashes(pa.table(old.drop_columns(source.image_column)), changes)
                if not pa.table(new.drop_columns(source.image_column)).equals(expected):
                    return f"a label or other column differs in rows {start} to {start + old.num_rows - 1}"
                for first, last in _between(here, old.num_rows):
                    if not new_images.slice(first, last - first).equals(old_images.slice(first, last - first)):
                        return f"an untouched image differs in rows {start + first} to {start + last - 1}"
                for row in here:
                    old_bytes, old_rest = _split(old_images[row].as_py())
                    new_bytes, new_rest = _split(new_images[row].as_py())
                    if new_rest != with_hashes(old_rest, changes.get(row, {})) or not is_replaced(
                        old_bytes, new_bytes, rows[start + row]
                    ):
                        return f"row {start + row} does not hold its signed image"
                start += old.num_rows
        return None

    def hash_and_count(self, root: Root, path: str) -> tuple[str, int]:
        sha256 = root.sha256(path)
        try:
            with root.open_input(path) as handle, damage_named(root.uri_of(path)):
                return sha256, int(pq.ParquetFile(handle).metadata.num_rows)
        except InputError:
            return sha256, -1

    def new_files(self, index: DatasetIndex, samples: Iterable[Sample]) -> Iterator[tuple[str, list[Sample]]]:
        return numbered_files(samples, self.suffix)

    def is_new_file(self, path: str) -> bool:
        return is_numbered(path, self.suffix)

    def write(self, index: DatasetIndex, samples: list[Sample], sink: BinaryIO) -> None:
        schema = _new_schema(index.class_names)
        with pq.ParquetWriter(sink, schema) as writer:
            for start in range(0, len(samples), _ROW_GROUP_ROWS):
                part = samples[start : start + _ROW_GROUP_ROWS]
                images = pa.array([{"bytes": sample.data, "path": sample.name} for sample in part], _IMAGE_TYPE)
                labels = pa.array([sample.label for sample in part], pa.int64())
                writer.write_table(pa.table([images, labels], schema=schema))

    def read(self, index: DatasetIndex, root: Root, path: str) -> Iterator[Sample]:
        with root.open_input(path) as handle, damage_named(root.uri_of(path)):
            for batch in pq.ParquetFile(handle).iter_batches(_ROW_GROUP_ROWS):
                for row in batch.to_pylist():
                    yield Sample(row["image"]["path"], row["image"]["bytes"], row["label"])


def _new_schema(class_names: tuple[str, ...] | None) -> pa.Schema:
    label: dict[str, Any] = {"_type": "Value", "dtype": "int64"}
    if class_names is not None:
        label = {"_type": "ClassLabel", "names": list(class_names)}
    features = {"image": {"_type": "Image"}, "label": label}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema({"image": _IMAGE_TYPE, "label": pa.int64()}, metadata=metadata)


def _side_by_side(before: pq.ParquetFile, after: pq.ParquetFile) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Yields: the same rows of two files whose row groups are of the same lengths, few at a time."""
    for row_group in range(before.num_row_groups):
        group = before.metadata.row_group(row_group)
        batch_rows = max(_BATCH_BYTES * group.num_rows // max(group.total_byte_size, 1), 1)
        options = {"batch_size": batch_rows, "row_groups": [row_group], "use_threads": False}
        batches = [file.iter_batches(**options) for file in (before, after)]
        old, new = (next(one, None) for one in batches)
        while old is not None and new is not None:  # pyarrow may cut them at other rows
            num_rows = min(old.num_rows, new.num_rows)
            yield old.slice(0, num_rows), new.slice(0, num_rows)
            old = old.slice(num_rows) if num_rows < old.num_rows else next(batches[0], None)
            new = new.slice(num_rows) if num_rows < new.num_rows else next(batches[1], None)
        if old is not None or new is not None:
            raise pa.ArrowInvalid("a row group holds fewer rows than it says")


def _rows_of(rows: Replacements, start: int, num_rows: int) -> Replacements:
    """Returns: the signed images of one row group, by row in that, rising."""
    return {row - start: rows[row] for row in sorted(rows) if start <= row < start + num_rows}


def _between(rows: Replacements, num_rows: int) -> Iterator[tuple[int, int]]:
    """Yields: first row and end of each run of rows without a signed one."""
    first = 0
    for row in rows:
        yield first, row
        first = row + 1
    yield first, num_rows


def _hash_changes(rows: Replacements, old: Any, new: Any) -> dict[int, dict[bytes, bytes]]:
    """Returns: by row the changes of hashes that two columns of images make, where there are any."""
    return {
        row: changes
        for row, replacement in rows.items()
        if replacement.storage.hashes != "refuse"
        and (changes := replacement.hash_changes(_split(old[row].as_py())[0], _split(new[row].as_py())[0]))
    }


def _with_hashes(table: pa.Table, changes: Mapping[int, Mapping[bytes, bytes]]) -> pa.Table:
    for i, field in enumerate(table.schema) if changes else ():
        if pa.types.is_primitive(field.type):
            continue
        cells = table.column(i).to_pylist()
        new_cells = [with_hashes(cell, changes.get(row, {})) for row, cell in enumerate(cells)]
        if new_cells != cells:
            table = table.set_column(i, field, pa.array(new_cells, field.type))
    return table


def _split(cell: dict[str, Any] | bytes | None) -> tuple[bytes, dict[str, Any]]:
    """Returns: the encoded image, and what else the cell holds (its path)."""
    if cell is None or isinstance(cell, bytes):
        return cell or b"", {}
    return cell["bytes"] or b"", {key: value for key, value in cell.items() if key != "bytes"}


def _row_groups(root: Root, name: str) -> list[tuple[int, list[int]]]:
    with root.open_input(name) as handle, damage_named(root.uri_of(name)):
        return row_groups_of(handle)
