"""A root: the folder or prefix that all paths are relative to, and what can be done with the files below it."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from taggants.errors import InputError
from taggants.storage.encoding import damage_named, encode_json, encode_table
from taggants.storage.local import LocalStore
from taggants.storage.s3 import S3_SCHEME, S3Store
from taggants.storage.store import NO_ATTRIBUTES, PIECE_BYTES, Attributes, Store

CLAIM_PATH = ".taggants-claim"
"""The file of `Root.claimed`."""

_FOR_A_PERSON = {
    errno.EROFS: "the file system is read-only; give a folder that can be written",
    errno.ELOOP: "its links lead in a circle; remove them",
    errno.ENAMETOOLONG: "the name is too long for the file system; give a shorter path",
}


@dataclass(frozen=True)
class Root:
    """A folder of files, local or on S3; equal roots have equal `uri`, and a root pickles as its uri alone.

    Paths given to its methods are relative, with "/" between the parts, and may not leave the root.

    Attributes:
        uri: an absolute local path, or "s3://bucket/prefix". A relative path and "~" are resolved when the root is
            made, so that processes with another working folder agree.

    Raises:
        InputError: the uri is empty, of another scheme, names no bucket, or carries credentials.
    """

    uri: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", _absolute_uri(self.uri))

    def __reduce__(self) -> tuple[type[Root], tuple[str]]:
        return Root, (self.uri,)  # leaves the store behind: its client knows the credentials

    @functools.cached_property
    def _store(self) -> Store:
        return S3Store(self.uri) if self.uri.startswith(S3_SCHEME) else LocalStore(self.uri)

    @classmethod
    def of_file(cls, uri: str) -> tuple[Root, str]:
        """Returns: the root at the folder of a file's path or uri, and the file's name in it."""
        folder, slash, name = uri.rpartition("/")
        return cls(folder or slash or "."), name

    def child(self, path: str) -> Root:
        """Returns: the root at the folder `path` below this one."""
        return Root(self.uri_of(path))

    def uri_of(self, path: str) -> str:
        """Returns: the full uri of `path`, as messages name it."""
        return f"{self.uri.rstrip('/')}/{self._inside(path)}"

    def read_bytes(self, path: str) -> bytes:
        """Returns: the content of a file.

        Raises:
            InputError: it is missing or may not be read.
        """
        with self._at(path) as inside:
            return self._store.read(inside)

    def write_bytes(self, path: str, data: bytes, *, private: bool = False) -> None:
        """Writes a file whole, over any older one, and makes the folders it needs.

        Args:
            path: where.
            data: what.
            private: only the owner may read it (mode 0600 from the first byte); on S3 the bucket's policy decides.
        """
        with self._at(path) as inside:
            self._store.write(inside, io.BytesIO(data), private=private, like=NO_ATTRIBUTES)

    @contextmanager
    def writing(self, path: str, *, private: bool = False, like: Attributes = NO_ATTRIBUTES) -> Iterator[BinaryIO]:
        """Opens a file for writing from start to end; it appears whole, over any older one, when the block ends.

        If the block raises, nothing appears and an older file stays. On S3 this is a multipart upload: of a process that
        is killed, parts stay that only a lifecycle rule of the bucket removes; no reader sees them.

        `private` as in `write_bytes`. `like` is what the file gets besides its bytes.

        Yields: a sink for bytes, which cannot seek.
        """
        with self._at(path) as inside, self._store.writing(inside, private=private, like=like) as sink:
            yield sink

    def check_writable(self) -> None:
        """Checks that files can be written here; leaves none.

        Raises:
            InputError: the bucket is missing, access is denied, or the folder lies below a file.
        """
        with self._at(None):
            self._store.check_writable()

    def check_exclusive(self) -> None:
        """Checks that `create_bytes` never writes over a file here, by creating one twice; leaves none.

        Raises:
            InputError: it does: the server ignores the condition.
        """
        with self._at(None):
            self._store.check_exclusive()

    def settle(self, paths: Iterable[str]) -> None:
        """Gives files times of change (ctime) in this order, and leaves all else as it is: else they tell which of the files that
        several threads wrote took longer. On S3 nothing is done."""
        for path in paths:
            with self._at(path) as inside:
                self._store.settle(inside)

    def remove_leftovers(self, path: str) -> None:
        """Deletes the temporary files of writers that were killed below the folder `path` ("" for all), none of living ones."""
        with self._at(path or None) as inside:
            self._store.remove_leftovers(inside)

    def create_bytes(self, path: str, data: bytes, *, private: bool = False) -> bool:
        """Writes a file whole unless it exists; of several callers at once exactly one creates it.

        `private` as in `write_bytes`.

        Returns: True if this call created it, False if it was there. On S3 a put whose answer was lost is sent again
            and may then find its own file: whoever needs to know compares the content.
        """
        with self._at(path) as inside:
            return self._store.create(inside, data, private=private)

    @contextmanager
    def claimed(self, content: str) -> Iterator[None]:
        """Keeps writers of anything else out of this folder for as long as the block takes, by a file that is gone afterwards.

        Args:
            content: a hash of what is written; several writers of the same may be here at once.

        Raises:
            InputError: somebody writes something else here, or was killed while writing it.
        """
        data = f"{content}\n".encode()
        if not self.create_bytes(CLAIM_PATH, data) and self.exists(CLAIM_PATH) and self.read_bytes(CLAIM_PATH) != data:
            raise InputError(
                f"something else is written into {self.uri} by another process, or by one that was killed; give an empty folder, "
                f"or delete what is there with {CLAIM_PATH}."
            )
        try:
            yield
        finally:
            self.delete(CLAIM_PATH)

    @contextmanager
    def appending(self, path: str) -> Iterator[tuple[list[bytes], Callable[[bytes], None]]]:
        """Opens a private log of lines, which only ever grows, for one writer at a time.

        Locally it is one file of mode 0600; on S3, where nothing can be appended to, a folder of one object for each call. A last
        line that was torn by a crash is not there.

        Yields: the lines so far, without their ends; and a function that appends one line without its end. Once it returns, the
            line survives a killed process and a lost machine. It may be called from several threads, one at a time.

        Raises:
            InputError: another process has the log open (on S3: once both append).
        """
        with self._at(path) as inside, self._store.appending(inside) as log:
            yield log

    def read_json(self, path: str) -> Any:
        """Returns: the parsed content of a JSON file.

        Raises:
            InputError: it is missing, or not one whole JSON value.
        """
        content = self.read_bytes(path)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):  # of numbers with thousands of digits, and of absurd nesting, too
            raise InputError(
                f"{self.uri_of(path)} is not valid JSON; restore it, or delete it if it can be made again."
            ) from None

    def write_json(self, path: str, value: Any, *, private: bool = False) -> None:
        """Writes a value as indented JSON with sorted keys and a newline at its end; `private` as in `write_bytes`."""
        self.write_bytes(path, encode_json(value), private=private)

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """Returns: a Parquet file as a table, all columns or those named, in the order of the file.

        Raises:
            InputError: it is missing, no Parquet file, or lacks a named column.
        """
        with self.open_input(path) as source, damage_named(self.uri_of(path)):
            file = pq.ParquetFile(source)
            missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
            if missing:
                names = ", ".join(file.schema_arrow.names)
                raise InputError(f"{self.uri_of(path)} has no column {missing[0]!r}; name one of: {names}.")
            return file.read(columns=columns)

    def write_table(self, path: str, table: pa.Table, **parquet_writer_options: Any) -> None:
        """Writes a table as one Parquet file; the options are those of `pyarrow.parquet.write_table`."""
        self.write_bytes(path, encode_table(table, **parquet_writer_options))

    def open_input(self, path: str) -> pa.NativeFile:
        """Returns: a file open for reading at random, to be closed by the caller (for instance for `pq.ParquetFile`).

        Raises:
            InputError: it is missing or may not be read.
        """
        with self._at(path) as inside:
            return self._store.open_input(inside)

    def exists(self, path: str) -> bool:
        """Returns: whether `path` is a file (a folder is none)."""
        with self._at(path) as inside:
            try:
                self._store.size_bytes(inside)
            except FileNotFoundError:
                return False
            return True

    def size_bytes(self, path: str) -> int:
        """Returns: the size of a file.

        Raises:
            InputError: it is missing.
        """
        with self._at(path) as inside:
            return self._store.size_bytes(inside)

    def version(self, path: str) -> str:
        """Returns: a text that is another one once a file was written again: on S3 its ETag, a hash of the content; locally
        its inode, size and times, in which two writes within one tick of the clock (milliseconds) may agree.

        Raises:
            InputError: it is missing.
        """
        with self._at(path) as inside:
            return self._store.version(inside)

    def attributes(self, path: str) -> Attributes:
        """Returns: what a file has besides its bytes.

        Raises:
            InputError: it is missing.
        """
        with self._at(path) as inside:
            return self._store.attributes(inside)

    def sha256(self, path: str) -> str:
        """Returns: the SHA-256 of a file's content as 64 hex digits, read in pieces.

        Raises:
            InputError: it is missing.
        """
        digest = hashlib.sha256()
        piece = memoryview(bytearray(PIECE_BYTES))
        with self.open_input(path) as source:
            while size := source.readinto(piece):
                digest.update(piece[:size])
        return digest.hexdigest()

    def list(self, path: str = "") -> list[str]:
        """Returns: all files below the folder `path`, at any depth, as sorted paths from the root; [] if missing."""
        with self._at(path or None) as inside:
            return sorted(self._store.list(inside))

    def sizes(self, path: str = "") -> dict[str, int]:
        """Returns: the size in bytes of all files that `list` names, in its order, from one listing."""
        with self._at(path or None) as inside:
            return dict(sorted(self._store.sizes(inside)))

    def copy(self, path: str, destination: Root, destination_path: str) -> None:
        """Copies a file and its `attributes` to any root; it appears there whole, over any older one. From S3 to S3 the
        server copies; else the bytes pass through here in pieces."""
        if isinstance(self._store, S3Store) and isinstance(destination._store, S3Store):
            with self._at(path) as inside:
                size_bytes, etag = self._store.size_and_etag(inside)
            with destination._at(destination_path) as copied:
                destination._store.copy_from(self._store, inside, size_bytes, etag, copied)
            return
        # Neither kind of storage can hold the other's: a request less for every file.
        like = NO_ATTRIBUTES if isinstance(self._store, S3Store) else self.attributes(path)
        with self.open_input(path) as source, destination._at(destination_path) as copied:
            destination._store.write(copied, source, private=False, like=like)

    def delete(self, path: str) -> None:
        """Deletes a file; a missing one is fine."""
        with self._at(path) as inside:
            self._store.delete(inside)

    def _inside(self, path: str) -> str:
        """Returns: `path` in its shortest form; refuses one that leaves the root."""
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or "\0" in path or not parts.parts or not _is_encodable(path):
            raise InputError(f"Path {path!r} names nothing inside {self.uri}; give a relative path without '..'.")
        return str(parts)

    @contextmanager
    def _at(self, path: str | None) -> Iterator[str]:
        """Yields: `path`, or "" for the root itself; turns what a person has to fix there into an InputError."""
        # Only what a person has to fix becomes an InputError: it stops a job. A lost connection or a full disk stays
        # what it is, so that the work is tried again.
        inside = "" if path is None else self._inside(path)
        uri = self.uri if path is None else self.uri_of(path)
        try:
            yield inside
        except FileNotFoundError:
            raise InputError(f"{uri} does not exist; check the folder or bucket and the path.") from None
        except PermissionError:
            fix = "check the permissions there"
            if uri.startswith(S3_SCHEME):  # some servers deny what does not exist
                fix = "check that the bucket exists, what you may do there, and the AWS_* variables"
            raise InputError(f"Access to {uri} was denied; {fix}.") from None
        except (IsADirectoryError, NotADirectoryError, FileExistsError):
            raise InputError(f"{uri} is a folder or lies below a file; choose another path.") from None
        except OSError as error:
            if error.errno not in _FOR_A_PERSON:
                raise
            raise InputError(f"{uri}: {_FOR_A_PERSON[error.errno]}.") from None


def _is_encodable(path: str) -> bool:
    """Whether it may be the name of a file: JSON can hold texts that no file system can."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def _absolute_uri(uri: str) -> str:
    if not uri:
        raise InputError("The storage root is empty; give a local folder or s3://bucket/prefix.")
    if uri.startswith(S3_SCHEME):
        bucket, _, prefix = uri.removeprefix(S3_SCHEME).partition("/")
        if "@" in bucket or "?" in uri:  # may hold a secret, so the message does not quote it
            raise InputError("The s3:// root holds credentials or options; leave them to the AWS_* variables.")
        if not bucket or ".." in prefix.split("/"):
            raise InputError(f"{uri!r} is not an S3 root; give s3://bucket/prefix.")
        return S3_SCHEME + "/".join([bucket, *(part for part in prefix.split("/") if part)])
    if "\0" in uri or not _is_encodable(uri):
        raise InputError(f"{uri!r} holds a NUL character or a lone surrogate; give the path without it.")
    if "://" in uri:
        raise InputError(f"{uri!r} has a scheme that is not supported; give a local folder or s3://bucket/prefix.")
    return os.path.abspath(os.path.expanduser(uri))
