"""Values and tables as the bytes of a file, and what damaged bytes raise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from taggants.errors import InputError


def encode_json(value: Any) -> bytes:
    """Returns: a value as indented JSON with sorted keys and a newline at its end."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def encode_table(table: pa.Table, **parquet_writer_options: Any) -> bytes:
    """Returns: the bytes of a table as one Parquet file; the options are those of `pyarrow.parquet.write_table`."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **parquet_writer_options)
    return bytes(sink.getvalue().to_pybytes())


@contextmanager
def damage_named(uri: str) -> Iterator[None]:
    """Turns what pyarrow raises for a damaged file into an InputError that names it."""
    damaged = f"{uri} is damaged or not a complete Parquet file; write or fetch it again."
    try:
        yield
    except InputError:
        raise
    except (
        pa.ArrowInvalid,
        pa.ArrowNotImplementedError,
        pa.ArrowKeyError,
        pa.ArrowIndexError,
        UnicodeError,
        MemoryError,
    ):
        raise InputError(damaged) from None
    except OSError as error:
        # pyarrow raises OSError for a damaged page as for a lost connection; only the first is for a person to correct.
        if type(error) is OSError and error.errno is None and "AWS Error" not in str(error):
            raise InputError(damaged) from None
        raise
