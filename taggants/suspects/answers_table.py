"""A suspect of whom only a table is there: what somebody, or something, answered to the images of `taggants keys export`."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from taggants.errors import InputError
from taggants.storage import Root
from taggants.storage.encoding import damage_named
from taggants.suspects.description import FileUri, Owner, SuspectDescription
from taggants.suspects.label_maps import folded_name
from taggants.suspects.naming import name_from, name_of_file
from taggants.suspects.one_by_one import Row

_MOST_BYTES: Final = 2**28
_MOST_VALUES: Final = 2**25  # 10,000 answers with 3,000 scores each
_LONGEST_TEXT: Final = 2**12
_FINE_TYPES: Final = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_null,
)
IMAGE_COLUMN: Final = "image"


class AnswersTableDescription(SuspectDescription):
    """A CSV or Parquet file with the column image, and label_1 to label_m or one column of scores for each class."""

    path: FileUri = Field(description="path or s3:// URI of a .csv or .parquet")
    num_classes: int | None = Field(
        None, ge=2, description="classes that labels are numbers of; null: those of class_names or the signed dataset"
    )

    def open(self, owner: Owner) -> AnswersTable:
        return AnswersTable(self, owner)


class AnswersTable:
    """Answers by the names of exported images.

    The columns label_1, label_2, ... hold class numbers, or names of class_names, best first; a list may end early. Otherwise
    the columns are scores, named score_0, score_1, ... or as the classes. An image without a row, or with an empty one, was
    refused.

    Raises:
        InputError: the file is no such table, names an image twice, or a value is no label or no number.
    """

    def __init__(self, description: AnswersTableDescription, owner: Owner) -> None:
        uri = description.path
        root, file = Root.of_file(uri)
        if root.size_bytes(file) > _MOST_BYTES:
            raise InputError(f"answers table {uri} is longer than {_MOST_BYTES} bytes; give one row for each image")
        data = root.read_bytes(file)
        self._what = f"answers table {uri}"
        names, columns = self._csv(data) if uri.endswith(".csv") else self._parquet(data)
        if IMAGE_COLUMN not in names:
            raise InputError(
                f"{self._what} has no column {IMAGE_COLUMN!r}; name the images in it, such as query-0000.png"
            )
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{self._what} has two columns {twice!r}; name each once")
        table = dict(zip(names, columns, strict=True))
        images = table.pop(IMAGE_COLUMN)
        self._is_described = description.num_classes is not None or description.class_names is not None
        self.class_names = description.class_names if self._is_described else owner.class_names
        self.num_classes = description.num_classes or len(description.class_names or ()) or owner.num_classes
        if any(name.startswith("label_") for name in table):
            rows = self._labels(table, len(images))
        else:
            rows = self._scores(table, len(images))
        self._rows: dict[str, Row] = {}
        for image, row in zip(images, rows, strict=True):
            name = str(image).strip()
            if name in self._rows:
                raise InputError(f"{self._what} names the image {name[:100]!r} twice; give one row for each image")
            self._rows[name] = row
        self.sha256: str | None = hashlib.sha256(data).hexdigest()
        self.name = name_from(name_of_file(uri), self.sha256)

    def answers(self, images: NDArray[Any]) -> NDArray[Any]:
        """Raises InputError: a table knows images by their names alone."""
        raise InputError(f"{self._what} has answers to the images of `taggants keys export` alone")

    def rows_of(self, images: Sequence[str]) -> list[Row]:
        """Returns the answers to images, by their file names; None where there is no row.

        Raises:
            InputError: the table names other images.
        """
        unknown = sorted(set(self._rows) - set(images))
        if unknown:
            raise InputError(
                f"{self._what} names {len(unknown)} images that were not exported, such as {unknown[0][:100]!r}; give the "
                "answers to the files of `taggants keys export` of this run, by their names"
            )
        return [self._rows.get(image) for image in images]

    def _csv(self, data: bytes) -> tuple[list[str], list[list[Any]]]:
        try:
            rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig")), strict=True) if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{self._what} is not CSV in UTF-8: {error}") from None
        if not rows:
            raise InputError(f"{self._what} is empty; its first row names the columns")
        names = [name.strip() for name in rows[0]]
        for number, row in enumerate(rows[1:], 2):
            if len(row) != len(names):
                raise InputError(
                    f"{self._what} has {len(row)} values in row {number} but {len(names)} columns; give one value for each"
                )
        return names, [[row[column].strip() or None for row in rows[1:]] for column in range(len(names))]

    def _parquet(self, data: bytes) -> tuple[list[str], list[list[Any]]]:
        with damage_named(self._what):
            file = pq.ParquetFile(pa.BufferReader(data))
            metadata = file.metadata
            if metadata.num_rows * metadata.num_columns > _MOST_VALUES:
                raise InputError(f"{self._what} has more than {_MOST_VALUES} values; give one row for each image")
            texts = []
            for field in file.schema_arrow:
                kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
                if not any(is_fine(kind) for is_fine in _FINE_TYPES):
                    raise InputError(
                        f"{self._what} has the column {field.name[:50]!r} of type {str(kind)[:50]}; give numbers or text"
                    )
                if pa.types.is_string(kind) or pa.types.is_large_string(kind):
                    texts.append(field.name)
            # As dictionaries: a long text that stands in many rows takes a few bytes in the file.
            table = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts).read()
            return list(table.column_names), [self._values(column) for column in table.columns]

    def _values(self, column: Any) -> list[Any]:
        values: list[Any] = []
        for chunk in column.chunks:
            if not pa.types.is_dictionary(chunk.type):
                values += chunk.to_pylist()
                continue
            texts = chunk.dictionary
            if len(texts) and (pc.max(pc.binary_length(texts)).as_py() or 0) > _LONGEST_TEXT:
                raise InputError(f"{self._what} has a text longer than {_LONGEST_TEXT} bytes; give names or numbers")
            named = texts.to_pylist()
            values += [None if place is None else named[place] for place in chunk.indices.to_pylist()]
        return values

    def _labels(self, table: dict[str, list[Any]], num_rows: int) -> list[Row]:
        wanted = [f"label_{place}" for place in range(1, len(table) + 1)]
        if set(table) != set(wanted):
            raise InputError(
                f"{self._what} must have only the columns image, label_1, label_2 and so on, without a gap"
            )
        numbers = {folded_name(name): number for number, name in enumerate(self.class_names or ())}
        rows: list[Row] = []
        for index in range(num_rows):
            given = [table[name][index] for name in wanted]
            named = [label for label in given if label is not None]
            if given[: len(named)] != named:
                raise InputError(
                    f"{self._what} has an empty place before a label in row {index + 1} of answers; close the gap"
                )
            row = [self._label(label, numbers) for label in named]
            if len(set(row)) != len(row):
                raise InputError(f"{self._what} names a label twice in row {index + 1} of answers; name each once")
            rows.append(row or None)
        return rows

    def _label(self, label: Any, numbers: dict[str, int]) -> int:
        if isinstance(label, str):
            number = numbers.get(folded_name(label))
            if number is not None:
                return number
            if not re.fullmatch(r"[0-9]{1,9}(\.0+)?", label):
                raise InputError(
                    f"{self._what} has the label {label[:50]!r}, which is no class number and none of class_names; give numbers, "
                    "or class_names in a description file"
                )
            label = float(label)
        if isinstance(label, float) and label.is_integer():  # what pandas makes of whole numbers beside empty places
            label = int(label)
        if type(label) is not int or not 0 <= label < self.num_classes:
            raise InputError(f"{self._what} has the label {label!r} but labels must be 0 to {self.num_classes - 1}")
        return label

    def _scores(self, table: dict[str, list[Any]], num_rows: int) -> list[Row]:
        names = list(table)
        if all(re.fullmatch("score_[0-9]+", name) for name in names):
            wanted = [f"score_{number}" for number in range(self.num_classes)]
            if set(names) != set(wanted):
                raise InputError(
                    f"{self._what} has {len(names)} columns of scores but must have score_0 to score_{self.num_classes - 1}, "
                    "one for each class"
                )
        else:
            by_name = {folded_name(name): name for name in names}
            if not self._is_described and set(by_name) != {folded_name(name) for name in self.class_names or ()}:
                # Its classes are what its columns are called: a label map says which are the owner's.
                self.class_names, self.num_classes = tuple(names), len(names)
            folded = [folded_name(name) for name in self.class_names or ()]
            if set(folded) != set(by_name) or len(by_name) != len(names):
                raise InputError(
                    f"{self._what} must have a column of scores for each of {len(folded)} class_names, each once, and no other"
                )
            wanted = [by_name[name] for name in folded]
        if len(wanted) < 2:
            raise InputError(
                f"{self._what} has {len(wanted)} columns of answers; give label_1 and so on, or a score for each class"
            )
        return [self._score_row([table[name][index] for name in wanted], index) for index in range(num_rows)]

    def _score_row(self, given: list[Any], index: int) -> Row:
        if all(value is None for value in given):
            return None
        try:
            row = [float(value) for value in given]
        except (TypeError, ValueError):
            row = [math.nan]
        if any(math.isnan(value) for value in row):
            raise InputError(
                f"{self._what} has a score that is no number in row {index + 1} of answers; leave the whole row empty if "
                "the answer was refused"
            )
        return row
