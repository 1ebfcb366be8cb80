from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from taggants.data.digits import write_digits
from taggants.data.image_codec import decode_image, encode_png
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.export import (
    export_dataset,
    verify_export,
)
from taggants.storage import Root
from tests.export.datasets import BAD, CODECS, METADATA, NUM_ROWS, encoded, parquet_bytes, pixels, rows_of, write


def test_only_the_signed_pixels_change(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root
) -> None:
    export_dataset(source, signed, destination)
    assert destination.list() == [*NUM_ROWS, "manifest.json"]
    sample_id = 0
    for name in NUM_ROWS:
        for before, after in zip(rows_of(source.root, name), rows_of(destination, name), strict=True):
            if sample_id in signed:
                assert decode_image(after["image"].pop("bytes")).tolist() == signed[sample_id].tolist()
                del before["image"]["bytes"]
            assert after == before
            sample_id += 1
    exported, labels = ParquetSource(destination, "").read_all()
    originals, original_labels = source.read_all()
    for sample_id, image in signed.items():
        originals[sample_id] = image
    assert np.array_equal(exported, originals)
    assert np.array_equal(labels, original_labels)


def test_files_without_signed_rows_are_copied(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root
) -> None:
    export_dataset(source, signed, destination)
    assert [destination.sha256(name) == source.root.sha256(name) for name in NUM_ROWS] == [False, True, False]


@pytest.mark.parametrize(
    "options", [{}, {"version": "2.4", "write_page_index": True}, {"store_schema": False, "compression": "NONE"}]
)
def test_the_layout_is_kept(destination: Root, tmp_path: Path, options: dict[str, Any]) -> None:
    root = Root(str(tmp_path / "source"))
    write(root, "a.parquet", [encode_png(image) for image in pixels(8)])
    table = root.read_table("a.parquet")
    sink = io.BytesIO()
    layout = {"compression": CODECS, "use_dictionary": ["label"], **options}
    with pq.ParquetWriter(sink, table.schema, **layout) as writer:
        writer.write_table(table, row_group_size=3)
        if not options.get("store_schema", True):  # as programs without Arrow write it
            writer.add_key_value_metadata(METADATA)
    root.write_bytes("a.parquet", sink.getvalue())
    export_dataset(ParquetSource(root, ""), {4: pixels(1, seed=3)[0]}, destination)
    layouts = [layout_of(place, "a.parquet") for place in (root, destination)]
    assert layouts[0] == layouts[1]
    assert [num_rows for num_rows, _ in layouts[0][0]] == [3, 3, 2]
    assert layouts[0][1][b"source"] == b"drawn by chance"


def layout_of(root: Root, name: str) -> tuple[Any, ...]:
    with root.open_input(name) as handle:
        metadata = pq.ParquetFile(handle).metadata
        groups = []
        for i in range(metadata.num_row_groups):
            columns = [metadata.row_group(i).column(j) for j in range(metadata.num_columns)]
            entries = [
                (c.path_in_schema, c.compression, c.encodings, c.has_dictionary_page, c.has_offset_index)
                for c in columns
            ]
            groups.append((metadata.row_group(i).num_rows, entries))
        return groups, metadata.metadata, metadata.format_version, metadata.schema.to_arrow_schema()


def test_modes_are_kept_and_other_chunks_too(destination: Root, tmp_path: Path) -> None:
    root = Root(str(tmp_path / "source"))
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "somebody")
    grey, colour = pixels(1, (1, 4, 4))[0], pixels(1, (3, 4, 4))[0]
    write(root, "a.parquet", [encoded(grey, "PNG", pnginfo=text), encoded(colour, "PNG", pnginfo=text)])
    new_grey, new_colour = pixels(1, (1, 4, 4), seed=1)[0], pixels(1, (3, 4, 4), seed=1)[0]
    source = ParquetSource(root, "", channels=3)
    export_dataset(source, {0: np.repeat(new_grey, 3, axis=0), 1: new_colour}, destination)
    for row, mode, image in zip(rows_of(destination, "a.parquet"), ("L", "RGB"), (new_grey, new_colour), strict=True):
        data = row["image"]["bytes"]
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.mode, picture.info) == ("PNG", mode, {"Author": "somebody"})
        assert decode_image(data).tolist() == image.tolist()


def test_signed_rows_look_like_the_encoder_of_the_rest(destination: Root, tmp_path: Path) -> None:
    # Where the dataset was written by Pillow, signing an image with its own pixels gives back its bytes.
    write_digits(Root(str(tmp_path / "digits")))
    source = ParquetSource(Root(str(tmp_path / "digits")), ("train.parquet",))
    images = source.read_images(range(50))
    export_dataset(source, dict(enumerate(images)), destination)
    assert destination.sha256("train.parquet") == source.root.sha256("train.parquet")


def test_a_plain_binary_column(destination: Root, tmp_path: Path) -> None:
    root = Root(str(tmp_path / "source"))
    images = pixels(3)
    root.write_table("a.parquet", pa.table({"image": [encode_png(image) for image in images], "label": [0, 1, 2]}))
    signed = pixels(1, seed=5)[0]
    export_dataset(ParquetSource(root, ""), {1: signed}, destination)
    exported = ParquetSource(destination, "").read_all()[0]
    assert np.array_equal(exported, [images[0], signed, images[2]])


def test_real_png(real_data: Path, destination: Root) -> None:
    source = ParquetSource(Root(str(real_data / "cifar100")), ("test.parquet",))
    sample_ids = [17, 4_000, 9_999]
    images = np.clip(source.read_images(sample_ids).astype(np.int64) + 9, 0, 255).astype(np.uint8)
    export_dataset(source, dict(zip(sample_ids, images, strict=True)), destination)
    assert np.array_equal(ParquetSource(destination, "").read_images(sample_ids), images)
    assert destination.size_bytes("test.parquet") == pytest.approx(source.root.size_bytes("test.parquet"), rel=0.02)


def test_progress(source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root) -> None:
    calls: list[tuple[int, int]] = []
    export_dataset(source, signed, destination, on_progress=lambda done, total: calls.append((done, total)))
    steps = [(done - before, total) for (before, _), (done, total) in itertools.pairwise([(0, 0), *calls])]
    assert sorted(steps) == [(1, 16), (1, 16), (3, 16), (3, 16), (3, 16), (5, 16)]  # row groups, and one copied file


@pytest.mark.parametrize("fault", ["untouched row", "signed row", "label", "path", "metadata", "row groups"])
def test_a_file_that_reads_back_otherwise_gets_no_manifest(
    source: ParquetSource,
    signed: Mapping[int, np.ndarray],
    destination: Root,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    original = Root.writing

    @contextmanager
    def spoil(root: Root, path: str, **options: Any) -> Iterator[BinaryIO]:
        with original(root, path, **options) as sink:
            yield sink
        if path != "a.parquet":
            return
        rows = rows_of(root, path)
        schema = pq.read_schema(pa.BufferReader(root.read_bytes(path)))
        row = rows[{"untouched row": 1, "signed row": 2}.get(fault, 0)]
        if fault in ("untouched row", "signed row"):
            row["image"]["bytes"] = encode_png(pixels(1, seed=77)[0])
        elif fault == "label":
            row["label"] = 1 - row["label"]
        elif fault == "path":
            row["image"]["path"] = "elsewhere.png"
        elif fault == "metadata":
            schema = schema.with_metadata({**schema.metadata, b"signed": b"yes"})
        table = pa.Table.from_pylist(rows, schema=schema)
        size = 4 if fault == "row groups" else 3
        root.write_bytes(path, parquet_bytes(table, row_group_size=size, compression=CODECS))

    monkeypatch.setattr(Root, "writing", spoil)
    with pytest.raises(RuntimeError, match=r"a\.parquet does not read back as written"):
        export_dataset(source, signed, destination)
    assert not destination.exists("manifest.json")


@pytest.mark.s3
def test_s3_to_s3_gives_the_bytes_of_local_to_local(
    source: ParquetSource,
    signed: Mapping[int, np.ndarray],
    destination: Root,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    bucket = request.getfixturevalue("s3_environment").bucket
    remote = Root(f"s3://{bucket}/{tmp_path.parent.name}-{tmp_path.name}")
    for name in source.file_names:
        source.root.copy(name, remote, f"source/{name}")
    remote_source = ParquetSource(remote.child("source"), "")
    assert export_dataset(remote_source, signed, remote.child("export")) == export_dataset(source, signed, destination)
    assert verify_export(remote.child("export")) == verify_export(destination)
    assert np.array_equal(ParquetSource(remote, "export/").read_all()[0], ParquetSource(destination, "").read_all()[0])


@pytest.mark.slow
def test_hugging_face_datasets_reads_an_export(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root, tmp_path: Path
) -> None:
    from datasets import load_dataset

    export_dataset(source, signed, destination)
    files = [str(Path(destination.uri) / name) for name in NUM_ROWS]
    dataset = load_dataset("parquet", data_files={"train": files}, cache_dir=str(tmp_path / "cache"))["train"]
    images, labels = ParquetSource(destination, "").read_all()
    assert dataset.num_rows == 16
    assert dataset.features["label"].names == ["x", "y", "z"]
    for row, image, label in zip(dataset, images, labels, strict=True):
        assert isinstance(row["image"], Image.Image)
        assert row["image"].mode == "RGB"
        assert np.array_equal(np.asarray(row["image"]).transpose(2, 0, 1), image)
        assert row["label"] == label


def test_memory_holds_pieces_not_files(tmp_path: Path, destination: Root) -> None:
    """Untouched images of 48 MiB in all, in row groups of 1 MiB: what pyarrow holds at once stays far below."""
    root = Root(str(tmp_path / "source"))
    noise = np.random.default_rng(0)
    cells = [encode_png(BAD), *(noise.bytes(2**18) for _ in range(191))]
    write(root, "a.parquet", cells, row_group_size=4, compression="NONE")
    source = ParquetSource(root, "")
    del cells
    before = pa.total_allocated_bytes()
    held: list[int] = []
    export_dataset(
        source, {0: BAD}, destination, on_progress=lambda *_: held.append(pa.total_allocated_bytes() - before)
    )
    assert len(held) == 48
    assert max(held) < 16 * 2**20
