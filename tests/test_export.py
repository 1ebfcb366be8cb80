from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import shutil
import stat
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from taggants.data import SourceKind, open_source
from taggants.data.digits import write_digits
from taggants.data.image_codec import decode_image, encode_like, encode_png, without_pixels
from taggants.data.parquet_source import ParquetSource
from taggants.data.source import DatasetIndex, ImageSource
from taggants.data.webdataset import WebDataset
from taggants.errors import InputError
from taggants.export import (
    ExportManifest,
    Layout,
    check_originals,
    conversion,
    export_dataset,
    read_signed,
    verify_export,
)
from taggants.storage import Root
from tests.s3_server import S3Server

IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["x", "y", "z"], "_type": "ClassLabel"}}
METADATA = {"huggingface": json.dumps({"info": {"features": FEATURES}}), "source": "drawn by chance"}
NUM_ROWS = {"a.parquet": 7, "b.parquet": 5, "c/d.parquet": 4}
CODECS = {"image.bytes": "ZSTD", "image.path": "GZIP", "label": "NONE", "weight": "SNAPPY"}


def pixels(num: int, shape: tuple[int, int, int] = (3, 6, 5), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, *shape), dtype=np.uint8)


def encoded(image: np.ndarray, image_format: str, mode: str | None = None, **options: Any) -> bytes:
    sink = io.BytesIO()
    picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    (picture.convert(mode) if mode else picture).save(sink, image_format, **options)
    return sink.getvalue()


def write(root: Root, name: str, images: list[bytes], **options: Any) -> None:
    table = pa.table(
        {
            "weight": pa.array(np.arange(len(images)) / 4),
            "image": pa.array(
                [{"bytes": image, "path": f"{name}/{i}.png"} for i, image in enumerate(images)], IMAGE_TYPE
            ),
            "label": [i % 3 for i in range(len(images))],
        }
    )
    root.write_table(name, table.replace_schema_metadata(METADATA), **options)


@pytest.fixture
def source(tmp_path: Path) -> ParquetSource:
    root = Root(str(tmp_path / "source"))
    for i, (name, num_rows) in enumerate(NUM_ROWS.items()):
        # Compressed as Pillow would not: a re-encoded row is seen.
        images = [encoded(image, "PNG", compress_level=1) for image in pixels(num_rows, seed=i)]
        write(root, name, images, row_group_size=3, compression=CODECS, use_dictionary=["label"])
    return ParquetSource(root, "")


@pytest.fixture
def destination(tmp_path: Path) -> Root:
    return Root(str(tmp_path / "export"))


@pytest.fixture
def signed() -> dict[int, np.ndarray]:
    return dict(zip([13, 2, 0, 6], pixels(4, seed=9), strict=True))  # files a and c/d


def rows_of(root: Root, name: str) -> list[dict[str, Any]]:
    return list(root.read_table(name).to_pylist())


def state(root: Root) -> dict[str, tuple[int, str]]:
    return {name: ((Path(root.uri) / name).stat().st_mtime_ns, root.sha256(name)) for name in root.list()}


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


def test_manifest(source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root) -> None:
    manifest = export_dataset(source, signed, destination)
    files = []
    for name, num_rows in NUM_ROWS.items():
        data = destination.read_bytes(name)
        sha256 = hashlib.sha256(data).hexdigest()
        files.append({"path": name, "sha256": sha256, "size_bytes": len(data), "num_rows": num_rows})
    assert destination.read_json("manifest.json") == {
        "format": "taggants-export/2",
        "layout": "parquet",
        "source_fingerprint": source.index().fingerprint,
        "fingerprint": ParquetSource(destination, "").index().fingerprint,
        "num_rows": 16,
        "files": files,
    }
    assert ExportManifest.from_json(destination.read_json("manifest.json")) == manifest == verify_export(destination)


def test_a_private_manifest_lists_the_signed_rows(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root
) -> None:
    numpy_ids = {np.int64(sample_id): image for sample_id, image in signed.items()}
    manifest = export_dataset(source, numpy_ids, destination, private=True)
    assert manifest.signed_sample_ids == (0, 2, 6, 13)
    assert destination.read_json("manifest.json")["signed_sample_ids"] == [0, 2, 6, 13]
    assert stat.S_IMODE((Path(destination.uri) / "manifest.json").stat().st_mode) == 0o600
    assert verify_export(destination) == manifest
    # Asked for a public one now, no trace of them is left.
    assert export_dataset(source, signed, destination).signed_sample_ids is None
    assert "signed_sample_ids" not in destination.read_json("manifest.json")


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


def test_a_broken_off_export_is_finished(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Root.writing

    @contextmanager
    def fail_at_the_last_file(root: Root, path: str, *, private: bool = False) -> Iterator[BinaryIO]:
        with original(root, path, private=private) as sink:
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
    def spoil(root: Root, path: str, *, private: bool = False) -> Iterator[BinaryIO]:
        with original(root, path, private=private) as sink:
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
        root.write_bytes(path, _bytes(table, row_group_size=size, compression=CODECS))

    monkeypatch.setattr(Root, "writing", spoil)
    with pytest.raises(RuntimeError, match=r"a\.parquet does not read back as written"):
        export_dataset(source, signed, destination)
    assert not destination.exists("manifest.json")


def _bytes(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


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


BAD = pixels(1, seed=4)[0]


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
        (encoded(BAD, "PNG", mode="RGBA"), "is PNG with a palette, transparency"),
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


def test_progress(source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root) -> None:
    calls: list[tuple[int, int]] = []
    export_dataset(source, signed, destination, on_progress=lambda done, total: calls.append((done, total)))
    steps = [(done - before, total) for (before, _), (done, total) in itertools.pairwise([(0, 0), *calls])]
    assert sorted(steps) == [(1, 16), (1, 16), (3, 16), (3, 16), (3, 16), (5, 16)]  # row groups, and one copied file


@pytest.mark.parametrize("damage", ["missing", "longer", "flipped", "not listed", "manifest", "format", "fields"])
def test_verifying_names_what_is_wrong(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root, damage: str
) -> None:
    export_dataset(source, signed, destination)
    data = destination.read_bytes("b.parquet")
    manifest = destination.read_json("manifest.json")
    message = {
        "missing": r"b\.parquet is in the manifest but missing",
        "longer": r"b\.parquet has \d+ bytes, its manifest says",
        "flipped": r"b\.parquet has SHA-256 .*, its manifest says",
        "not listed": r"manifest\.json has a fingerprint or row count",
        "manifest": r"b\.parquet has 5 rows, its manifest says 6",
        "format": "not of the format taggants-export/2",
        "fields": "lacks fields or has malformed ones",
    }[damage]
    if damage == "missing":
        destination.delete("b.parquet")
    elif damage == "longer":
        destination.write_bytes("b.parquet", data + b"\0")
    elif damage == "flipped":
        destination.write_bytes("b.parquet", data[:50] + bytes([data[50] ^ 1]) + data[51:])
    elif damage == "not listed":
        del manifest["files"][1]
    elif damage == "manifest":
        manifest["files"][1]["num_rows"] = 6
    elif damage == "format":
        manifest["format"] = "taggants-export/1"
    elif damage == "fields":
        manifest["files"][1]["extra"] = 1
    destination.write_json("manifest.json", manifest)
    with pytest.raises(InputError, match=message):
        verify_export(destination)
    with pytest.raises(InputError, match=message):
        export_dataset(source, signed, destination)


def test_real_png(real_data: Path, destination: Root) -> None:
    source = ParquetSource(Root(str(real_data / "cifar100")), ("test.parquet",))
    sample_ids = [17, 4_000, 9_999]
    images = np.clip(source.read_images(sample_ids).astype(np.int64) + 9, 0, 255).astype(np.uint8)
    export_dataset(source, dict(zip(sample_ids, images, strict=True)), destination)
    assert np.array_equal(ParquetSource(destination, "").read_images(sample_ids), images)
    assert destination.size_bytes("test.parquet") == pytest.approx(source.root.size_bytes("test.parquet"), rel=0.02)


def jpegs() -> list[bytes]:
    """Four JPEGs of one size that differ in everything else."""
    images = pixels(4, (3, 21, 30), seed=2)
    exif = Image.Exif()
    exif[0x010E] = "mine"
    return [
        encoded(images[0], "JPEG", quality=60),
        encoded(images[1], "JPEG", mode="L", quality=85, optimize=True),
        encoded(images[2], "JPEG", subsampling="4:2:2", progressive=True, comment=b"c"),
        encoded(images[3], "JPEG", subsampling="4:4:4", exif=exif, icc_profile=b"p" * 99, dpi=(72, 300)),
    ]


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
    def spoil(root: Root, path: str, *, private: bool = False) -> Iterator[BinaryIO]:
        with original(root, path, private=private) as sink:
            yield sink
        rows = rows_of(root, path)
        rows[0]["image"]["bytes"] = spoilt
        table = pa.Table.from_pylist(rows, schema=pq.read_schema(pa.BufferReader(root.read_bytes(path))))
        root.write_bytes(path, _bytes(table, row_group_size=2, compression=CODECS))

    monkeypatch.setattr(Root, "writing", spoil)
    with pytest.raises(RuntimeError, match="row 0 does not hold its signed image"):
        export_dataset(jpeg_source, signed_jpegs, destination)
    assert not destination.exists("manifest.json")


def test_what_can_be_signed_is_known_before_crafting(jpeg_source: ParquetSource, tmp_path: Path) -> None:
    check_originals(jpeg_source, range(5))  # one is grey but read as three channels
    with pytest.raises(InputError, match=r"sample 0\) is RGB but data\.channels = 1"):
        check_originals(dataclasses.replace(jpeg_source, channels=1), [1, 0])
    root = Root(str(tmp_path / "others"))
    write(root, "a.parquet", [encode_png(BAD[:1]), encoded(BAD, "JPEG", keep_rgb=True)])
    with pytest.raises(InputError, match=r"sample 0\) is greyscale but data\.channels = 3"):
        check_originals(ParquetSource(root, "", channels=3), [0])
    with pytest.raises(InputError, match=r"sample 1\): the image is a JPEG that stores RGB itself"):
        check_originals(ParquetSource(root, ""), [1])


def test_a_grey_jpeg_cannot_hold_colours(
    jpeg_source: ParquetSource, signed_jpegs: dict[int, np.ndarray], destination: Root
) -> None:
    with pytest.raises(InputError, match=r"sample 1\) is greyscale but its signed image has colours"):
        export_dataset(jpeg_source, {1: signed_jpegs[0]}, destination)
    assert destination.list() == []


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


def test_real_jpeg(real_data: Path, destination: Root) -> None:
    source = ParquetSource(Root(str(real_data / "tiny_imagenet20")), ("val.parquet",), channels=3)
    originals = source.read_encoded(range(200))
    is_grey = [decode_image(data).shape[0] == 1 for data in originals]
    sample_ids = [is_grey.index(True), 7, 199]
    check_originals(source, sample_ids)
    images = np.clip(source.read_images(sample_ids).astype(np.int64) + 9, 0, 255).astype(np.uint8)
    export_dataset(source, dict(zip(sample_ids, images, strict=True)), destination)
    read = read_signed(source, destination, sample_ids)
    for sample_id, image in zip(sample_ids, images, strict=True):
        # Quality 75 with subsampled chroma: lossy, but the image that was to be stored.
        assert np.abs(read[sample_id].astype(np.int64) - image).mean() < 3
    assert destination.size_bytes("val.parquet") == pytest.approx(source.root.size_bytes("val.parquet"), rel=0.01)


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


# Image folders and WebDataset.

LAYOUTS = ("parquet", "imagefolder", "webdataset")
LABELS = [0, 1, 2, 0, 1, 2, 2]
PICTURES = [*(encoded(image, "PNG", compress_level=1) for image in pixels(3, (3, 21, 30), seed=6)), *jpegs()]


def tar_of(members: list[tuple[str, bytes]], **header: Any) -> bytes:
    tar_format = header.pop("format", tarfile.PAX_FORMAT)
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tar_format) as tar:
        for number, (name, content) in enumerate(members):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uid = len(content), 1_600_000_000 + number, 1000 + number
            for field, value in header.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def pairs(first: int, last: int) -> list[tuple[str, bytes]]:
    members = []
    for i in range(first, last):
        name = f"{'é' * 80 if i == 3 else 'k'}{i}"  # a name that takes a header of its own
        members += [(f"{name}.cls", b"%d" % LABELS[i]), (f"{name}.{'png' if i < 3 else 'jpg'}", PICTURES[i])]
    return [*members, (f"{first}.txt", b"not of the dataset" * 100)]


def source_in(layout: str, root: Root) -> ImageSource:
    """The seven pictures in that layout; of an image folder and tars the first file or two hold none that is signed."""
    if layout == "imagefolder":
        for i, (picture, label) in enumerate(zip(PICTURES, LABELS, strict=True)):
            root.write_bytes(f"train/{'abc'[label]}/{i}.{'PNG' if i < 3 else 'jpeg'}", picture)
    elif layout == "webdataset":
        root.write_bytes("x-0.tar", tar_of(pairs(0, 2)))
        root.write_bytes("x-1.tar", tar_of(pairs(2, 7)))
    else:
        write(root, "train-0.parquet", PICTURES[:2], row_group_size=3)
        write(root, "train-1.parquet", PICTURES[2:], row_group_size=3)
    files = {"imagefolder": "train", "webdataset": "x-", "parquet": "train"}[layout]
    return open_source(cast(SourceKind, layout), root, files, channels=3)


def signed_of(source: ImageSource) -> dict[int, np.ndarray]:
    """New pixels for the picture 2, a PNG, and 3 and 4, a coloured and a grey JPEG."""
    encoded_images = source.read_encoded(range(source.num_rows))
    images = pixels(3, (3, 21, 30), seed=8)
    images[2][:] = images[2][:1]
    return {encoded_images.index(PICTURES[i]): image for i, image in zip((2, 3, 4), images, strict=True)}


def expected_of(source: ImageSource, signed: Mapping[int, np.ndarray]) -> list[tuple[bytes, int]]:
    """What an export has to hold, by sample id of the source."""
    expected = []
    for i, data in enumerate(source.read_encoded(range(source.num_rows))):
        stored = signed[i][: decode_image(data).shape[0]] if i in signed else None
        expected.append((data if stored is None else encode_like(stored, like=data), int(source.index().labels[i])))
    return expected


def held_by(source: ImageSource) -> list[tuple[bytes, int]]:
    return list(zip(source.read_encoded(range(source.num_rows)), source.index().labels.tolist(), strict=True))


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
    def spoiling_writing(root: Root, path: str, *, private: bool = False) -> Iterator[BinaryIO]:
        with writing(root, path, private=private) as sink:
            yield sink
        if fault == "rewritten" and path != "manifest.json":
            spoil(root, path)

    monkeypatch.setattr(Root, "copy", spoiling_copy)
    monkeypatch.setattr(Root, "writing", spoiling_writing)
    with pytest.raises(RuntimeError, match="does not read back as"):
        export_dataset(source, signed, destination)
    assert not destination.exists("manifest.json")


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_the_one_that_tarfile_writes_of_the_signed_images(
    destination: Root, tmp_path: Path, tar_format: int
) -> None:
    """Byte for byte: headers, their order and checksums, padding, and zeros at the end."""
    root = Root(str(tmp_path / "source"))
    header = {"format": tar_format, "uname": "somebody", "gname": "staff", "gid": 7, "mode": 0o640}
    # 19 blocks of members: the larger image needs another record.
    small, large = encode_png(BAD), encode_png(pixels(1, (3, 60, 60))[0])
    members = [("a/k.png", small), ("a/k.cls", b"1"), ("b.png", large), ("b.cls", b"0")]
    for size in (1, 2000, 6000):
        root.write_bytes("x.tar", tar_of([*members, ("c.txt", bytes(size))], **header))
        source = WebDataset(root, ("x.tar",))
        image = np.zeros((3, 60, 60), dtype=np.uint8)
        export_dataset(source, {1: image}, destination.child(str(size)))
        assert source.index().labels.tolist() == [1, 0]
        expected = [*members[:2], ("b.png", encode_like(image, like=large)), members[3], ("c.txt", bytes(size))]
        assert destination.read_bytes(f"{size}/x.tar") == tar_of(expected, **header)


def test_a_tar_with_another_ending_keeps_it(destination: Root, tmp_path: Path) -> None:
    root = Root(str(tmp_path / "source"))
    members = [("b.png", encode_png(BAD)), ("b.cls", b"0")]
    whole = tar_of(members)
    root.write_bytes("x.tar", whole[: 4 * 512] + bytes(1024))  # two blocks of zeros, as Go's archive/tar writes it
    export_dataset(WebDataset(root, ("x.tar",)), {0: BAD}, destination)
    assert destination.read_bytes("x.tar") == root.read_bytes("x.tar")


def test_the_source_of_a_folder_takes_no_export(tmp_path: Path) -> None:
    source = source_in("imagefolder", Root(str(tmp_path / "source")))
    for place in ("train", "train/signed"):
        with pytest.raises(InputError, match="is the folder of the source or lies in it"):
            export_dataset(source, signed_of(source), source.root.child(place))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_other_files_is_left_alone(layout: str, tmp_path: Path, destination: Root) -> None:
    source = source_in("parquet", Root(str(tmp_path / "source")))
    destination.write_bytes("notes.txt", b"mine")
    with pytest.raises(InputError, match=r"notes\.txt is no part of this export"):
        export_dataset(source, signed_of(source), destination, layout=cast(Layout, layout))
    assert destination.list() == ["notes.txt"]


# From one layout to another.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("new_layout", LAYOUTS)
def test_a_conversion_keeps_encoded_images_and_labels(
    layout: str, new_layout: str, tmp_path: Path, destination: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "LARGEST_FILE_BYTES", 5_000)
    source = source_in(layout, Root(str(tmp_path / "source")))
    signed = signed_of(source)
    manifest = export_dataset(source, signed, destination, layout=cast(Layout, new_layout), private=True)
    files = {"parquet": "train", "imagefolder": "train" if layout == new_layout else "", "webdataset": ""}[new_layout]
    exported = open_source(cast(SourceKind, new_layout), destination, files, channels=3)
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
    assert export_dataset(source, signed, destination, layout=cast(Layout, new_layout), private=True) == manifest
    assert state(destination) == before


@pytest.mark.parametrize("new_layout", ["parquet", "imagefolder", "webdataset"])
def test_a_broken_off_conversion_is_finished(new_layout: str, tmp_path: Path, destination: Root) -> None:
    source = source_in("imagefolder" if new_layout == "parquet" else "parquet", Root(str(tmp_path / "source")))
    signed = signed_of(source)
    convert = functools.partial(export_dataset, source, signed, destination, layout=new_layout)
    manifest = convert()
    whole = {name: destination.sha256(name) for name in destination.list()}
    with pytest.raises(InputError, match="holds an export with other signed images"):
        export_dataset(source, {min(signed): signed[min(signed)]}, destination, layout=cast(Layout, new_layout))
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
    def other_label(root: Root, path: str, *, private: bool = False) -> Iterator[BinaryIO]:
        with original(root, path, private=private) as sink:
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
        (("a/b", "c", ".d"), ("0_a_b", "1_c", "2__d")),
        (("a", "a", "b"), ("0_a", "1_a", "2_b")),
    ],
)
def test_class_folders_are_sorted_as_the_labels_are(names: tuple[str, ...] | None, folders: tuple[str, ...]) -> None:
    index = DatasetIndex(np.array([2, 0, 1]), ("f",), (0, 3), 3, names, "")
    assert conversion.class_folders(index) == folders


def test_numbered_class_folders_are_as_wide_as_the_last() -> None:
    index = DatasetIndex(np.arange(11), ("f",), (0, 11), 11, None, "")
    assert conversion.class_folders(index)[9:] == ("09", "10")


def test_a_class_without_images_cannot_be_a_folder(tmp_path: Path, destination: Root) -> None:
    root = Root(str(tmp_path / "source"))
    write(root, "a.parquet", [encode_png(BAD), encode_png(BAD)])  # labels 0 and 1 of three
    source = ParquetSource(root, "")
    with pytest.raises(InputError, match="Class 2 of 3 has no images"):
        export_dataset(source, {0: BAD}, destination, layout="imagefolder")
    assert destination.list() == []
    export_dataset(source, {0: BAD}, destination, layout="webdataset")


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
