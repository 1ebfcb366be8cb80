"""Nothing but the pixels tells signed rows from others; the whole table with more images: benchmarks/tells.py."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.tells import CONTAINERS, ENCODERS, auc, is_told, measured, told_by_pixels
from taggants.data import open_source
from taggants.data.image_codec import decode_image
from taggants.data.source import ImageSource
from taggants.errors import InputError
from taggants.export import StoragePolicy, export_dataset, verify_export
from taggants.storage import Root
from tests.export.datasets import pixels, tar_of
from tests.s3_server import S3Server

PIXELS = pixels(9, (3, 12, 12), seed=3)
SEARCHED = [ENCODERS["zopfli"](image.transpose(1, 2, 0)) for image in PIXELS]
LIBPNG = [ENCODERS["libpng"](image.transpose(1, 2, 0)) for image in PIXELS]
SIGNED = {2: pixels(1, (3, 12, 12), seed=5)[0], 7: pixels(1, (3, 12, 12), seed=6)[0]}
BOX = b"JP\0\1\0\0\0\1" + b"jumbf box" * 3


@pytest.mark.parametrize("encoder", ENCODERS)
def test_no_trait_of_a_file_in_a_folder_tells(encoder: str, tmp_path: Path) -> None:
    found = measured(encoder, "imagefolder", Root(str(tmp_path)), 40)
    assert [trait for trait, value in found.items() if is_told(value)] == []


@pytest.mark.parametrize("encoder", ENCODERS)
def test_signed_images_are_what_the_encoder_of_the_others_writes_of_their_pixels(encoder: str, tmp_path: Path) -> None:
    found = told_by_pixels(encoder, Root(str(tmp_path)), 40)
    assert found.num_equal == found.num_signed == 12
    # So what their size tells is what noise tells that was there before anything was signed.
    for trait, (value, error) in found.exported.items():
        assert abs(value - found.control[trait][0]) < 3 * error


@pytest.mark.parametrize("encoder", ["libpng", "zopfli", "jpeg optimised"])
@pytest.mark.parametrize("container", CONTAINERS[1:])
def test_no_trait_of_a_row_tells(encoder: str, container: str, tmp_path: Path) -> None:
    found = measured(encoder, container, Root(str(tmp_path)), 40)
    assert [trait for trait, value in found.items() if is_told(value)] == []


@pytest.mark.s3
def test_no_trait_of_an_object_tells(tmp_path: Path, s3_environment: S3Server) -> None:
    remote = Root(f"s3://{s3_environment.bucket}/{tmp_path.parent.name}-{tmp_path.name}")
    found = measured("libpng", "imagefolder", remote, 40)
    assert {"S3 headers", "S3 time", "S3 parts"} <= set(found)
    assert [trait for trait, value in found.items() if is_told(value)] == []


def test_the_traits_do_tell_where_nothing_is_done(tmp_path: Path) -> None:
    for encoder, container in (("opencv", "imagefolder"), ("libpng", "parquet")):
        found = measured(encoder, container, Root(str(tmp_path / encoder)), 40, before=True)
        assert is_told(found["zlib header"])
        assert is_told(found["filters"])


def test_auc_against_all_pairs() -> None:
    rng = np.random.default_rng(0)
    values, signed = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in values[signed] for b in values[~signed]]
    assert auc(values.tolist(), signed.tolist())[0] == pytest.approx(np.mean(pairs))


def folder_of(root: Root, images: list[bytes], suffix: str = "png") -> ImageSource:
    for i, data in enumerate(images):
        root.write_bytes(f"{'ab'[i % 2]}/{i}.{suffix}", data)
    return open_source("imagefolder", root, "", channels=3)


def images_of(source: ImageSource) -> list[bytes]:
    return source.read_encoded(range(source.num_rows))


def test_png_of_an_unknown_encoder_are_all_written_alike(tmp_path: Path, destination: Root) -> None:
    source = folder_of(Root(str(tmp_path / "source")), [*SEARCHED[:6], *LIBPNG[6:]])
    with pytest.raises(InputError, match=r"PNG of an encoder that cannot be imitated.*set export.png=auto"):
        export_dataset(source, SIGNED, destination, policy=StoragePolicy(png="like_original"))
    manifest = export_dataset(source, SIGNED, destination)
    assert manifest.written_anew == ("png",)
    assert verify_export(destination) == manifest
    exported = source.at(destination)
    for i, (old, new) in enumerate(zip(images_of(source), images_of(exported), strict=True)):
        image = decode_image(new)
        assert np.array_equal(image, SIGNED[i] if i in SIGNED else decode_image(old))
        assert new == ENCODERS["pillow"](image.transpose(1, 2, 0))
    assert export_dataset(source, SIGNED, destination) == manifest
    known = folder_of(Root(str(tmp_path / "known")), LIBPNG)
    assert export_dataset(known, SIGNED, Root(str(tmp_path / "like"))).written_anew == ()
    anew = StoragePolicy(png="reencode_all")
    assert export_dataset(known, SIGNED, Root(str(tmp_path / "anew")), policy=anew).written_anew == ("png",)


@pytest.mark.parametrize("layout", [None, "parquet"])
def test_damaged_images_that_are_not_signed_stop_nothing(layout: str | None, tmp_path: Path, destination: Root) -> None:
    cut = SEARCHED[0][:-40] + SEARCHED[0][-12:]  # in the middle of its pixels
    source = folder_of(Root(str(tmp_path / "source")), [cut, *SEARCHED[1:]])
    anew = StoragePolicy(png="reencode_all", credentials="strip")
    manifest = export_dataset(source, SIGNED, destination, layout=layout, policy=anew)
    assert manifest.written_anew == ("png",)
    exported = images_of(open_source(layout or "imagefolder", destination, "", channels=3))
    originals = images_of(source)
    assert sum(data == cut for data in exported) == 1
    assert exported.index(cut) == originals.index(cut)
    assert export_dataset(source, SIGNED, destination, layout=layout, policy=anew) == manifest


def test_an_image_that_cannot_be_read_is_named_in_another_layout(tmp_path: Path, destination: Root) -> None:
    source = folder_of(Root(str(tmp_path / "source")), [b"%!PS-Adobe-3.0 EPSF-3.0", *LIBPNG[1:]])
    with pytest.raises(InputError, match=r"a/0.png \(sample 0\): the image cannot be decoded"):
        export_dataset(source, SIGNED, destination, layout="parquet")


def with_box(png_or_jpeg: bytes) -> bytes:
    if png_or_jpeg.startswith(b"\xff\xd8"):
        return png_or_jpeg[:2] + struct.pack(">BBH", 0xFF, 0xEB, 2 + len(BOX)) + BOX + png_or_jpeg[2:]
    box = struct.pack(">I", len(BOX)) + b"caBX" + BOX + struct.pack(">I", zlib.crc32(b"caBX" + BOX))
    return png_or_jpeg[:33] + box + png_or_jpeg[33:]


@pytest.mark.parametrize("encoder", ["libpng", "jpeg"])
@pytest.mark.parametrize("layout", [None, "parquet"])
def test_content_credentials_are_refused_or_removed_from_all(
    encoder: str, layout: str | None, tmp_path: Path, destination: Root
) -> None:
    plain = [ENCODERS[encoder](image.transpose(1, 2, 0)) for image in PIXELS]
    source = folder_of(Root(str(tmp_path / "source")), list(map(with_box, plain)))
    with pytest.raises(InputError, match=r"content credentials .*set export.credentials=strip"):
        export_dataset(source, SIGNED, destination, layout=layout)
    strip = StoragePolicy(credentials="strip")
    manifest = export_dataset(source, SIGNED, destination, layout=layout, policy=strip)
    assert manifest.written_anew == ("credentials",)
    exported = open_source(layout or "imagefolder", destination, "", channels=3)
    clean = folder_of(Root(str(tmp_path / "clean")), plain)
    without = Root(str(tmp_path / "without"))
    export_dataset(clean, SIGNED, without, layout=layout)
    assert images_of(exported) == images_of(open_source(layout or "imagefolder", without, "", channels=3))
    assert export_dataset(source, SIGNED, destination, layout=layout, policy=strip) == manifest


def forms(data: bytes) -> dict[str, Any]:
    digest = hashlib.md5(data).digest()
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "json": json.dumps({"url": "x", "deep": [{"sha1": hashlib.sha1(data).hexdigest().upper()}]}),
        "md5": base64.b64encode(digest).decode(),
        "raw": hashlib.sha512(data).digest(),
        "name": "of no image",
    }


ZEROS = {
    "sha256": "0" * 64,
    "json": json.dumps({"url": "x", "deep": [{"sha1": "0" * 40}]}),
    "md5": "0" * 24,
    "raw": b"\0" * 64,
    "name": "of no image",
}


@pytest.mark.parametrize("policy", ["recompute", "strip"])
def test_hashes_in_columns_are_recomputed_or_blanked(policy: Any, tmp_path: Path, destination: Root) -> None:
    root = Root(str(tmp_path / "source"))
    for name, rows in (("a", range(5)), ("b", range(5, 9))):
        cells = [{"bytes": LIBPNG[i], "path": f"{hashlib.sha1(LIBPNG[i]).hexdigest()}.png"} for i in rows]
        columns = {key: [forms(LIBPNG[i])[key] for i in rows] for key in ZEROS}
        root.write_table(f"{name}.parquet", pa.table({"image": cells, "label": [i % 2 for i in rows], **columns}))
    source = open_source("parquet", root, "", channels=3)
    with pytest.raises(InputError, match=r"column \w+ of Row 0 .* holds the image's .*set export.hashes to recompute"):
        export_dataset(source, SIGNED, destination)
    allowed = StoragePolicy(hashes=policy)
    manifest = export_dataset(source, SIGNED, destination, policy=allowed)
    assert manifest.written_anew == (("hashes",) if policy == "strip" else ())
    for row in destination.read_table("a.parquet").to_pylist() + destination.read_table("b.parquet").to_pylist():
        data = row["image"]["bytes"]
        wanted = forms(data) if policy == "recompute" else ZEROS
        assert {key: row[key] for key in ZEROS} == wanted
        assert row["image"]["path"].startswith(hashlib.sha1(data).hexdigest() if policy == "recompute" else "0" * 40)
    assert export_dataset(source, SIGNED, destination, policy=allowed) == manifest
    # In another layout nothing that lies beside the images is kept.
    assert export_dataset(source, SIGNED, Root(str(tmp_path / "tar")), layout="webdataset").written_anew == ()


@pytest.mark.parametrize("policy", ["recompute", "strip"])
@pytest.mark.parametrize("place", ["json", "pax", "text"])
def test_hashes_in_tars_are_recomputed_or_blanked(policy: Any, place: str, tmp_path: Path, destination: Root) -> None:
    root = Root(str(tmp_path / "source"))

    def tar() -> bytes:
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for i, data in enumerate(LIBPNG):
                hashed = hashlib.sha256(data).hexdigest()
                beside = json.dumps({"label": i % 2, "sha256": hashed if place == "json" else ""}).encode()
                text = hashed.encode() if place == "text" else b"x"
                for name, content in ((f"{i}.json", beside), (f"{i}.png", data), (f"{i}.sha256", text)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    member.pax_headers = {"sha": hashed} if place == "pax" and name.endswith("png") else {}
                    archive.addfile(member, io.BytesIO(content))
        return sink.getvalue()

    root.write_bytes("x.tar", tar())
    source = open_source("webdataset", root, "", channels=3)
    with pytest.raises(
        InputError, match=r"holds the image's sha256, which signed images would fail; set export.hashes"
    ):
        export_dataset(source, SIGNED, destination)
    manifest = export_dataset(source, SIGNED, destination, policy=StoragePolicy(hashes=policy))
    assert verify_export(destination) == manifest
    exported = source.at(destination)
    images = images_of(exported)
    assert all(np.array_equal(decode_image(images[i]), image) for i, image in SIGNED.items())
    with tarfile.open(Path(destination.uri) / "x.tar") as archive:
        for i, data in enumerate(images):
            wanted = hashlib.sha256(data).hexdigest() if policy == "recompute" else "0" * 64
            beside = json.loads(archive.extractfile(f"{i}.json").read())  # type: ignore[union-attr]
            text = archive.extractfile(f"{i}.sha256").read().decode()  # type: ignore[union-attr]
            pax = archive.getmember(f"{i}.png").pax_headers
            assert {"json": beside["sha256"], "text": text, "pax": pax.get("sha")}[place] == wanted
    assert export_dataset(source, SIGNED, destination, policy=StoragePolicy(hashes=policy)) == manifest


def test_names_made_of_hashes_are_refused(tmp_path: Path, destination: Root) -> None:
    root = Root(str(tmp_path / "folder"))
    for i, data in enumerate(LIBPNG):
        root.write_bytes(f"{'ab'[i % 2]}/{hashlib.md5(data).hexdigest()}.png", data)
    source = open_source("imagefolder", root, "", channels=3)
    for hashes in ("refuse", "strip"):
        with pytest.raises(InputError, match=r"the file name of .* holds the image's md5.*name the images otherwise"):
            export_dataset(source, SIGNED, destination, policy=StoragePolicy(hashes=hashes))
    assert export_dataset(source, SIGNED, destination, layout="parquet").written_anew == ()
    names = [
        (f"{hashlib.md5(data).hexdigest()}.{end}", content)
        for data in LIBPNG
        for end, content in (("png", data), ("cls", b"1"))
    ]
    tars = Root(str(tmp_path / "tars"))
    tars.write_bytes("x.tar", tar_of(names))
    with pytest.raises(InputError, match="name the images otherwise"):
        export_dataset(open_source("webdataset", tars, "", channels=3), SIGNED, Root(str(tmp_path / "out")))


FACTS: dict[str, Callable[[bytes], Any]] = {
    "size in bytes": len,
    "CRC-32": zlib.crc32,
    "Adler-32": lambda data: f"{zlib.adler32(data):08x}",
}


@pytest.mark.parametrize("fact", FACTS)
@pytest.mark.parametrize("place", ["column", "json in a column", "json in a tar"])
def test_sizes_and_checksums_beside_images_are_refused(
    fact: str, place: str, tmp_path: Path, destination: Root
) -> None:
    root = Root(str(tmp_path / "source"))
    facts = [FACTS[fact](data) for data in LIBPNG]
    in_json = [json.dumps({"label": i % 2, "deep": [{"of": one}]}) for i, one in enumerate(facts)]
    if place == "json in a tar":
        members = [
            (f"{i}.{end}", content)
            for i, data in enumerate(LIBPNG)
            for end, content in (("png", data), ("json", in_json[i].encode()))
        ]
        root.write_bytes("x.tar", tar_of(members))
        source = open_source("webdataset", root, "", channels=3)
    else:
        cells = [{"bytes": data, "path": ""} for data in LIBPNG]
        column = facts if place == "column" else in_json
        root.write_table("x.parquet", pa.table({"image": cells, "label": [0, 1, 0] * 3, "about": column}))
        source = open_source("parquet", root, "", channels=3)
    named = {"column": "column about of", "json in a column": "column about, field deep.0.of, of"}.get(
        place, "member .json, field deep.0.of, of"
    )
    with pytest.raises(InputError, match=rf"{named} .* holds the image's {fact}, .*remove it from the dataset"):
        export_dataset(source, SIGNED, destination, policy=StoragePolicy(hashes="recompute"))
    assert destination.list() == []
    export_dataset(source, SIGNED, destination, layout="imagefolder")


@pytest.mark.parametrize("writer", ["this pyarrow", "other options", "other program", "two writers", "other level"])
def test_parquet_files_tell_nothing_of_who_wrote_them(writer: str, tmp_path: Path, destination: Root) -> None:
    root = Root(str(tmp_path / "source"))
    digits = b"".join(b"%d," % i for i in np.random.default_rng(0).integers(0, 999, 3000))  # so that the level shows
    images = [data + digits for data in LIBPNG]
    for number in range(3):
        cells = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images[3 * number :][:3])]
        options: dict[str, Any] = {}
        if writer == "other options" or (writer, number) == ("two writers", 1):
            options = {"data_page_version": "2.0"}
        elif writer == "other level":
            options = {"compression": "zstd", "compression_level": 19}
        root.write_table(f"{number}.parquet", pa.table({"image": cells, "label": [0, 1, 0]}), **options)
        if writer == "other program":
            data, version = root.read_bytes(f"{number}.parquet"), pa.__version__.encode()
            root.write_bytes(
                f"{number}.parquet", data.replace(b"version " + version, b"version " + b"1" * len(version))
            )
    source = open_source("parquet", root, "", channels=3)
    export_dataset(source, {2: SIGNED[2]}, destination)
    copied = [root.sha256(name) == destination.sha256(name) for name in root.list()]
    # What cannot be written as it was is written anew in all files.
    assert copied == ([False] * 3 if writer == "other level" else [False, True, True])
    for name in root.list():
        writers = []
        for folder in (root, destination):
            with folder.open_input(name) as handle:
                metadata = pq.ParquetFile(handle).metadata
                offset = metadata.row_group(0).column(0).data_page_offset
                writers.append((metadata.created_by, metadata.format_version, bytes(handle.read_at(2, offset))))
        assert writers[0] == writers[1]
