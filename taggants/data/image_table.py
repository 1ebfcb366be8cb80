"""Encoded images and labels as one table in the Hugging Face layout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import pyarrow as pa
from numpy.typing import ArrayLike


def image_table(
    encoded: Iterable[tuple[bytes, str]], labels: ArrayLike, class_names: Sequence[str] | None, source: str
) -> pa.Table:
    """Returns a table with the columns image (struct<bytes, path>) and label (int64), which `datasets` reads with class names.

    Args:
        encoded: per image the bytes of its file, and a path as its name.
        labels: int [N], from 0.
        class_names: by label, if known.
        source: where the dataset comes from, in words; kept in the metadata.
    """
    label: dict[str, object] = {"dtype": "int64", "_type": "Value"}
    if class_names is not None:
        label = {"names": list(class_names), "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}})}
    if class_names is not None:
        metadata["class_names"] = json.dumps(list(class_names))
    metadata["source"] = source
    image_type = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": image_type, "label": pa.int64()}, metadata=metadata)
    cells = pa.array([{"bytes": data, "path": path} for data, path in encoded], image_type)
    return pa.table({"image": cells, "label": labels}, schema=schema)
