"""Answers as the bytes of a Parquet file, from which a p-value can be computed again."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from taggants.data.layouts.parquet.pages import unpacked_bytes
from taggants.detection.outcome import MAX_CLASS_NUMBER
from taggants.errors import InputError, check_integer
from taggants.limits import MOST_ANSWER_VALUES
from taggants.storage import encode_table
from taggants.storage.encoding import damage_named
from taggants.suspects.answers import Answers

_MOST_UNPACKED: Final = 2**22  # bytes beyond twice those of the values, for dictionaries and levels
_KINDS: Final = {"scores": pa.float64(), "labels": pa.int64()}


def encode_answers(answers: Answers) -> bytes:
    """Returns one row for each image, in the order asked: a list `scores` (float64), or `labels` (int64), best first."""
    name = "labels" if answers.scores is None else "scores"
    table = np.asarray(answers.labels, np.int64) if answers.scores is None else np.asarray(answers.scores, np.float64)
    column = pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), table.shape[1])
    return encode_table(pa.table({name: column}), compression="zstd")


def check_recordable(num_images: int, num_classes: int) -> None:
    """Raises InputError where answers to so many images, with scores of so many classes, would take too much memory."""
    if num_images * num_classes > MOST_ANSWER_VALUES:
        raise InputError(
            f"{num_images} answers with scores of {num_classes} classes are more than {MOST_ANSWER_VALUES} values; ask fewer "
            "covers, amplitudes or keys."
        )


def decode_answers(data: bytes, num_classes: int | None, num_images: int | None = None) -> Answers:
    """Returns the answers in such bytes, checked as `Answers.of` does; InputError where they are none.

    num_classes: of the model that answered; None: as many as the answers show.
    num_images: the most that it was asked; None: any number.
    """
    with damage_named("the file of answers"):
        file = pq.ParquetFile(pa.BufferReader(data))
        part: Any = file.schema_arrow.field(0) if len(file.schema_arrow) == 1 else None
        kind = None if part is None else _KINDS.get(part.name)
        # Before anything is read: a column beside it, or lists within the lists, may be of any size.
        if kind is None or not pa.types.is_fixed_size_list(part.type) or part.type.value_type != kind:
            raise InputError("The file of answers must have one column, scores or labels, of lists of one length.")
        num_rows, width = file.metadata.num_rows, part.type.list_size
        if num_images is not None and num_rows > num_images:
            raise InputError(f"The file of answers has {num_rows} answers, but {num_images} images are asked at most.")
        if num_rows * width > MOST_ANSWER_VALUES:
            raise InputError(f"The file of answers must have at most {MOST_ANSWER_VALUES} values.")
        if unpacked_bytes(data) > 16 * num_rows * width + _MOST_UNPACKED:
            raise InputError("The file of answers unpacks to more than its answers take; use the original file.")
        column: Any = file.read().column(0).combine_chunks()
    if column.null_count or column.values.null_count or not len(column):
        raise InputError("The file of answers is empty or has empty places; use the original file.")
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
    if num_classes is None:
        num_classes = values.shape[1] if kind == pa.float64() else max(2, int(values.max(initial=0)) + 1)
        check_integer("The number of classes in the file of answers", num_classes, 1, MAX_CLASS_NUMBER + 1)
    return Answers.of(values, len(values), num_classes)
