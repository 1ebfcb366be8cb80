from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from taggants.data.image_codec import encode_png
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.errors import InputError
from taggants.export import (
    export_dataset,
    verify_export,
)
from taggants.storage import Root
from tests.export.datasets import LAYOUTS, pixels, signed_of, source_in, state, write


def test_two_exports_have_equal_bytes(source: ParquetSource, signed: Mapping[int, np.ndarray], tmp_path: Path) -> None:
    roots = [Root(str(tmp_path / name)) for name in ("one", "two")]
    export_dataset(source, signed, roots[0])
    export_dataset(source, dict(reversed(list(signed.items()))), roots[1])
    assert [roots[0].sha256(name) for name in roots[0].list()] == [roots[1].sha256(name) for name in roots[1].list()]


def test_a_complete_export_is_only_verified(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root
) -> None:
    manifest = export_dataset(source, signed, destination)
    before = state(destination)
    assert export_dataset(source, signed, destination) == manifest
    assert state(destination) == before


@pytest.mark.parametrize("layout", ["parquet", "webdataset", "imagefolder"])
def test_a_file_beside_a_complete_export_is_refused(
    source: ParquetSource, signed: Mapping[int, np.ndarray], tmp_path: Path, layout: str
) -> None:
    destination = Root(str(tmp_path / "complete"))
    export_dataset(source, signed, destination, layout=layout)
    destination.write_bytes("extra.bin", b"unsigned originals")
    with pytest.raises(InputError, match=r"extra\.bin is not part of this export; delete it"):
        export_dataset(source, signed, destination, layout=layout)


def test_a_broken_off_export_is_finished(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Root.writing

    @contextmanager
    def fail_at_the_last_file(root: Root, path: str, **options: Any) -> Iterator[BinaryIO]:
        with original(root, path, **options) as sink:
            yield sink
            if path == "c/d.parquet":
                raise OSError("no space left")

    monkeypatch.setattr(Root, "writing", fail_at_the_last_file)
    with pytest.raises(OSError, match="no space left"):
        export_dataset(source, signed, destination)
    assert destination.list() == ["a.parquet", "b.parquet"]
    with pytest.raises(InputError, match=r"no manifest\.json.*not complete"):
        verify_export(destination)
    monkeypatch.undo()
    manifest = export_dataset(source, signed, destination)
    assert verify_export(destination) == manifest


def test_other_signed_images_or_datasets_are_refused(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root, tmp_path: Path
) -> None:
    export_dataset(source, signed, destination)
    before = state(destination)
    fewer = {0: signed[0]}
    other = {**signed, 0: signed[2]}
    for images in (fewer, other):
        with pytest.raises(InputError, match="holds an export with other signed images"):
            export_dataset(source, images, destination)
    root = Root(str(tmp_path / "other"))
    write(root, "a.parquet", [encode_png(image) for image in pixels(2)])
    with pytest.raises(InputError, match="holds an export of the dataset"):
        export_dataset(ParquetSource(root, ""), fewer, destination)
    assert state(destination) == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_broken_off_export_keeps_what_is_right_in_every_layout(
    layout: str, tmp_path: Path, destination: Root
) -> None:
    source = source_in(layout, Root(str(tmp_path / "source")))
    signed = signed_of(source)
    manifest = export_dataset(source, signed, destination)
    names = [file.path for file in manifest.files]
    destination.delete("manifest.json")
    destination.delete(names[0])
    destination.write_bytes(names[-1], b"half")
    before = state(destination)
    assert export_dataset(source, signed, destination) == manifest
    kept = [name for name in names[1:-1] if state(destination)[name] == before[name]]
    assert kept == names[1:-1]
