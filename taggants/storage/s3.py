"""Files as objects below a prefix of an S3 bucket, with patience for a server that does not answer."""

from __future__ import annotations

import functools
import io
import itertools
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.fs as pafs

from taggants.errors import InputError
from taggants.storage.store import Attributes
from taggants.text import logger_of

S3_SCHEME = "s3://"
_PATIENCE_S = 60.0  # a server or a router that starts again is back by then
_T = TypeVar("_T")
_PART_BYTES = 16 * 2**20  # S3 takes 10 000 parts of at least 5 MiB: files of 160 GB
_KEPT_HEADERS = (
    *("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType", "Expires"),
    *("Metadata", "WebsiteRedirectLocation"),
)
_PASSING_STATUSES = (408, 409, 425, 429)
_PASSING_CODES = ("RequestTimeout", "RequestTimeTooSkewed", "SlowDown")
_FINAL_STATUSES = (501, 505, 507)  # not implemented, wrong version, no space: no patience helps

_log = logger_of(__name__)


class S3Store:
    """Reads through pyarrow; the rest through boto3: pyarrow has no conditional put, publishes half a file when a write
    is broken off, and leaves folder markers behind a delete."""

    def __init__(self, uri: str) -> None:
        self._bucket, _, prefix = uri.removeprefix(S3_SCHEME).partition("/")
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

    def write(self, path: str, source: BinaryIO | pa.NativeFile, *, private: bool, like: Attributes) -> None:
        def put() -> None:
            source.seek(0)
            if isinstance(source, io.BytesIO):
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=source, **like.headers)
            else:  # in parts, which appear together
                self._client.upload_fileobj(
                    source, self._bucket, self._prefix + path, ExtraArgs=dict(like.headers), Config=_in_parts()
                )

        _patiently(put)

    @contextmanager
    def writing(self, path: str, *, private: bool, like: Attributes) -> Iterator[BinaryIO]:
        sink = _S3Sink(self._client, self._bucket, self._prefix + path, like.headers)
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

    def check_exclusive(self) -> None:
        probe = f"probe-{uuid.uuid4().hex}"
        is_ignored = self.create(probe, b"", private=False) and self.create(probe, b"", private=False)
        with suppress(PermissionError):  # where files may be written and not deleted, an empty one stays
            self.delete(probe)
        if is_ignored:
            raise InputError(
                f"s3://{self._bucket} ignores If-None-Match: it took a file twice where HTTP status 412 was due, so two runs "
                "could overwrite each other's registration and keys; use a server with conditional writes, such as AWS S3 or "
                "MinIO since November 2024"
            )

    def copy_from(self, source: S3Store, source_path: str, size_bytes: int, etag: str, path: str) -> None:
        """Copies by the server, in the parts that a written file has: their number is in the ETag."""
        place = {"Bucket": source._bucket, "Key": source._prefix + source_path}
        options: dict[str, Any] = {"CopySourceIfMatch": etag}  # not one half of each of two files
        if size_bytes <= _PART_BYTES:
            _patiently(
                lambda: self._client.copy_object(
                    CopySource=place, Bucket=self._bucket, Key=self._prefix + path, **options
                )
            )
            return
        # Which a copy in parts does not take along by itself in all versions of boto3.
        options |= {**source.attributes(source_path).headers, "MetadataDirective": "REPLACE"}
        options |= {"TaggingDirective": "REPLACE"} if "Tagging" in options else {}
        _patiently(
            lambda: self._client.copy(place, self._bucket, self._prefix + path, ExtraArgs=options, Config=_in_parts())
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

    @contextmanager
    def appending(self, path: str) -> Iterator[tuple[list[bytes], Callable[[bytes], None]]]:
        found = sorted(self.list(path))
        # A part begins with the name of its writer: two who append the same would else not notice each other.
        lines = [self.read(part).partition(b"\n")[2].removesuffix(b"\n") for part in found]
        writer, number = uuid.uuid4().hex.encode(), itertools.count(int(found[-1][-8:]) + 1 if found else 0)

        def append(line: bytes) -> None:
            part, data = f"{path}/{next(number):08d}", writer + b"\n" + line + b"\n"
            # A put whose answer was lost may find its own part.
            if not self.create(part, data, private=True) and self.read(part) != data:
                raise InputError(f"s3://{self._bucket}/{self._prefix}{path} is open in another process; stop one.")

        yield lines, append

    def size_bytes(self, path: str) -> int:
        return self.size_and_etag(path)[0]

    def version(self, path: str) -> str:
        return self.size_and_etag(path)[1]

    def size_and_etag(self, path: str) -> tuple[int, str]:
        head = _patiently(lambda: self._client.head_object(Bucket=self._bucket, Key=self._prefix + path))
        return int(head["ContentLength"]), str(head["ETag"])

    def attributes(self, path: str) -> Attributes:
        head = _patiently(lambda: self._client.head_object(Bucket=self._bucket, Key=self._prefix + path))
        headers = {name: head[name] for name in _KEPT_HEADERS if head.get(name)}
        if tags := self._tags(path):
            headers["Tagging"] = urlencode(tags)
        return Attributes(headers=headers)

    def _tags(self, path: str) -> dict[str, str]:
        """Returns: the tags of an object; none where they may not be read: then a copy fails, as S3 copies tags."""
        try:
            found = _patiently(lambda: self._client.get_object_tagging(Bucket=self._bucket, Key=self._prefix + path))
        except (FileNotFoundError, PermissionError, InputError):  # or the server knows none
            return {}
        return {tag["Key"]: tag["Value"] for tag in found.get("TagSet", ())}

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

    def remove_leftovers(self, path: str) -> None:
        """Parts of broken-off uploads are no files."""

    def settle(self, path: str) -> None:
        """An object's time is that of its upload, in whole seconds."""

    def delete(self, path: str) -> None:
        _patiently(lambda: self._client.delete_object(Bucket=self._bucket, Key=self._prefix + path))


class _S3Sink(io.RawIOBase):
    """Bytes on their way to one object, a part at a time; a file of one part is a plain put."""

    def __init__(self, client: Any, bucket: str, key: str, headers: Mapping[str, Any]) -> None:
        self._client = client
        self._headers = headers
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
            _patiently(lambda: self._client.put_object(**self._place, **self._headers, Body=data))
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
            created = _patiently(lambda: self._client.create_multipart_upload(**self._place, **self._headers))
            self._upload = {"UploadId": created["UploadId"]}
        number = len(self._parts) + 1
        answer = _patiently(
            lambda: self._client.upload_part(**self._place, **self._upload, PartNumber=number, Body=data)
        )
        # Checksums too, where the client made some: S3 wants them again at the end.
        checksums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
        checksums.pop("ChecksumType", None)
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"], **checksums})


def _in_parts() -> Any:
    """Returns: boto3's setting for the parts that `_S3Sink` writes."""
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=_PART_BYTES + 1, multipart_chunksize=_PART_BYTES)


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

    No answer at all, "slow down" and a 5xx that may pass are a ConnectionError; every other refusal is an InputError that
    names operation and code, and so is what boto3 itself refuses.
    """
    from botocore.exceptions import (
        ClientError,
        ConfigParseError,
        HTTPClientError,
        IncompleteReadError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
        ProfileNotFound,
    )
    from botocore.exceptions import ConnectionError as NoConnectionError

    try:
        yield
    except InputError:  # said already, and a ValueError
        raise
    except (NoCredentialsError, PartialCredentialsError):
        raise PermissionError("no credentials") from None
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status == 404:
            raise FileNotFoundError("no such object or bucket") from None
        if status in (401, 403):
            raise PermissionError("access denied") from None
        code = error.response.get("Error", {}).get("Code")
        is_passing = status in _PASSING_STATUSES or code in _PASSING_CODES or (status or 500) >= 500
        if is_passing and status not in _FINAL_STATUSES:
            raise ConnectionError(f"S3 answers {error.operation_name} with HTTP status {status}") from None
        fix = (
            "check the bucket's name and AWS_DEFAULT_REGION"
            if status in (301, 307, 400)
            else "use another server or bucket"
        )
        raise InputError(f"S3 refused {error.operation_name} with {code} (HTTP status {status}); {fix}") from None
    except (NoConnectionError, HTTPClientError, IncompleteReadError) as error:
        raise ConnectionError(f"S3 does not answer: {type(error).__name__}") from None
    except (
        ConfigParseError,
        ParamValidationError,
        ProfileNotFound,
        ValueError,
    ) as error:  # or an endpoint that is no URL
        raise InputError(
            f"the S3 request failed ({type(error).__name__}); check the bucket's name, AWS_PROFILE and AWS_ENDPOINT_URL"
        ) from None
