"""What a root asks of the place where its files lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

import pyarrow as pa

PIECE_BYTES = 4 * 2**20  # each read from object storage is a request of tens of milliseconds


@dataclass(frozen=True)
class Attributes:
    """What a file has besides its bytes, as far as another one can be given the same.

    modified_ns: when it was written, in ns since 1970; None on S3, which sets it itself. headers: of an S3 object, by the
    names that boto3 has for them: CacheControl, ContentType, Metadata and so on.
    """

    modified_ns: int | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)


NO_ATTRIBUTES = Attributes()


class Store(Protocol):
    """Where a root's files lie. Raises FileNotFoundError and PermissionError alike for local files and S3."""

    def open_input(self, path: str) -> pa.NativeFile: ...
    def read(self, path: str) -> bytes: ...
    def write(self, path: str, source: BinaryIO | pa.NativeFile, *, private: bool, like: Attributes) -> None: ...
    def writing(self, path: str, *, private: bool, like: Attributes) -> AbstractContextManager[BinaryIO]: ...
    def attributes(self, path: str) -> Attributes: ...
    def check_writable(self) -> None: ...
    def create(self, path: str, data: bytes, *, private: bool) -> bool: ...
    def size_bytes(self, path: str) -> int: ...
    def version(self, path: str) -> str: ...
    def list(self, path: str) -> Iterator[str]: ...
    def sizes(self, path: str) -> Iterator[tuple[str, int]]: ...
    def delete(self, path: str) -> None: ...
