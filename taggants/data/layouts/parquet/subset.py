"""A part of a dataset: its first classes, with the first images of each."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taggants.data.layouts.parquet.source import ParquetSource, json_metadata, label_feature_of, writer_like
from taggants.errors import InputError
from taggants.storage import Root


def write_subset(
    source: ParquetSource, root: Root, path: str, *, num_classes: int, images_per_class: int | None
) -> None:
    """Writes the rows of the first classes as one Parquet file, in source order, encoded images and labels unchanged.

    Schema and metadata are those of the source's first file, apart from the class names, which are cut to
    `num_classes`. A file that holds exactly this is left alone.

    Args:
        source: the dataset to take from.
        root: where the file goes.
        path: its name there.
        num_classes: rows with a smaller label are kept.
        images_per_class: the first so many rows of each class; None keeps all.

    Raises:
        InputError: there are fewer classes, or fewer images in a class; or `path` holds something else.
    """
    index = source.index()
    rows = _rows(index.labels, index.num_classes, num_classes, images_per_class)
    with source.open_file(index.files[0]) as first_file:
        schema = first_file.schema_arrow
        cut_schema = _with_class_names_cut(schema, source.label_column, num_classes)
        parts = [cut_schema.empty_table()]
        for i, name in enumerate(index.files):
            with source.open_file(name) as file:
                if not file.schema_arrow.equals(schema):
                    raise InputError(
                        f"{name} and {index.files[0]} in {source.root.uri} differ in their columns; use one dataset."
                    )
                start = index.file_offsets[i]
                for row_group, num_rows in enumerate(source.row_group_rows[i]):
                    kept = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + num_rows)] - start
                    if len(kept):
                        parts.append(file.read_row_group(row_group).take(pa.array(kept)).cast(cut_schema))
                    start += num_rows
        table = pa.concat_tables(parts)
        if not root.exists(path):
            sink = io.BytesIO()
            row_group_size = max(max(source.row_group_rows[0], default=0), 1)
            with writer_like(first_file, sink, cut_schema) as writer:
                writer.write_table(table, row_group_size=row_group_size)
            root.write_bytes(path, sink.getvalue())
        elif not _holds(root, path, table):
            raise InputError(
                f"{root.uri_of(path)} holds something other than this subset; choose another path, or delete it."
            )


def _holds(root: Root, path: str, table: pa.Table) -> bool:
    try:
        return bool(root.read_table(path).equals(table, check_metadata=True))
    except InputError:  # no Parquet file at all
        return False


def _rows(
    labels: NDArray[np.int64], num_available: int, num_classes: int, images_per_class: int | None
) -> NDArray[np.int64]:
    """Returns: the sample ids of the subset, rising."""
    if not 1 <= num_classes <= num_available:
        raise InputError(
            f"num_classes is {num_classes}; the dataset has {num_available} classes, so give 1 to {num_available}."
        )
    if images_per_class is None:
        return np.flatnonzero(labels < num_classes)
    counts = np.bincount(labels, minlength=num_classes)[:num_classes]
    if not 1 <= images_per_class <= counts.min():
        raise InputError(
            f"images_per_class is {images_per_class}; class {counts.argmin()} has {counts.min()} images, so give 1 to "
            f"{counts.min()}, or leave it out for all."
        )
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:images_per_class] for label in range(num_classes)]))


def _with_class_names_cut(schema: pa.Schema, label_column: str, num_classes: int) -> pa.Schema:
    metadata = dict(schema.metadata or {})
    names = json_metadata(schema, b"class_names")
    if isinstance(names, list):
        metadata[b"class_names"] = json.dumps(names[:num_classes]).encode()
    description = json_metadata(schema, b"huggingface")
    feature = label_feature_of(description, label_column)
    if "names" in feature:
        feature["names"] = feature["names"][:num_classes]
        metadata[b"huggingface"] = json.dumps(description).encode()
    return schema.with_metadata(metadata)
