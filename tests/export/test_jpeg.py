from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from taggants.data.fitness import fitness_of
from taggants.data.image_codec import decode_image, encode_like, encode_png, without_pixels
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.errors import InputError
from taggants.export import (
    export_dataset,
    read_signed,
)
from taggants.storage import Root
from tests.export.datasets import CODECS, encoded, jpegs, parquet_bytes, pixels, rows_of, write


@pytest.fixture
def jpeg_source(tmp_path: Path) -> ParquetSource:
    root = Root(str(tmp_path / "jpegs"))
    write(root, "a.parquet", [*jpegs(), encode_png(pixels(1, (3, 21, 30))[0])], row_group_size=2, compression=CODECS)
    return ParquetSource(root, "", channels=3)


@pytest.fixture
def signed_jpegs() -> dict[int, np.ndarray]:
    images = dict(enumerate(pixels(5, (3, 21, 30), seed=8)))
    images[1][:] = images[1][:1]  # the grey one
    return images


def test_jpegs_change_in_their_pixels_alone(
    jpeg_source: ParquetSource, signed_jpegs: dict[int, np.ndarray], destination: Root
) -> None:
    manifest = export_dataset(jpeg_source, signed_jpegs, destination)
    read = read_signed(jpeg_source, destination, [4, 0, 1, 2, 3])
    assert list(read) == [4, 0, 1, 2, 3]
    assert np.array_equal(read[4], signed_jpegs[4])
    before, after = rows_of(jpeg_source.root, "a.parquet"), rows_of(destination, "a.parquet")
    for sample_id, original in enumerate(jpegs()):
        data = after[sample_id]["image"].pop("bytes")
        with Image.open(io.BytesIO(original)) as old, Image.open(io.BytesIO(data)) as new:
            assert (new.format, new.mode, new.info) == ("JPEG", old.mode, old.info)
        assert data != original
        assert without_pixels(data) == without_pixels(original)
        stored = signed_jpegs[sample_id][: 1 if sample_id == 1 else 3]
        assert np.array_equal(decode_image(data, 3), decode_image(encode_like(stored, like=original), 3))
        assert np.array_equal(read[sample_id], decode_image(data, 3))
        del before[sample_id]["image"]["bytes"]
        assert after[sample_id] == before[sample_id]
    assert export_dataset(jpeg_source, signed_jpegs, destination) == manifest  # only verified
    with pytest.raises(InputError, match="holds an export with other signed images"):
        export_dataset(jpeg_source, {**signed_jpegs, 0: signed_jpegs[2]}, destination)


def test_a_jpeg_signed_with_its_own_pixels_is_the_same_file(destination: Root, tmp_path: Path) -> None:
    root = Root(str(tmp_path / "source"))
    image = pixels(1, (3, 21, 30))[0]
    write(root, "a.parquet", [encoded(image, "JPEG"), encoded(image, "JPEG", progressive=True)])
    export_dataset(ParquetSource(root, ""), {0: image, 1: image}, destination)
    assert rows_of(destination, "a.parquet") == rows_of(root, "a.parquet")


@pytest.mark.parametrize("fault", ["pixels", "comment", "tables", "kind", "damage"])
def test_a_jpeg_that_reads_back_otherwise_gets_no_manifest(
    jpeg_source: ParquetSource,
    signed_jpegs: dict[int, np.ndarray],
    destination: Root,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    original = Root.writing
    image = signed_jpegs[0]
    spoilt = {
        "pixels": encode_like(255 - image, like=jpegs()[0]),
        "comment": encoded(image, "JPEG", quality=60, comment=b"signed"),
        "tables": encoded(image, "JPEG", quality=61),
        "kind": encode_png(image),
        "damage": encode_like(image, like=jpegs()[0])[:-9],
    }[fault]

    @contextmanager
    def spoil(root: Root, path: str, **options: Any) -> Iterator[BinaryIO]:
        with original(root, path, **options) as sink:
            yield sink
        rows = rows_of(root, path)
        rows[0]["image"]["bytes"] = spoilt
        table = pa.Table.from_pylist(rows, schema=pq.read_schema(pa.BufferReader(root.read_bytes(path))))
        root.write_bytes(path, parquet_bytes(table, row_group_size=2, compression=CODECS))

    monkeypatch.setattr(Root, "writing", spoil)
    with pytest.raises(RuntimeError, match="row 0 does not hold its signed image"):
        export_dataset(jpeg_source, signed_jpegs, destination)
    assert not destination.exists("manifest.json")


def test_a_grey_jpeg_cannot_hold_colours(
    jpeg_source: ParquetSource, signed_jpegs: dict[int, np.ndarray], destination: Root
) -> None:
    with pytest.raises(InputError, match=r"sample 1\) is greyscale but its signed image has colours"):
        export_dataset(jpeg_source, {1: signed_jpegs[0]}, destination)
    assert destination.list() == []


def test_real_jpeg(real_data: Path, destination: Root) -> None:
    source = ParquetSource(Root(str(real_data / "tiny_imagenet20")), ("val.parquet",), channels=3)
    originals = source.read_encoded(range(200))
    is_grey = [decode_image(data).shape[0] == 1 for data in originals]
    sample_ids = [is_grey.index(True), 7, 199]
    assert fitness_of(source).is_fit.all()
    images = np.clip(source.read_images(sample_ids).astype(np.int64) + 9, 0, 255).astype(np.uint8)
    export_dataset(source, dict(zip(sample_ids, images, strict=True)), destination)
    read = read_signed(source, destination, sample_ids)
    for sample_id, image in zip(sample_ids, images, strict=True):
        # Quality 75 with subsampled chroma: lossy, but the image that was to be stored.
        assert np.abs(read[sample_id].astype(np.int64) - image).mean() < 3
    assert destination.size_bytes("val.parquet") == pytest.approx(source.root.size_bytes("val.parquet"), rel=0.01)
