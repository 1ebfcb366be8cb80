"""The one way to files: bytes, JSON and Parquet under a root that is a local folder or an S3 prefix.

Nothing else in the project opens a file. What is written appears whole or not at all: readers see the old bytes or the
new ones. Credentials and endpoint come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...) where a root is
used, so that a pickled root holds nothing secret. While S3 does not answer, a call waits for about a minute, then raises an
OSError (a ConnectionError, but for the reading of an open file).
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Protocol, TypeVar, cast

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from taggants.errors import InputError

_S3_SCHEME = "s3://"
_PATIENCE_S = 60.0  # a server or a router that starts again is back by then
_T = TypeVar("_T")
_PIECE_BYTES = 4 * 2**20  # each read from object storage is a request of tens of milliseconds
_PART_BYTES = 16 * 2**20  # S3 takes 10 000 parts of at least 5 MiB: files of 160 GB
_LARGEST_COPY_BYTES = 5 * 2**30  # S3 copies more than this in parts only
_COPY_PART_BYTES = 512 * 2**20

_log = logging.getLogger(__name__)


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
        inside = self._inside(path)
        with self._input_errors(path):
            return self._store.read(inside)

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

    @contextmanager
    def writing(self, path: str, *, private: bool = False) -> Iterator[BinaryIO]:
        """Opens a file for writing from start to end; it appears whole, over any older one, when the block ends.

        If the block raises, nothing appears and an older file stays. On S3 this is a multipart upload: of a process that
        is killed, parts stay that only a lifecycle rule of the bucket removes; no reader sees them.

        `private` as in `write_bytes`.

        Yields: a sink for bytes, which cannot seek.
        """
        inside = self._inside(path)
        with self._input_errors(path), self._store.writing(inside, private=private) as sink:
            yield sink

    def check_writable(self) -> None:
        """Checks that files can be written here; leaves none.

        Raises:
            InputError: the bucket is missing, access is denied, or the folder lies below a file.
        """
        with self._input_errors(""):
            self._store.check_writable()

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
        digest = hashlib.sha256()
        piece = memoryview(bytearray(_PIECE_BYTES))
        with self.open_input(path) as source:
            while size := source.readinto(piece):
                digest.update(piece[:size])
        return digest.hexdigest()

    def list(self, path: str = "") -> list[str]:
        """Returns: all files below the folder `path`, at any depth, as sorted paths from the root; [] if missing."""
        inside = self._inside(path) if path else ""
        with self._input_errors(path):
            return sorted(self._store.list(inside))

    def sizes(self, path: str = "") -> dict[str, int]:
        """Returns: the size in bytes of all files that `list` names, in its order, from one listing."""
        inside = self._inside(path) if path else ""
        with self._input_errors(path):
            return dict(sorted(self._store.sizes(inside)))

    def copy(self, path: str, destination: Root, destination_path: str) -> None:
        """Copies a file to any root; it appears there whole, over any older one. From S3 to S3 the server copies; else
        the bytes pass through here in pieces."""
        inside = destination._inside(destination_path)
        if isinstance(self._store, _S3Store) and isinstance(destination._store, _S3Store):
            with self._input_errors(path):
                size_bytes, etag = self._store.size_and_etag(self._inside(path))
            with destination._input_errors(destination_path):
                destination._store.copy_from(self._store, self._inside(path), size_bytes, etag, inside)
            return
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
    def read(self, path: str) -> bytes: ...
    def write(self, path: str, source: BinaryIO | pa.NativeFile, *, private: bool) -> None: ...
    def writing(self, path: str, *, private: bool) -> AbstractContextManager[BinaryIO]: ...
    def check_writable(self) -> None: ...
    def create(self, path: str, data: bytes, *, private: bool) -> bool: ...
    def size_bytes(self, path: str) -> int: ...
    def list(self, path: str) -> Iterator[str]: ...
    def sizes(self, path: str) -> Iterator[tuple[str, int]]: ...
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

    def read(self, path: str) -> bytes:
        with self.open_input(path) as source:
            return bytes(source.read())

    def write(self, path: str, source: BinaryIO | pa.NativeFile, *, private: bool) -> None:
        with self.writing(path, private=private) as file:
            shutil.copyfileobj(source, file, _PIECE_BYTES)

    @contextmanager
    def writing(self, path: str, *, private: bool) -> Iterator[BinaryIO]:
        with self._temporary_file(path, private=private) as (file, temporary):
            yield file
            _onto_disk(file)
            os.replace(temporary, self._full(path))

    def check_writable(self) -> None:
        with self._temporary_file("probe", private=True):
            pass

    def create(self, path: str, data: bytes, *, private: bool) -> bool:
        with self._temporary_file(path, private=private) as (file, temporary):
            file.write(data)
            _onto_disk(file)
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

    def sizes(self, path: str) -> Iterator[tuple[str, int]]:
        return ((name, self.size_bytes(name)) for name in self.list(path))

    def delete(self, path: str) -> None:
        try:
            os.unlink(self._full(path))
        except FileNotFoundError:
            return

    def _full(self, path: str) -> str:
        return os.path.join(self._folder, path)

    @contextmanager
    def _temporary_file(self, path: str, *, private: bool) -> Iterator[tuple[BinaryIO, str]]:
        """Yields: a new file next to `path`, and its name, which listings leave out; it is gone afterwards."""
        folder, name = os.path.split(self._full(path))
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f".{name[:64]}.{uuid.uuid4().hex}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        try:
            with open(descriptor, "wb") as file:
                yield file, temporary
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)


def _onto_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


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
                # `_patiently` tries again: boto3 itself gives up within a second where nobody listens.
                config=Config(retries={"mode": "standard", "total_max_attempts": 2}, connect_timeout=10),
            )

    @functools.cached_property
    def _filesystem(self) -> pafs.S3FileSystem:
        scheme, _, host = self._client.meta.endpoint_url.partition("://")  # one answer to "where" for both libraries
        return pafs.S3FileSystem(
            region=self._client.meta.region_name,
            scheme=scheme,
            endpoint_override=host,
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=8),  # half a minute, as its pauses double
        )

    def open_input(self, path: str) -> pa.NativeFile:
        full_path = f"{self._bucket}/{self._prefix}{path}"
        try:
            return self._filesystem.open_input_file(full_path)
        except OSError:
            self.size_bytes(path)  # raises what is wrong with the bucket, the key or the credentials, if it is that
            return self._filesystem.open_input_file(full_path)

    def read(self, path: str) -> bytes:
        # Whole within one try: an answer may break off in the middle.
        return _patiently(
            lambda: bytes(self._client.get_object(Bucket=self._bucket, Key=self._prefix + path)["Body"].read())
        )

    def write(self, path: str, source: BinaryIO | pa.NativeFile, *, private: bool) -> None:
        def put() -> None:
            source.seek(0)
            if isinstance(source, io.BytesIO):
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=source)
            else:  # in parts, which appear together
                self._client.upload_fileobj(source, self._bucket, self._prefix + path)

        _patiently(put)

    @contextmanager
    def writing(self, path: str, *, private: bool) -> Iterator[BinaryIO]:
        sink = _S3Sink(self._client, self._bucket, self._prefix + path)
        try:
            yield cast(BinaryIO, sink)
            sink.finish()
        except BaseException:
            sink.abort()
            raise

    def check_writable(self) -> None:
        probe = {"Bucket": self._bucket, "Key": f"{self._prefix}probe"}

        def start_upload() -> None:
            upload = self._client.create_multipart_upload(**probe)
            self._client.abort_multipart_upload(**probe, UploadId=upload["UploadId"])

        _patiently(start_upload)

    def copy_from(self, source: _S3Store, source_path: str, size_bytes: int, etag: str, path: str) -> None:
        place = {"Bucket": source._bucket, "Key": source._prefix + source_path}
        options = {"CopySourceIfMatch": etag}  # not one half of each of two files
        if size_bytes <= _LARGEST_COPY_BYTES:
            _patiently(
                lambda: self._client.copy_object(
                    CopySource=place, Bucket=self._bucket, Key=self._prefix + path, **options
                )
            )
            return
        from boto3.s3.transfer import TransferConfig

        in_parts = TransferConfig(multipart_threshold=1, multipart_chunksize=_COPY_PART_BYTES)
        _patiently(
            lambda: self._client.copy(place, self._bucket, self._prefix + path, ExtraArgs=options, Config=in_parts)
        )

    def create(self, path: str, data: bytes, *, private: bool) -> bool:
        def put() -> bool:
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

        return _patiently(put)

    def size_bytes(self, path: str) -> int:
        return self.size_and_etag(path)[0]

    def size_and_etag(self, path: str) -> tuple[int, str]:
        head = _patiently(lambda: self._client.head_object(Bucket=self._bucket, Key=self._prefix + path))
        return int(head["ContentLength"]), str(head["ETag"])

    def list(self, path: str) -> Iterator[str]:
        return (name for name, _ in self.sizes(path))

    def sizes(self, path: str) -> Iterator[tuple[str, int]]:
        prefix = f"{self._prefix}{path}/" if path else self._prefix
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        entries = _patiently(
            lambda: [(entry["Key"], int(entry["Size"])) for page in pages for entry in page.get("Contents", [])]
        )
        # A key that ends so is a folder marker.
        return ((key.removeprefix(self._prefix), size) for key, size in entries if not key.endswith("/"))

    def delete(self, path: str) -> None:
        _patiently(lambda: self._client.delete_object(Bucket=self._bucket, Key=self._prefix + path))


class _S3Sink(io.RawIOBase):
    """Bytes on their way to one object, a part at a time; a file of one part is a plain put."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client = client
        self._place = {"Bucket": bucket, "Key": key}
        self._upload: dict[str, str] = {}
        self._parts: list[dict[str, Any]] = []
        self._buffer = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._buffer += data
        while len(self._buffer) > _PART_BYTES:
            self._send(bytes(memoryview(self._buffer)[:_PART_BYTES]))
            del self._buffer[:_PART_BYTES]
        return memoryview(data).nbytes

    def finish(self) -> None:
        """Makes the object appear."""
        data = bytes(self._buffer)
        if not self._upload:
            _patiently(lambda: self._client.put_object(**self._place, Body=data))
            return
        self._send(data)
        parts = {"Parts": self._parts}
        _patiently(lambda: self._client.complete_multipart_upload(**self._place, **self._upload, MultipartUpload=parts))

    def abort(self) -> None:
        """Forgets what was sent, if S3 still answers; the error that led here is the one to tell."""
        if self._upload:
            with suppress(Exception):
                self._client.abort_multipart_upload(**self._place, **self._upload)

    def _send(self, data: bytes) -> None:
        if not self._upload:
            created = _patiently(lambda: self._client.create_multipart_upload(**self._place))
            self._upload = {"UploadId": created["UploadId"]}
        number = len(self._parts) + 1
        answer = _patiently(
            lambda: self._client.upload_part(**self._place, **self._upload, PartNumber=number, Body=data)
        )
        # Checksums too, where the client made some: S3 wants them again at the end.
        checksums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
        checksums.pop("ChecksumType", None)
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"], **checksums})


def _patiently(call: Callable[[], _T]) -> _T:
    """Returns: what `call` returns, which is made again while S3 does not answer, but for no longer than `_PATIENCE_S`."""
    deadline_s = time.monotonic() + _PATIENCE_S
    pause_s = 0.2
    while True:
        try:
            with _s3_errors():
                return call()
        except ConnectionError as error:
            if time.monotonic() + pause_s > deadline_s:
                raise
            _log.warning("%s; trying again in %.1f s", error, pause_s)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 3.0)


@contextmanager
def _s3_errors() -> Iterator[None]:
    """Gives a refusal by S3 the type a local file system gives it; the S3 message goes, as it may quote a key id.

    No answer at all, a 5xx and "slow down" are a ConnectionError.
    """
    from botocore.exceptions import (
        ClientError,
        HTTPClientError,
        IncompleteReadError,
        NoCredentialsError,
        PartialCredentialsError,
    )
    from botocore.exceptions import ConnectionError as NoConnectionError

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
        if status is not None and (status >= 500 or status == 429):
            raise ConnectionError(f"S3 answers with HTTP status {status}") from None
        raise
    except (NoConnectionError, HTTPClientError, IncompleteReadError) as error:
        raise ConnectionError(f"S3 does not answer: {type(error).__name__}") from None


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
