"""Small datasets to export, and what an export of them has to hold."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from taggants.data import open_source
from taggants.data.image_codec import decode_image, encode_like
from taggants.data.source import ImageSource
from taggants.storage import Root

IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["x", "y", "z"], "_type": "ClassLabel"}}
METADATA = {"huggingface": json.dumps({"info": {"features": FEATURES}}), "source": "drawn by chance"}
NUM_ROWS = {"a.parquet": 7, "b.parquet": 5, "c/d.parquet": 4}
CODECS = {"image.bytes": "ZSTD", "image.path": "GZIP", "label": "NONE", "weight": "SNAPPY"}


def pixels(num: int, shape: tuple[int, int, int] = (3, 6, 5), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, *shape), dtype=np.uint8)


BAD = pixels(1, seed=4)[0]


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


def rows_of(root: Root, name: str) -> list[dict[str, Any]]:
    return list(root.read_table(name).to_pylist())


def state(root: Root) -> dict[str, tuple[int, str]]:
    return {name: ((Path(root.uri) / name).stat().st_mtime_ns, root.sha256(name)) for name in root.list()}


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


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
    return open_source(layout, root, files, channels=3)


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
