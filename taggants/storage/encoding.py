"""Values and tables as the bytes of a file."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def encode_json(value: Any) -> bytes:
    """Returns: a value as indented JSON with sorted keys and a newline at its end."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def encode_table(table: pa.Table, **parquet_writer_options: Any) -> bytes:
    """Returns: the bytes of a table as one Parquet file; the options are those of `pyarrow.parquet.write_table`."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **parquet_writer_options)
    return bytes(sink.getvalue().to_pybytes())
