"""Answers as the bytes of a Parquet file, from which a p-value can be computed again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from taggants.errors import InputError
from taggants.storage import encode_table
from taggants.storage.encoding import damage_named
from taggants.suspects.answers import Answers


def encode_answers(answers: Answers) -> bytes:
    """Returns one row for each image, in the order asked: a list `scores` (float64), or `labels` (int64), best first."""
    name = "labels" if answers.scores is None else "scores"
    table = np.asarray(answers.labels, np.int64) if answers.scores is None else np.asarray(answers.scores, np.float64)
    column = pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), table.shape[1])
    return encode_table(pa.table({name: column}), compression="zstd")


def decode_answers(data: bytes, num_classes: int) -> Answers:
    """Returns the answers in such bytes, checked as `Answers.of` does; InputError where they are none."""
    with damage_named("the file of answers"):
        table = pq.read_table(pa.BufferReader(data))
    kinds = {"scores": pa.float64(), "labels": pa.int64()}
    kind = kinds.get(table.column_names[0]) if table.num_columns == 1 else None
    column: Any = table.column(0).combine_chunks() if kind is not None else None
    if column is None or not pa.types.is_fixed_size_list(column.type) or column.type.value_type != kind:
        raise InputError("The file of answers must have one column, scores or labels, of lists of one length.")
    if column.null_count or column.values.null_count or not len(column):
        raise InputError("The file of answers is empty or has empty places; use the original file.")
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
    return Answers.of(values, len(values), num_classes)
