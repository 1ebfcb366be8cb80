from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from taggants.data.image_codec import decode_image
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.errors import InputError
from taggants.export import (
    export_dataset,
    read_signed,
    verify_export,
)
from taggants.storage import Attributes, Root
from tests.export.datasets import LAYOUTS, PICTURES, expected_of, held_by, signed_of, source_in, state
from tests.s3_server import S3Server


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_changes_in_the_signed_images_alone(layout: str, tmp_path: Path, destination: Root) -> None:
    source = source_in(layout, Root(str(tmp_path / "source")))
    signed = signed_of(source)
    manifest = export_dataset(source, signed, destination)
    exported = source.at(destination)
    assert held_by(exported) == expected_of(source, signed)
    assert destination.list() == sorted([*source.root.list(), "manifest.json"])
    assert manifest.layout == layout
    assert manifest.source_fingerprint == source.index().fingerprint
    assert manifest.fingerprint == exported.index().fingerprint
    assert verify_export(destination) == manifest
    for name in source.root.list():
        holds_taggants = name in {
            *("train-1.parquet", "x-1.tar", "train/c/2.PNG"),
            *("train/a/3.jpeg", "train/b/4.jpeg"),
        }
        assert (destination.sha256(name) != source.root.sha256(name)) == holds_taggants
    before = state(destination)
    assert export_dataset(source, signed, destination) == manifest
    assert state(destination) == before
    with pytest.raises(InputError, match="other signed images"):
        export_dataset(source, dict(list(signed.items())[:2]), destination)
    read = read_signed(source, destination, sorted(signed))
    assert np.array_equal(read[min(signed)], decode_image(expected_of(source, signed)[min(signed)][0], 3))


def test_signed_images_are_read_from_a_complete_export_only(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root
) -> None:
    with pytest.raises(InputError, match="is not complete"):
        read_signed(source, destination, [0])
    export_dataset(source, signed, destination)
    # A file that came later does not move the sample ids.
    destination.write_bytes("0.parquet", destination.read_bytes("a.parquet"))
    read = read_signed(source, destination, [13, 2])
    assert all(np.array_equal(read[sample_id], signed[sample_id]) for sample_id in (13, 2))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fault", ["copied", "rewritten"])
def test_a_file_that_storage_spoils_gets_no_manifest(
    layout: str, fault: str, tmp_path: Path, destination: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_in(layout, Root(str(tmp_path / "source")))
    signed = signed_of(source)
    copy, writing = Root.copy, Root.writing

    def spoil(root: Root, path: str) -> None:
        data = bytearray(root.read_bytes(path))
        place = bytes(data).rfind(PICTURES[5][-40:]) if layout != "imagefolder" else len(data) // 2
        data[place if fault == "rewritten" else len(data) // 3] ^= 1
        root.write_bytes(path, bytes(data))

    def spoiling_copy(root: Root, path: str, to: Root, to_path: str) -> None:
        copy(root, path, to, to_path)
        if fault == "copied":
            spoil(to, to_path)

    @contextmanager
    def spoiling_writing(root: Root, path: str, **options: Any) -> Iterator[BinaryIO]:
        with writing(root, path, **options) as sink:
            yield sink
        if fault == "rewritten" and path != "manifest.json":
            spoil(root, path)

    monkeypatch.setattr(Root, "copy", spoiling_copy)
    monkeypatch.setattr(Root, "writing", spoiling_writing)
    with pytest.raises(RuntimeError, match="does not read back as"):
        export_dataset(source, signed, destination)
    assert not destination.exists("manifest.json")


@pytest.mark.s3
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_from_s3_to_s3(layout: str, tmp_path: Path, s3_environment: S3Server) -> None:
    remote = Root(f"s3://{s3_environment.bucket}/{tmp_path.parent.name}-{tmp_path.name}")
    source, local = source_in(layout, remote.child("source")), source_in(layout, Root(str(tmp_path / "source")))
    signed = signed_of(source)
    manifest = export_dataset(source, signed, remote.child("export"))
    assert manifest == export_dataset(local, signed, Root(str(tmp_path / "export")))
    assert verify_export(remote.child("export")) == manifest
    assert export_dataset(source, signed, remote.child("export")) == manifest
    with pytest.raises(InputError, match=r"no-such-bucket.* (does not exist|was denied)"):
        export_dataset(source, signed, Root("s3://no-such-bucket/x"))


@pytest.mark.parametrize(
    ("layout", "when"), [*((layout, "before") for layout in LAYOUTS), ("parquet", "while"), ("webdataset", "while")]
)
def test_a_source_that_changed_since_its_index_is_noticed(
    layout: str, when: str, tmp_path: Path, destination: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place, to the same size and times."""
    source = source_in(layout, Root(str(tmp_path / "source")))
    signed = signed_of(source)
    source.index()
    name = {"imagefolder": "train/c/5.jpeg", "webdataset": "x-1.tar", "parquet": "train-1.parquet"}[layout]

    def change() -> None:
        path = Path(source.root.uri) / name
        data, times = path.read_bytes(), path.stat()
        place = data.rfind(PICTURES[5][-40:])
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([data[place] ^ 1]))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    if when == "before":
        change()
    else:
        writing = Root.writing

        @contextmanager
        def changing(root: Root, path: str, **options: Any) -> Iterator[BinaryIO]:
            if path == name:
                change()
            with writing(root, path, **options) as sink:
                yield sink

        monkeypatch.setattr(Root, "writing", changing)
    with pytest.raises(InputError, match="changed since it was read; restore it, or start a new run"):
        export_dataset(source, signed, destination)
    assert not destination.exists("manifest.json")


@pytest.mark.parametrize("layout", ["parquet", "webdataset"])
def test_what_was_hashed_for_the_index_is_not_hashed_again(
    layout: str, tmp_path: Path, destination: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_in(layout, Root(str(tmp_path / "source")))
    signed = signed_of(source)
    source.index()
    sha256, hashed = Root.sha256, []

    def watched(root: Root, path: str) -> str:
        hashed.append(root)
        return sha256(root, path)

    monkeypatch.setattr(Root, "sha256", watched)
    export_dataset(source, signed, destination)
    export_dataset(source, signed, destination)
    assert set(hashed) == {destination}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_times_tell_nothing(layout: str, tmp_path: Path, destination: Root) -> None:
    source = source_in(layout, Root(str(tmp_path / "source")))
    times = {name: 1_500_000_000_000_000_000 + 7 * i for i, name in enumerate(source.root.list())}
    for name, time_ns in times.items():
        os.utime(Path(source.root.uri) / name, ns=(time_ns, time_ns))
    export_dataset(source, signed_of(source), destination)
    assert {name: (Path(destination.uri) / name).stat().st_mtime_ns for name in times} == times
    other = Root(str(tmp_path / "other"))
    export_dataset(source, signed_of(source), other, layout="imagefolder" if layout == "parquet" else "parquet")
    written = {name: (Path(other.uri) / name).stat().st_mtime_ns for name in other.list() if name != "manifest.json"}
    assert len(set(written.values())) == 1


@pytest.mark.s3
@pytest.mark.parametrize("layout", LAYOUTS)
def test_s3_headers_tell_nothing(layout: str, tmp_path: Path, s3_environment: S3Server) -> None:
    remote = Root(f"s3://{s3_environment.bucket}/{tmp_path.parent.name}-{tmp_path.name}")
    source = source_in(layout, remote.child("source"))
    headers = {"CacheControl": "max-age=60", "ContentType": "image/x-mine", "Metadata": {"owner": "me"}}
    for name in source.root.list():
        data = source.root.read_bytes(name)
        with source.root.writing(name, like=Attributes(headers=headers)) as sink:
            sink.write(data)
    export_dataset(source, signed_of(source), remote.child("export"))
    for name in source.root.list():
        assert remote.child("export").attributes(name).headers == headers
