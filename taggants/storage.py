"""The one way to files: bytes, JSON and Parquet under a root that is a local folder or an S3 prefix.

Nothing else in the project opens a file. What is written appears whole or not at all: readers see the old bytes or the
new ones. Credentials and endpoint come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...) where a root is
used, so that a pickled root holds nothing secret.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from taggants.errors import InputError

_S3_SCHEME = "s3://"


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
    def _store(self) -> _Store:
        return _S3Store(self.uri) if self.uri.startswith(_S3_SCHEME) else _LocalStore(self.uri)

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
        with self.open_input(path) as source:
            return bytes(source.read())

    def write_bytes(self, path: str, data: bytes, *, private: bool = False) -> None:
        """Writes a file whole, over any older one, and makes the folders it needs.

        Args:
            path: where.
            data: what.
            private: only the owner may read it (mode 0600 from the first byte); on S3 the bucket's policy decides.
        """
        inside = self._inside(path)
        with self._input_errors(path):
            self._store.write(inside, io.BytesIO(data), private=private)

    def create_bytes(self, path: str, data: bytes, *, private: bool = False) -> bool:
        """Writes a file whole unless it exists; of several callers at once exactly one creates it.

        `private` as in `write_bytes`.

        Returns: True if this call created it, False if it was there. On S3 a put whose answer was lost is sent again
            and may then find its own file: whoever needs to know compares the content.
        """
        inside = self._inside(path)
        with self._input_errors(path):
            return self._store.create(inside, data, private=private)

    def read_json(self, path: str) -> Any:
        """Returns: the parsed content of a JSON file.

        Raises:
            InputError: it is missing, or not one whole JSON value.
        """
        try:
            return json.loads(self.read_bytes(path))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise InputError(
                f"{self.uri_of(path)} is not whole JSON; restore it, or delete it if it can be made again."
            ) from None

    def write_json(self, path: str, value: Any, *, private: bool = False) -> None:
        """Writes a value as indented JSON with sorted keys and a newline at its end; `private` as in `write_bytes`."""
        self.write_bytes(path, encode_json(value), private=private)

    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """Returns: a Parquet file as a table, all columns or those named, in the order of the file.

        Raises:
            InputError: it is missing, no Parquet file, or lacks a named column.
        """
        with self.open_input(path) as source:
            try:
                file = pq.ParquetFile(source)
                missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
                if missing:
                    names = ", ".join(file.schema_arrow.names)
                    raise InputError(f"{self.uri_of(path)} has no column {missing[0]!r}; name one of: {names}.")
                return file.read(columns=columns)
            except pa.ArrowInvalid:
                raise InputError(f"{self.uri_of(path)} is not a whole Parquet file; write it again.") from None

    def write_table(self, path: str, table: pa.Table, **parquet_writer_options: Any) -> None:
        """Writes a table as one Parquet file; the options are those of `pyarrow.parquet.write_table`."""
        self.write_bytes(path, encode_table(table, **parquet_writer_options))

    def open_input(self, path: str) -> pa.NativeFile:
        """Returns: a file open for reading at random, to be closed by the caller (for instance for `pq.ParquetFile`).

        Raises:
            InputError: it is missing or may not be read.
        """
        inside = self._inside(path)
        with self._input_errors(path):
            return self._store.open_input(inside)

    def exists(self, path: str) -> bool:
        """Returns: whether `path` is a file (a folder is none)."""
        inside = self._inside(path)
        with self._input_errors(path):
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
        inside = self._inside(path)
        with self._input_errors(path):
            return self._store.size_bytes(inside)

    def sha256(self, path: str) -> str:
        """Returns: the SHA-256 of a file's content as 64 hex digits, read in pieces.

        Raises:
            InputError: it is missing.
        """
        with self.open_input(path) as source:
            return hashlib.file_digest(source, "sha256").hexdigest()

    def list(self, path: str = "") -> list[str]:
        """Returns: all files below the folder `path`, at any depth, as sorted paths from the root; [] if missing."""
        inside = self._inside(path) if path else ""
        with self._input_errors(path):
            return sorted(self._store.list(inside))

    def copy(self, path: str, destination: Root, destination_path: str) -> None:
        """Copies a file to any root, in pieces; it appears there whole, over any older one."""
        inside = destination._inside(destination_path)
        with self.open_input(path) as source, destination._input_errors(destination_path):
            destination._store.write(inside, source, private=False)

    def delete(self, path: str) -> None:
        """Deletes a file; a missing one is fine."""
        inside = self._inside(path)
        with self._input_errors(path):
            self._store.delete(inside)

    def _inside(self, path: str) -> str:
        """Returns: `path` in its shortest form; refuses one that leaves the root."""
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or "\0" in path or not parts.parts:
            raise InputError(f"Path {path!r} names nothing inside {self.uri}; give a relative path without '..'.")
        return str(parts)

    @contextmanager
    def _input_errors(self, path: str) -> Iterator[None]:
        # Only what a person has to mend becomes an InputError: it stops a job. A lost connection or a full disk stays
        # what it is, so that the work is tried again.
        uri = self.uri_of(path) if path else self.uri
        try:
            yield
        except FileNotFoundError:
            raise InputError(f"{uri} does not exist; check the folder or bucket and the path.") from None
        except PermissionError:
            raise InputError(
                f"Access to {uri} was denied; check the permissions there and, for S3, the AWS_* variables."
            ) from None
        except (IsADirectoryError, NotADirectoryError, FileExistsError):
            raise InputError(f"{uri} is a folder or lies below a file; choose another path.") from None


def encode_json(value: Any) -> bytes:
    """Returns: a value as indented JSON with sorted keys and a newline at its end."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def encode_table(table: pa.Table, **parquet_writer_options: Any) -> bytes:
    """Returns: the bytes of a table as one Parquet file; the options are those of `pyarrow.parquet.write_table`."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **parquet_writer_options)
    return bytes(sink.getvalue().to_pybytes())


class _Store(Protocol):
    """Where a root's files lie. Raises FileNotFoundError and PermissionError alike for local files and S3."""

    def open_input(self, path: str) -> pa.NativeFile: ...
    def write(self, path: str, source: BinaryIO | pa.NativeFile, *, private: bool) -> None: ...
    def create(self, path: str, data: bytes, *, private: bool) -> bool: ...
    def size_bytes(self, path: str) -> int: ...
    def list(self, path: str) -> Iterator[str]: ...
    def delete(self, path: str) -> None: ...


class _LocalStore:
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._filesystem = pafs.LocalFileSystem()

    def open_input(self, path: str) -> pa.NativeFile:
        full_path = self._full(path)
        os.stat(full_path)  # raises the precise error, which pyarrow words as a bare OSError
        if os.path.isdir(full_path):
            raise IsADirectoryError(full_path)
        return self._filesystem.open_input_file(full_path)

    def write(self, path: str, source: BinaryIO | pa.NativeFile, *, private: bool) -> None:
        with self._temporary_file(path, source, private=private) as temporary:
            os.replace(temporary, self._full(path))

    def create(self, path: str, data: bytes, *, private: bool) -> bool:
        with self._temporary_file(path, io.BytesIO(data), private=private) as temporary:
            try:
                os.link(temporary, self._full(path))  # unlike a rename it fails if the name is taken
            except FileExistsError:
                return False
        return True

    def size_bytes(self, path: str) -> int:
        full_path = self._full(path)
        try:
            size_bytes = os.stat(full_path).st_size
        except NotADirectoryError:
            raise FileNotFoundError(full_path) from None
        if os.path.isdir(full_path):
            raise FileNotFoundError(full_path)
        return size_bytes

    def list(self, path: str) -> Iterator[str]:
        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        for folder, _, names in os.walk(self._full(path), onerror=refuse, followlinks=True):
            for name in names:
                if not _is_temporary(name):
                    yield os.path.relpath(os.path.join(folder, name), self._folder).replace(os.sep, "/")

    def delete(self, path: str) -> None:
        try:
            os.unlink(self._full(path))
        except FileNotFoundError:
            return

    def _full(self, path: str) -> str:
        return os.path.join(self._folder, path)

    @contextmanager
    def _temporary_file(self, path: str, source: BinaryIO | pa.NativeFile, *, private: bool) -> Iterator[str]:
        """Yields: a file with the bytes of `source`, on disk, next to `path`, with a name that listings leave out."""
        folder, name = os.path.split(self._full(path))
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f".{name[:64]}.{uuid.uuid4().hex}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        try:
            with open(descriptor, "wb") as file:
                shutil.copyfileobj(source, file, 2**20)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)


class _S3Store:
    """Reads through pyarrow; the rest through boto3: pyarrow has no conditional put, publishes half a file when a write
    is broken off, and leaves folder markers behind a delete."""

    def __init__(self, uri: str) -> None:
        self._bucket, _, prefix = uri.removeprefix(_S3_SCHEME).partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    @functools.cached_property
    def _client(self) -> Any:
        import boto3.session  # half a second that local work does not pay
        from botocore.config import Config

        with _s3_errors():
            session = boto3.session.Session()
            return session.client(
                "s3",
                region_name=session.region_name or "us-east-1",
                config=Config(retries={"mode": "standard", "max_attempts": 5}),
            )

    @functools.cached_property
    def _filesystem(self) -> pafs.S3FileSystem:
        scheme, _, host = self._client.meta.endpoint_url.partition("://")  # one answer to "where" for both libraries
        return pafs.S3FileSystem(region=self._client.meta.region_name, scheme=scheme, endpoint_override=host)

    def open_input(self, path: str) -> pa.NativeFile:
        try:
            return self._filesystem.open_input_file(f"{self._bucket}/{self._prefix}{path}")
        except OSError:
            self.size_bytes(path)  # raises what is wrong with the bucket, the key or the credentials, if it is that
            raise

    def write(self, path: str, source: BinaryIO | pa.NativeFile, *, private: bool) -> None:
        with _s3_errors():
            if isinstance(source, io.BytesIO):
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=source)
            else:  # in parts, which appear together
                self._client.upload_fileobj(source, self._bucket, self._prefix + path)

    def create(self, path: str, data: bytes, *, private: bool) -> bool:
        with _s3_errors():
            for pause_s in (0.1, 0.3, 1.0, None):
                try:
                    self._client.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=data, IfNoneMatch="*")
                except self._client.exceptions.ClientError as error:
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status == 412:
                        return False
                    if status != 409 or pause_s is None:
                        raise
                    time.sleep(pause_s)  # another put is under way and may yet fail: only a 412 says that it is there
                else:
                    return True
        raise AssertionError("unreachable")

    def size_bytes(self, path: str) -> int:
        with _s3_errors():
            return int(self._client.head_object(Bucket=self._bucket, Key=self._prefix + path)["ContentLength"])

    def list(self, path: str) -> Iterator[str]:
        prefix = f"{self._prefix}{path}/" if path else self._prefix
        with _s3_errors():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                for entry in page.get("Contents", []):
                    if not entry["Key"].endswith("/"):  # a folder marker
                        yield entry["Key"].removeprefix(self._prefix)

    def delete(self, path: str) -> None:
        with _s3_errors():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + path)


@contextmanager
def _s3_errors() -> Iterator[None]:
    """Gives a refusal by S3 the type a local file system gives it; the S3 message goes, as it may quote a key id."""
    from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError):
        raise PermissionError("no credentials") from None
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status == 404:
            raise FileNotFoundError("no such object or bucket") from None
        if status in (401, 403):
            raise PermissionError("access denied") from None
        raise


def _absolute_uri(uri: str) -> str:
    if not uri:
        raise InputError("The storage root is empty; give a local folder or s3://bucket/prefix.")
    if uri.startswith(_S3_SCHEME):
        bucket, _, prefix = uri.removeprefix(_S3_SCHEME).partition("/")
        if "@" in bucket or "?" in uri:  # may hold a secret, so the message does not quote it
            raise InputError("The s3:// root holds credentials or options; leave them to the AWS_* variables.")
        if not bucket or ".." in prefix.split("/"):
            raise InputError(f"{uri!r} is no S3 root; give s3://bucket/prefix.")
        return _S3_SCHEME + "/".join([bucket, *(part for part in prefix.split("/") if part)])
    if "://" in uri:
        raise InputError(f"{uri!r} has a scheme that is not supported; give a local folder or s3://bucket/prefix.")
    return os.path.abspath(os.path.expanduser(uri))


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")
