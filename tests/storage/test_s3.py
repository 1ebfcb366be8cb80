from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from taggants.errors import InputError
from taggants.storage import Attributes, Root, s3
from tests.s3_server import S3Server


def _every_call(root: Root) -> list[Callable[[], object]]:
    return [
        lambda: root.read_bytes("a"),
        lambda: root.write_bytes("a", b"x"),
        lambda: root.create_bytes("a", b"x"),
        lambda: root.list(),
        lambda: root.size_bytes("a"),
    ]


@pytest.mark.s3
def test_missing_bucket_is_named(s3_environment: S3Server) -> None:
    for call in _every_call(Root("s3://no-such-bucket/prefix")):
        with pytest.raises(InputError, match=r"s3://no-such-bucket/prefix.* (does not exist|was denied)"):
            call()


@pytest.mark.s3
@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_named_without_them(
    s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "hush")
    root = Root(f"s3://{s3_environment.bucket}/prefix")
    for call in [*_every_call(root), lambda: root.exists("a")]:
        with pytest.raises(InputError, match=rf"Access to s3://{s3_environment.bucket}/prefix.* was denied") as refusal:
            call()
        assert "hush" not in str(refusal.value)


@pytest.mark.s3
def test_no_credentials_at_all(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for call in _every_call(Root(f"s3://{s3_environment.bucket}/prefix")):
        with pytest.raises(InputError, match="was denied"):
            call()


@pytest.mark.s3
@pytest.mark.parametrize("part_bytes", [16 * 2**20, 5 * 2**20])
def test_the_server_copies_from_s3_to_s3(
    s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part_bytes: int
) -> None:
    monkeypatch.setattr(s3, "_PART_BYTES", part_bytes)
    source = Root(f"s3://{s3_environment.bucket}/{tmp_path.parent.name}-{tmp_path.name}/from")
    destination = Root(f"s3://{s3_environment.bucket}/{tmp_path.parent.name}-{tmp_path.name}/to")
    data = os.urandom(12 * 2**20 + 7)
    source.write_bytes("file", data)

    def reads(*_: object) -> None:
        raise AssertionError("the bytes pass through this machine")

    with monkeypatch.context() as patch:
        patch.setattr(Root, "open_input", reads)
        source.copy("file", destination, "x/file")
    assert destination.sha256("x/file") == hashlib.sha256(data).hexdigest()
    with pytest.raises(InputError, match=r"from/missing does not exist"):
        source.copy("missing", destination, "x/missing")
    assert destination.list() == ["x/file"]


@pytest.mark.s3
@pytest.mark.parametrize("size", [3, 12 * 2**20 + 7])
@pytest.mark.parametrize("from_s3", [True, False])
def test_written_and_copied_objects_are_alike(
    s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int, from_s3: bool
) -> None:
    monkeypatch.setattr(s3, "_PART_BYTES", 5 * 2**20)
    remote = Root(f"s3://{s3_environment.bucket}/{tmp_path.parent.name}-{tmp_path.name}")
    source = remote.child("from") if from_s3 else Root(str(tmp_path))
    headers = {"Metadata": {"owner": "me"}, "Tagging": "team=red+and+blue&year=2026"} if from_s3 else {}
    data = os.urandom(size)
    with source.writing("file", like=Attributes(headers=headers)) as sink:
        sink.write(data)
    source.copy("file", remote, "copied")
    with remote.writing("written", like=source.attributes("file")) as sink:
        sink.write(data)
    # The ETag tells the number of parts, and of one part the MD5; of several SeaweedFS makes another hash when it copies.
    etags = [remote.version(name).strip('"') for name in ("copied", "written")]
    assert len({etag.partition("-")[2] if size > 3 else etag for etag in etags}) == 1
    assert remote.attributes("copied") == remote.attributes("written")
    assert {name: remote.attributes("written").headers.get(name) for name in headers} == headers


@pytest.mark.s3
def test_a_broken_off_write_leaves_no_upload_behind(
    s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(s3, "_PART_BYTES", 5 * 2**20)
    root = Root(f"s3://{s3_environment.bucket}/{tmp_path.parent.name}-{tmp_path.name}")

    def uploads() -> list[str]:
        answer = root._store._client.list_multipart_uploads(Bucket=s3_environment.bucket)
        return [upload["Key"] for upload in answer.get("Uploads", []) if tmp_path.name in upload["Key"]]

    def broken() -> None:
        with root.writing("file") as sink:
            sink.write(bytes(6 * 2**20))
            assert len(uploads()) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    root.check_writable()
    assert uploads() == []


@pytest.mark.s3
def test_what_cannot_be_written_is_known_early(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"s3://no-such-bucket/prefix.* (does not exist|was denied)"):
        Root("s3://no-such-bucket/prefix").check_writable()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    with pytest.raises(InputError, match="was denied"):
        Root(f"s3://{s3_environment.bucket}/prefix").check_writable()


@pytest.mark.s3
def test_an_answer_that_breaks_off_is_asked_for_again(
    s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import IncompleteReadError
    from botocore.response import StreamingBody

    root = Root(f"s3://{s3_environment.bucket}/broken-off")
    root.write_bytes("file", b"whole")
    read, num_calls = StreamingBody.read, []

    def break_off_once(body: StreamingBody, amt: int | None = None) -> bytes:
        num_calls.append(1)
        if len(num_calls) == 1:
            raise IncompleteReadError(actual_bytes=2, expected_bytes=5)
        return bytes(read(body, amt))

    monkeypatch.setattr(StreamingBody, "read", break_off_once)
    assert root.read_bytes("file") == b"whole"
    assert len(num_calls) == 2


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AWS_PROFILE", "no-such-profile", "ProfileNotFound"),
        ("AWS_ENDPOINT_URL", "not a url", "AWS_ENDPOINT_URL"),
    ],
)
def test_settings_that_boto3_refuses_are_bad_input(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=words) as refusal:
        Root("s3://bucket/prefix").read_bytes("a")
    assert "hush" not in str(refusal.value)


def test_a_name_that_no_bucket_may_have_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    for call in _every_call(Root("s3://bad bucket/prefix")):
        with pytest.raises(InputError, match="check the bucket's name"):
            call()
