"""An image classification dataset in the Hugging Face Parquet layout, read in part or in whole.

A sample id is the ordinal of a row over the dataset's files sorted by name.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from taggants.data.file_names import files_or_prefix
from taggants.data.source import (
    DatasetIndex,
    FileHash,
    ImageSource,
    SampleError,
    dataset_fingerprint,
    read_side_by_side,
    sha256_of,
)
from taggants.errors import InputError
from taggants.limits import check_label
from taggants.storage import Root, damage_named
from taggants.storage.store import PIECE_BYTES

_BATCH_ROWS = 64


@dataclass(frozen=True)
class ParquetSource(ImageSource):
    """A dataset of Parquet files with an image column and an integer label column.

    It pickles without its index; what it learned of the files' row groups goes along.

    Attributes:
        root: where the files lie.
        files: their names, or one string: all `.parquet` files whose path starts with it ("" takes all).
        image_column: a `struct<bytes: binary, path: string>` or a plain binary column of encoded images.
        label_column: an integer column without nulls or negative labels.
        channels: 1 or 3 converts every image; None keeps greyscale images at 1 channel and RGB images at 3.

    Raises:
        InputError: from any method: there is no such file or column, or a file is damaged; the sentence names it.
    """

    layout: ClassVar[str] = "parquet"

    root: Root
    files: tuple[str, ...] | str
    image_column: str = "image"
    label_column: str = "label"
    channels: int | None = None

    @functools.cached_property
    def file_names(self) -> tuple[str, ...]:
        """The names of the files, sorted: the order of the sample ids."""
        return files_or_prefix(self.root, self.files, ".parquet")

    @functools.cached_property
    def row_group_rows(self) -> tuple[tuple[int, ...], ...]:
        """The number of rows of each row group of each file."""
        return tuple(read_side_by_side(self._row_group_rows_of, self.file_names))

    def _row_group_rows_of(self, name: str) -> tuple[int, ...]:
        with self.open_file(name) as file:
            return tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))

    @functools.cached_property
    def file_offsets(self) -> tuple[int, ...]:
        """[len(file_names) + 1]: the first sample id of each file, then the number of rows."""
        return (0, *itertools.accumulate(sum(counts) for counts in self.row_group_rows))

    @property
    def num_rows(self) -> int:
        return self.file_offsets[-1]

    @property
    def how_read(self) -> tuple[str | int | None, ...]:
        """The columns and channels."""
        return self.image_column, self.label_column, self.channels

    @property
    def extras(self) -> tuple[str, ...]:
        with self.open_file(self.file_names[0]) as file:
            return tuple(name for name in file.schema_arrow.names if name not in (self.image_column, self.label_column))

    def at(self, root: Root) -> Self:
        """Returns: the files of the same names under another root."""
        return dataclasses.replace(self, root=root, files=self.file_names)

    def class_names(self) -> tuple[str, ...] | None:
        """Returns: those of the first file."""
        with self.open_file(self.file_names[0]) as file:
            return class_names_of(file.schema_arrow, self.label_column)

    def _make_index(self) -> DatasetIndex:
        """Raises:
        InputError: a null or negative label, one beyond the class names, or class names that differ.
        """
        parts = read_side_by_side(self._index_of, self.file_names)
        labels = [part[0] for part in parts]
        names_by_file = {name: part[1] for name, part in zip(self.file_names, parts, strict=True)}
        entries = [(name, part[2].sha256, len(part[0])) for name, part in zip(self.file_names, parts, strict=True)]
        first_file = self.file_names[0]
        class_names = names_by_file[first_file]
        for name, others in names_by_file.items():
            if others != class_names:
                raise InputError(
                    f"{name} and {first_file} in {self.root.uri} differ in their class names; use files of one dataset."
                )
        all_labels = np.concatenate(labels)
        if not len(all_labels):
            raise InputError(
                f"The dataset in {self.root.uri} ({', '.join(self.file_names)}) has no rows; give one that has."
            )
        num_classes = len(class_names) if class_names else int(all_labels.max()) + 1
        if all_labels.max() >= num_classes:
            sample_id = int(all_labels.argmax())
            raise InputError(
                f"Sample {sample_id} of {self.root.uri} has label {all_labels[sample_id]}, but the class names allow "
                f"0 to {num_classes - 1}; correct the label or the metadata."
            )
        return DatasetIndex(
            labels=all_labels,
            files=self.file_names,
            file_offsets=self.file_offsets,
            num_classes=num_classes,
            class_names=class_names,
            fingerprint=dataset_fingerprint(entries),
            hashes={name: part[2] for name, part in zip(self.file_names, parts, strict=True)},
        )

    def _index_of(self, name: str) -> tuple[NDArray[np.int64], tuple[str, ...] | None, FileHash]:
        """Returns: the labels, class names and hash of a file."""
        version = self.root.version(name)
        labels, class_names = self._labels_and_names(name)
        with self.root.open_input(name) as handle:
            return labels, class_names, FileHash(sha256_of(handle), version)

    def _labels_and_names(self, name: str) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
        with self.open_file(name) as file:
            table = file.read(columns=[self.label_column])
            return self._labels(name, table), class_names_of(file.schema_arrow, self.label_column)

    def _read_labels(self) -> NDArray[np.int64]:
        return np.concatenate([labels for labels, _ in read_side_by_side(self._labels_and_names, self.file_names)])

    def read_encoded(self, sample_ids: Sequence[int]) -> list[bytes]:
        """Returns: the encoded images in the order asked for; only the row groups that hold them are read.

        Raises:
            InputError: a sample id is out of range, or a row holds no image.
        """
        # Positions in the answer, by file and row group, so that each row group is read once.
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for position, sample_id in enumerate(sample_ids):
            file_index, row_group, row = self.locate(int(sample_id))
            wanted.setdefault((file_index, row_group), []).append((position, row))
        answer: dict[int, bytes] = {}
        for file_index, in_file in itertools.groupby(sorted(wanted), key=lambda place: place[0]):
            name = self.file_names[file_index]
            with self.open_file(name, in_pieces=True) as file:
                for place in in_file:
                    positions_of_row: dict[int, list[int]] = {}
                    for position, row in wanted[place]:
                        positions_of_row.setdefault(row, []).append(position)
                    for row, value in self._image_values(file, place[1], max(positions_of_row) + 1):
                        for position in positions_of_row.get(row, ()):
                            answer[position] = self._image_bytes(value.as_py(), int(sample_ids[position]))
        return [answer[position] for position in range(len(sample_ids))]

    def encoded_in_order(self) -> Iterator[bytes]:
        sample_id = 0
        for name, row_group_rows in zip(self.file_names, self.row_group_rows, strict=True):
            with self.open_file(name, in_pieces=True) as file:
                for row_group, num_rows in enumerate(row_group_rows):
                    for _, value in self._image_values(file, row_group, num_rows):
                        yield self._image_bytes(value.as_py(), sample_id)
                        sample_id += 1

    def _image_values(self, file: pq.ParquetFile, row_group: int, num_rows: int) -> Iterator[tuple[int, pa.Scalar]]:
        """Yields: row and cell of the first rows of a row group, read in batches: it may hold a gigabyte."""
        row = 0
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[row_group], columns=[self._bytes_path(file)]):
            for value in batch.column(0):
                if row == num_rows:
                    return
                yield row, value
                row += 1

    def locate(self, sample_id: int) -> tuple[int, int, int]:
        """Returns: the index of the file, of the row group in it, and of the row in that, which hold a sample.

        Raises:
            InputError: there is no such sample id.
        """
        file_index, row = self._split(sample_id, self.file_offsets)
        for row_group, num_rows in enumerate(self.row_group_rows[file_index]):
            if row < num_rows:
                return file_index, row_group, row
            row -= num_rows
        raise AssertionError("the offsets are the sums of the row groups")

    @contextmanager
    def open_file(self, name: str, *, in_pieces: bool = False) -> Iterator[pq.ParquetFile]:
        """Opens one file with its columns checked; damage found while it is read becomes an InputError that names it.

        Args:
            in_pieces: read columns piece by piece, for batches of a row group that may not fit into memory; else what is
                asked for is read at once.

        Yields: the open file.
        """
        with self.root.open_input(name) as handle, damage_named(self.root.uri_of(name)):
            file = pq.ParquetFile(handle, pre_buffer=not in_pieces, buffer_size=PIECE_BYTES if in_pieces else 0)
            self._check_columns(name, file.schema_arrow)
            yield file

    def _check_columns(self, name: str, schema: pa.Schema) -> None:
        for column in (self.image_column, self.label_column):
            if column not in schema.names:
                raise InputError(
                    f"{self.root.uri_of(name)} has no column {column!r}; it has {', '.join(schema.names)}."
                )
            if schema.names.count(column) > 1:
                raise InputError(f"{self.root.uri_of(name)} has several columns {column!r}; give each its own name.")
        image_type = schema.field(self.image_column).type
        if not _is_binary(image_type) and not (
            pa.types.is_struct(image_type)
            and image_type.get_field_index("bytes") >= 0
            and _is_binary(image_type.field("bytes").type)
        ):
            raise InputError(
                f"Column {self.image_column!r} of {self.root.uri_of(name)} is {image_type}; give encoded images as "
                "binary or as struct<bytes: binary, path: string>."
            )
        label_type = schema.field(self.label_column).type
        if not pa.types.is_integer(label_type):
            raise InputError(
                f"Column {self.label_column!r} of {self.root.uri_of(name)} is {label_type}; give integer labels."
            )

    def image_leaf(self, file: pq.ParquetFile) -> tuple[int, int]:
        """Returns: the ordinal of the column of encoded images among the leaves of a file, and its largest definition
        level."""
        path = self._bytes_path(file)
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        ordinal = next(i for i, leaf in enumerate(leaves) if leaf.path == path)
        return ordinal, leaves[ordinal].max_definition_level

    def _bytes_path(self, file: pq.ParquetFile) -> str:
        is_struct = pa.types.is_struct(file.schema_arrow.field(self.image_column).type)
        return f"{self.image_column}.bytes" if is_struct else self.image_column

    def _image_bytes(self, value: dict[str, bytes | None] | bytes | None, sample_id: int) -> bytes:
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            raise SampleError(f"{self.place_of(sample_id)} holds no image bytes; embed the images in the Parquet file.")
        return data

    def _labels(self, name: str, table: pa.Table) -> NDArray[np.int64]:
        column = table.column(self.label_column)
        if column.null_count:
            row = column.is_null().index(pa.scalar(True)).as_py()
            raise InputError(f"Row {row} of {self.root.uri_of(name)} has no label; give every row one.")
        if len(column):
            plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
            for label in pc.min_max(plain).as_py().values():  # before they become 64 bits with a sign
                row = pc.index(plain, pa.scalar(label, plain.type)).as_py()
                check_label(label, f"Row {row} of {self.root.uri_of(name)}")
        return np.asarray(pc.cast(column, pa.int64()), dtype=np.int64)

    def place_of(self, sample_id: int) -> str:
        """Returns: the row, file and sample id of a sample, in words for a message."""
        file_index = self.locate(sample_id)[0]
        row = sample_id - self.file_offsets[file_index]
        return f"Row {row} of {self.root.uri_of(self.file_names[file_index])} (sample {sample_id})"


def class_names_of(schema: pa.Schema, label_column: str = "label") -> tuple[str, ...] | None:
    """Returns: the class names by label from the schema's metadata: the ClassLabel feature under `huggingface`, else
    the JSON list under `class_names`; None if there are none."""
    names = label_feature_of(json_metadata(schema, b"huggingface"), label_column).get("names")
    names = names or json_metadata(schema, b"class_names")
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None


def label_feature_of(description: Any, label_column: str) -> dict[str, Any]:
    """Returns: the label's feature within the parsed `huggingface` metadata, not copied; empty if there is none."""
    for step in ("info", "features", label_column):
        description = description.get(step) if isinstance(description, dict) else None
    return description if isinstance(description, dict) else {}


def json_metadata(schema: pa.Schema, key: bytes) -> Any:
    """Returns: the parsed JSON of one entry of the schema's metadata; None if it is missing or no JSON."""
    try:
        return json.loads((schema.metadata or {}).get(key, b"null"))
    except (ValueError, RecursionError):  # another program's metadata under that name
        return None


def writer_like(file: pq.ParquetFile, sink: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    """Returns: a writer, to be closed by the caller, that stores `schema` and its columns as `file` does: codec and
    dictionary encoding per column, format version, embedded Arrow schema or none, page index or none."""
    metadata = file.metadata
    options: dict[str, Any] = {"version": metadata.format_version}
    if metadata.num_row_groups:
        group = metadata.row_group(0)
        columns = [group.column(i) for i in range(group.num_columns)]
        # The writer's name for no compression differs from the metadata's.
        options["compression"] = {c.path_in_schema: c.compression.replace("UNCOMPRESSED", "NONE") for c in columns}
        options["use_dictionary"] = [c.path_in_schema for c in columns if c.has_dictionary_page]
        options["write_page_index"] = all(c.has_offset_index for c in columns)
    has_arrow_schema = b"ARROW:schema" in (metadata.metadata or {})
    # Names of list elements as the file has them ("item"), else a reader would find another schema.
    options["use_compliant_nested_type"] = False
    writer = pq.ParquetWriter(sink, schema, store_schema=has_arrow_schema, **options)
    if schema.metadata and not has_arrow_schema:
        writer.add_key_value_metadata(schema.metadata)  # without an Arrow schema the writer leaves it out
    return writer


def _is_binary(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_binary(data_type) or pa.types.is_large_binary(data_type))
