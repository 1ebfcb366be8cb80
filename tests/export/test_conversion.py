from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from taggants.data import open_source
from taggants.data.image_codec import encode_png
from taggants.data.layouts import numbered_files
from taggants.data.layouts.image_folder import class_folders
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.data.source import DatasetIndex
from taggants.errors import InputError
from taggants.export import export_dataset, verify_export
from taggants.storage import Root
from tests.export.datasets import (
    BAD,
    LAYOUTS,
    PICTURES,
    expected_of,
    held_by,
    signed_of,
    source_in,
    state,
    tar_of,
    write,
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("new_layout", LAYOUTS)
def test_a_conversion_keeps_encoded_images_and_labels(
    layout: str, new_layout: str, tmp_path: Path, destination: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbered_files, "LARGEST_FILE_BYTES", 5_000)
    source = source_in(layout, Root(str(tmp_path / "source")))
    signed = signed_of(source)
    manifest = export_dataset(source, signed, destination, layout=new_layout, private=True)
    files = {"parquet": "train", "imagefolder": "train" if layout == new_layout else "", "webdataset": ""}[new_layout]
    exported = open_source(new_layout, destination, files, channels=3)
    assert sorted(held_by(exported)) == sorted(expected_of(source, signed))
    assert manifest.fingerprint == exported.index().fingerprint
    assert (manifest.layout, manifest.num_rows) == (new_layout, 7)
    assert manifest.signed_sample_ids == tuple(sorted(signed))
    assert verify_export(destination) == manifest
    if new_layout != "imagefolder" and layout != new_layout:
        assert held_by(exported) == expected_of(source, signed)  # the ids stay
        assert len(manifest.files) > 2  # none is too large
        assert manifest.class_names == source.index().class_names
    before = state(destination)
    assert export_dataset(source, signed, destination, layout=new_layout, private=True) == manifest
    assert state(destination) == before


@pytest.mark.parametrize("new_layout", ["parquet", "imagefolder", "webdataset"])
def test_a_broken_off_conversion_is_finished(new_layout: str, tmp_path: Path, destination: Root) -> None:
    source = source_in("imagefolder" if new_layout == "parquet" else "parquet", Root(str(tmp_path / "source")))
    signed = signed_of(source)
    convert = functools.partial(export_dataset, source, signed, destination, layout=new_layout)
    manifest = convert()
    whole = {name: destination.sha256(name) for name in destination.list()}
    with pytest.raises(InputError, match="holds an export with other signed images"):
        export_dataset(source, {min(signed): signed[min(signed)]}, destination, layout=new_layout)
    destination.delete("manifest.json")
    destination.write_bytes(manifest.files[0].path, b"half")
    assert convert() == manifest
    assert {name: destination.sha256(name) for name in destination.list()} == whole
    with pytest.raises(InputError, match=f"holds an export as {new_layout}, not as "):
        export_dataset(source, signed, destination)


def test_a_conversion_that_reads_back_otherwise_gets_no_manifest(
    tmp_path: Path, destination: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_in("parquet", Root(str(tmp_path / "source")))
    original = Root.writing

    @contextmanager
    def other_label(root: Root, path: str, **options: Any) -> Iterator[BinaryIO]:
        with original(root, path, **options) as sink:
            yield sink
        root.write_bytes(path, tar_of([(f"{i:08d}.png", picture) for i, picture in enumerate(PICTURES)]))

    monkeypatch.setattr(Root, "writing", other_label)
    with pytest.raises(RuntimeError, match=r"train-00000\.tar does not read back as written"):
        export_dataset(source, signed_of(source), destination, layout="webdataset")
    assert not destination.exists("manifest.json")


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("cat", "dog", "frog"), ("cat", "dog", "frog")),
        (None, ("0", "1", "2")),
        (("dog", "cat", "frog"), ("0_dog", "1_cat", "2_frog")),  # not sorted: as names they would change the labels
        (("Kätzchen", "Hund ", "c"), ("0_Kätzchen", "1_Hund ", "2_c")),
        (("a/b", "c", ".d"), ("0_a_b", "1_c", "2__d")),
        (("a", "a", "b"), ("0_a", "1_a", "2_b")),
    ],
)
def test_class_folders_are_sorted_as_the_labels_are(names: tuple[str, ...] | None, folders: tuple[str, ...]) -> None:
    index = DatasetIndex(np.array([2, 0, 1]), ("f",), (0, 3), 3, names, "")
    assert tuple(class_folders(index)) == folders


def test_numbered_class_folders_are_as_wide_as_the_last() -> None:
    index = DatasetIndex(np.arange(11), ("f",), (0, 11), 11, None, "")
    assert tuple(class_folders(index))[9:] == ("09", "10")


def test_a_class_without_images_cannot_be_a_folder(tmp_path: Path, destination: Root) -> None:
    root = Root(str(tmp_path / "source"))
    write(root, "a.parquet", [encode_png(BAD), encode_png(BAD)])  # labels 0 and 1 of three
    source = ParquetSource(root, "")
    with pytest.raises(InputError, match="Class 2 of 3 has no images"):
        export_dataset(source, {0: BAD}, destination, layout="imagefolder")
    assert destination.list() == []
    export_dataset(source, {0: BAD}, destination, layout="webdataset")
