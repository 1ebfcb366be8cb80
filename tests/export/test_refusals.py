from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from taggants.data.image_codec import encode_png
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.errors import InputError
from taggants.export import (
    export_dataset,
)
from taggants.storage import Root
from tests.export.datasets import BAD, LAYOUTS, encoded, rows_of, signed_of, source_in, state, write


def test_the_source_is_never_overwritten(
    source: ParquetSource, signed: Mapping[int, np.ndarray], tmp_path: Path
) -> None:
    before = state(source.root)
    (tmp_path / "link").symlink_to(source.root.uri)
    for uri in (source.root.uri, str(tmp_path / "link")):
        with pytest.raises(InputError, match="is the folder of the source"):
            export_dataset(source, signed, Root(uri))
    shutil.copytree(source.root.uri, tmp_path / "copy")  # the same folder by a name that cannot be told, as by NFS
    with pytest.raises(InputError, match="is the unsigned file"):
        export_dataset(source, signed, Root(str(tmp_path / "copy")))
    assert state(source.root) == before


@pytest.mark.parametrize(
    ("signed", "message"),
    [
        ({}, "no signed images"),
        ({0: BAD, 16: BAD}, "Sample id 16 is not in 0 to 15"),
        ({0: BAD, -1: BAD}, "Sample id -1"),
        ({0: BAD, 8: BAD[:, :5]}, r"Row 1 of .*b\.parquet \(sample 8\) is uint8 of shape \(3, 5, 5\).*\(3, 6, 5\)"),
        ({0: BAD, 8: BAD[:1]}, r"shape \(1, 6, 5\)"),
        ({0: BAD, 8: BAD.astype(np.float64)}, "is float64"),
    ],
)
def test_bad_signed_images_are_refused_before_anything_is_written(
    source: ParquetSource, destination: Root, signed: dict[int, np.ndarray], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export_dataset(source, signed, destination)
    assert destination.list() == []


@pytest.mark.parametrize(
    ("original", "message"),
    [
        (encoded(BAD, "JPEG", mode="CMYK"), r"is a JPEG with 4 colour components \(CMYK or YCCK\)"),
        (encoded(BAD, "BMP"), "is BMP; give 8-bit greyscale or RGB PNG, or 8-bit JPEG"),
        (encoded(BAD, "PNG", mode="P"), "is PNG with a palette"),
        (b"no image", "cannot be decoded"),
    ],
)
def test_originals_of_other_kinds_are_refused_before_anything_is_written(
    destination: Root, tmp_path: Path, original: bytes, message: str
) -> None:
    root = Root(str(tmp_path / "source"))
    write(root, "a.parquet", [encode_png(BAD), encode_png(BAD)])
    write(root, "b.parquet", [encode_png(BAD), original])
    source = ParquetSource(root, "")
    with pytest.raises(InputError, match=rf"Row 1 of .*b\.parquet \(sample 3\).*{message}"):
        export_dataset(source, {0: BAD, 3: BAD}, destination)
    assert destination.list() == []
    export_dataset(source, {0: BAD, 2: BAD}, destination)  # unsigned, it may stay
    assert rows_of(destination, "b.parquet")[1]["image"]["bytes"] == original


def test_a_signed_image_fits_the_channels_of_its_original(destination: Root, tmp_path: Path) -> None:
    root = Root(str(tmp_path / "source"))
    write(root, "a.parquet", [encode_png(BAD[:1]), encode_png(BAD)])
    with pytest.raises(InputError, match=r"sample 0.* is greyscale but its signed image has colours"):
        export_dataset(ParquetSource(root, "", channels=3), {0: BAD}, destination)
    with pytest.raises(InputError, match=r"sample 1.* is RGB but was signed in greyscale"):
        export_dataset(ParquetSource(root, "", channels=1), {1: BAD[:1]}, destination)
    assert destination.list() == []


def test_the_source_of_a_folder_takes_no_export(tmp_path: Path) -> None:
    source = source_in("imagefolder", Root(str(tmp_path / "source")))
    for place in ("train", "train/signed"):
        with pytest.raises(InputError, match="is the folder of the source or lies in it"):
            export_dataset(source, signed_of(source), source.root.child(place))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_other_files_is_left_alone(layout: str, tmp_path: Path, destination: Root) -> None:
    source = source_in("parquet", Root(str(tmp_path / "source")))
    destination.write_bytes("notes.txt", b"mine")
    with pytest.raises(InputError, match=r"notes\.txt is not part of this export"):
        export_dataset(source, signed_of(source), destination, layout=layout)
    assert destination.list() == ["notes.txt"]
