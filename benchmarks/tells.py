"""Whether signed rows can be told from others without looking at the pictures: AUC of each trait of the files.

    python -m benchmarks.tells [--images 500] [--s3 s3://BUCKET/PREFIX] [--only opencv]

For every encoder and container it writes crops of two photographs, signs 30% of them (in Parquet and tar: those of one half
of the files) with noise, exports them, and measures every trait of a row: AUC 0.5 says nothing, 0 or 1 everything. "before"
is a signed image written with Pillow's defaults and nothing else done. A trait passes within 3 standard errors of the null
hypothesis. OpenCV and zopfli are used where they are installed, and imitated where not; S3 is SeaweedFS on loopback, where
no other is given.

What a file takes by its pixels is no matter of how it was written: noise takes space. A second table holds those traits
beside a control, in which the source's own encoder writes the same photographs, 30% of them with the same noise, and nothing
is signed or exported; beside an export whose signed images have no noise: they are decoded and written again; and how many
signed files equal, byte for byte, what that encoder writes of the signed pixels.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.datasets import load_sample_image

from benchmarks.image_encoders import ENCODERS, Pixels, saved
from benchmarks.own_s3 import start_s3
from taggants.data import open_source
from taggants.data.image_codec import decode_image, is_jpeg
from taggants.data.jpeg import _DHT, _SOS, _huffman_tables, _segments, jpeg_layout
from taggants.data.png import PILLOW_DEFAULT, chunks
from taggants.data.signed_images import ImageStorage
from taggants.data.source import ImageSource
from taggants.export import export_dataset
from taggants.storage import Attributes, Root

SIZE, NUM_FILES, SHARE, LEVELS = 48, 8, 0.3, 6
CONTAINERS = ("imagefolder", "parquet", "webdataset")
OF_PIXELS = ("size by its own settings", "bytes")
"""Traits that the pixels decide, whoever writes them."""
Traits = dict[str, float]


def auc(values: Sequence[float], is_signed: Sequence[bool]) -> tuple[float, float]:
    """Returns: the probability that a signed row's value is above another's, ties counted half, and its standard error if
    they do not differ (Mann-Whitney, without the correction for ties, so rather too large)."""
    signed = np.sort([value for value, one in zip(values, is_signed, strict=True) if one])
    others = np.array([value for value, one in zip(values, is_signed, strict=True) if not one])
    below = np.searchsorted(signed, others, "left") + np.searchsorted(signed, others, "right")
    n, m = len(signed), len(others)
    return 1 - float(below.sum()) / (2 * n * m), math.sqrt((n + m + 1) / (12 * n * m))


def as_number(trait: object) -> float:
    return float(zlib.crc32(repr(trait).encode()))


def png_traits(data: bytes, like: Callable[[Pixels], bytes]) -> Traits:
    """like: the encoder that wrote most rows. Against what that makes of the same pixels, since signed images have others:
    to take what they compress to by itself would measure the pictures."""
    pixels = decode_image(data).transpose(1, 2, 0)
    (idat, filters), (own_idat, own_filters) = (_idat_and_filters(png, pixels) for png in (data, like(pixels)))
    return {
        "zlib header": idat[0][1],
        "IDAT chunks": len(idat) - len(own_idat),
        "IDAT sizes": len(idat[0]) - len(own_idat[0]),
        "filters": float((filters == own_filters).mean()),
        "filters, average": float(filters.mean() - own_filters.mean()),
        "size": round(sum(map(len, idat)) / sum(map(len, own_idat)), 6),
        "other chunks": as_number([chunk for name, chunk in chunks(data) if name != b"IDAT"]),
        "bytes": len(data),
    }


def _idat_and_filters(png: bytes, pixels: Pixels) -> tuple[list[bytes], NDArray[np.uint8]]:
    idat = [chunk[8:-4] for name, chunk in chunks(png) if name == b"IDAT"]
    return idat, np.frombuffer(zlib.decompress(b"".join(idat))[:: 1 + pixels[0].size], np.uint8)


def encoder_of_most(images: Sequence[bytes], own: str) -> str:
    """Returns: the encoder that reproduces most of some images, as an attacker would find out; `own` if none does."""

    def num_reproduced(name: str) -> int:
        return sum(ENCODERS[name](decode_image(data).transpose(1, 2, 0))[-60:] == data[-60:] for data in images)

    best = max((own, *ENCODERS), key=num_reproduced)
    return best if num_reproduced(best) else own


def jpeg_traits(data: bytes, like: object) -> Traits:
    layout, segments = jpeg_layout(data), _segments(data)
    again = saved(
        "JPEG",
        qtables=[table.reshape(-1).tolist() for table in layout.quantisation],
        subsampling={(1, 1): 0, (2, 1): 1, (2, 2): 2}[layout.sampling[0]],
        optimize=not layout.has_standard_huffman_tables,
        progressive=layout.is_progressive,
    )(decode_image(data).transpose(1, 2, 0))
    tables = [table for segment in segments if segment.marker == _DHT for _, table in _huffman_tables(segment)]
    return {
        "quantisation tables": as_number(layout.quantisation.tolist()),
        "Huffman tables, number": len(tables),
        "Huffman tables, standard": layout.has_standard_huffman_tables,
        "Huffman tables, size": sum(map(len, tables))
        - sum(len(t) for s in _segments(again) if s.marker == _DHT for _, t in _huffman_tables(s)),
        "markers": as_number([s.marker for s in segments if s.marker not in (_DHT, _SOS)]),
        "scans": as_number([s.body for s in segments if s.marker == _SOS]),
        "other segments": as_number([s.body for s in segments if s.marker >= 0xE0]),
        "size by its own settings": round(len(data) / len(again), 3),
        "bytes": len(data),
    }


def write(container: str, root: Root, images: list[bytes]) -> ImageSource:
    """Returns: the dataset of those images, of labels 0, 1, 2, 0, ..., with times of its own and a column or member more."""
    suffix = "jpg" if is_jpeg(images[0]) else "png"
    labels = [i % 3 for i in range(len(images))]
    headers: dict[str, object] = {}
    if root.uri.startswith("s3://"):
        headers = {"CacheControl": "max-age=60", "Metadata": {"origin": "camera"}, "Tagging": "team=red"}
    parts = np.array_split(np.arange(len(images)), NUM_FILES)
    if container == "imagefolder":
        for i, (data, label) in enumerate(zip(images, labels, strict=True)):
            with root.writing(f"train/{label}/{i:06d}.{suffix}", like=Attributes(headers=headers)) as sink:
                sink.write(data)
    for number, part in enumerate(parts if container != "imagefolder" else ()):
        file = io.BytesIO()
        if container == "parquet":
            cells = [{"bytes": images[i], "path": f"{i}.{suffix}"} for i in part]
            table = pa.table({"image": cells, "label": [labels[i] for i in part], "id": part})
            pq.write_table(table, file, version="1.0", data_page_version="2.0", compression="zstd", compression_level=9)
        else:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for i, (end, text) in itertools.product(part, ((suffix, None), ("cls", "label"), ("json", "id"))):
                    content = {"label": b"%d" % labels[i], "id": json.dumps({"id": int(i)}).encode()}.get(text or "")
                    member = tarfile.TarInfo(f"{i:06d}.{end}")
                    member.mtime, member.uid, member.pax_headers = 1.5e9 + i / 8, int(i) % 7, {"comment": "mine"}
                    member.size = len(images[i] if content is None else content)
                    tar.addfile(member, io.BytesIO(images[i] if content is None else content))
        end = {"parquet": "parquet", "webdataset": "tar"}[container]
        with root.writing(f"train-{number}.{end}", like=Attributes(headers=headers)) as sink:
            sink.write(file.getvalue())
    if "://" not in root.uri:
        for i, path in enumerate(sorted(Path(root.uri).rglob("*.*"))):
            os.utime(path, ns=(0, 1_400_000_000_000_000_000 + i * 10**9))
    return open_source(container, root, "train", channels=3)


def parquet_traits(file: pq.ParquetFile, handle: pa.NativeFile) -> Traits:
    metadata = file.metadata
    columns = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    # The first field of a page's header in Thrift's compact protocol is its type: data, dictionary or data of version 2.
    page_type = bytes(handle.read_at(2, columns[0].data_page_offset))
    return {
        "Parquet writer": as_number((metadata.created_by, metadata.format_version)),
        "Parquet key-values": as_number(sorted(metadata.metadata or ())),
        "Parquet statistics": as_number([c.is_stats_set and c.statistics.has_min_max for c in columns]),
        "Parquet encodings": as_number([(c.encodings, c.has_dictionary_page, c.compression) for c in columns]),
        "Parquet indexes": as_number([(c.has_offset_index, c.has_column_index) for c in columns]),
        "Parquet pages": as_number(page_type),
    }


def file_traits(container: str, source: ImageSource, before: ImageSource) -> Iterator[Traits]:
    """Yields: by sample id the traits of the file that holds it, and of its place in there; times against the source's."""
    root = source.root

    def of_file(name: str) -> Traits:
        new, old = root.attributes(name), before.root.attributes(name)
        found = {"S3 headers": as_number(sorted(new.headers.items(), key=str)) if new.headers else 0.0}
        if root.uri.startswith("s3://"):
            bucket, _, prefix = root.uri.removeprefix("s3://").partition("/")
            head = root._store._client.head_object(Bucket=bucket, Key=f"{prefix}/{name}")  # type: ignore[attr-defined]
            found |= {
                "S3 time": head["LastModified"].timestamp(),
                "S3 parts": as_number(head["ETag"].partition("-")[2]),
            }
        if new.modified_ns is not None:
            found = {"time": new.modified_ns, "time moved": float(new.modified_ns != old.modified_ns)}
            found["mode"] = os.stat(f"{root.uri}/{name}").st_mode
        return found

    if container == "imagefolder":
        paths = [source.path_of(sample_id) for sample_id in range(source.num_rows)]  # type: ignore[attr-defined]
        is_local = "://" not in root.uri
        changed = [os.stat(f"{root.uri}/{path}").st_ctime_ns if is_local else 0 for path in paths]
        order = np.argsort(np.argsort(changed, kind="stable"), kind="stable") - np.arange(len(paths))
        for path, place in zip(paths, order.tolist(), strict=True):
            yield of_file(path) | ({"order of change": place} if is_local else {})
        return
    for name in source.file_names:  # type: ignore[attr-defined]
        traits = of_file(name)
        # Which file comes first is no trait: a file's time grows with its number here, as its name does.
        traits.pop("time", None)
        with root.open_input(name) as handle:
            if container == "parquet":
                file = pq.ParquetFile(handle)
                for _ in range(file.metadata.num_rows):
                    yield traits | parquet_traits(file, handle)
                continue
            with (
                tarfile.open(fileobj=handle) as tar,
                before.root.open_input(name) as other,
                tarfile.open(fileobj=other) as old,
            ):
                for new_member, old_member in zip(tar, old, strict=True):
                    if not new_member.name.endswith(("cls", "json")):
                        info, old_info = (
                            {k: v for k, v in m.get_info().items() if k not in ("size", "chksum")}
                            | {"pax": m.pax_headers}
                            for m in (new_member, old_member)
                        )
                        yield traits | {"tar header": float(info != old_info), "tar uid": new_member.uid}


@contextmanager
def as_before() -> Iterator[None]:
    """Exports as one that writes signed images with Pillow's defaults and leaves the rest alone."""
    with ExitStack() as stack:
        for name, value in {
            "taggants.data.signed_images.png_setting": lambda *_: PILLOW_DEFAULT,
            "taggants.export.dataset.image_storage_of": lambda *_: ImageStorage(),
            "taggants.data.layouts.parquet.layout.ParquetLayout.leaves_traces": lambda *_: False,
            "taggants.storage.s3.S3Store.attributes": lambda *_: Attributes(),
        }.items():
            stack.enter_context(mock.patch(name, value))
        yield


@dataclass(frozen=True, eq=False)
class Export:
    """An export: its photographs before they were first encoded, source, signed pixels [C, H, W] and result."""

    photographs: list[Pixels]
    source: ImageSource
    signed: dict[int, NDArray[np.uint8]]
    exported: ImageSource


def export(
    encoder: str, container: str, root: Root, num_images: int, *, before: bool = False, levels: int = LEVELS
) -> Export:
    rng = np.random.default_rng([sorted(ENCODERS).index(encoder), num_images])
    whole = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    photographs = []
    for i in range(num_images):
        top, left = (int(rng.integers(0, side - SIZE)) for side in whole[i % 2].shape[:2])
        photographs.append(whole[i % 2][top : top + SIZE, left : left + SIZE])
    source = write(container, root.child("source"), [ENCODERS[encoder](image) for image in photographs])
    # In half of the files where there are files of several images.
    halves = np.arange(num_images) if container == "imagefolder" else np.arange(num_images // 2)
    chosen = rng.choice(halves, int(SHARE * num_images), replace=False).tolist()
    signed = {}
    for sample_id, pixels in zip(chosen, source.read_sized(chosen), strict=True):
        signed[int(sample_id)] = noisy(pixels, rng, levels)
    with as_before() if before else ExitStack():
        export_dataset(source, signed, root.child("export"))
    return Export(photographs, source, signed, source.at(root.child("export")))


def noisy(pixels: NDArray[np.uint8], rng: np.random.Generator, levels: int = LEVELS) -> NDArray[np.uint8]:
    return np.clip(pixels + rng.integers(-levels, levels + 1, pixels.shape), 0, 255).astype(np.uint8)


def traits_of(images: Sequence[bytes], encoder: str) -> list[Traits]:
    like = ENCODERS[encoder_of_most(images[-10:], encoder)]
    traits = jpeg_traits if encoder.startswith("jpeg") else png_traits
    return [traits(data, like) for data in images]


def aucs(rows: Sequence[Traits], is_signed: Sequence[bool]) -> dict[str, tuple[float, float]]:
    return {trait: auc([row[trait] for row in rows], is_signed) for trait in rows[0]}


def measured(
    encoder: str, container: str, root: Root, num_images: int, *, before: bool = False
) -> dict[str, tuple[float, float]]:
    """Returns: by trait its AUC and standard error, of an export of that many images."""
    done = export(encoder, container, root, num_images, before=before)
    of_files = file_traits(container, done.exported, done.source)
    of_images = traits_of(done.exported.read_encoded(range(num_images)), encoder)
    rows = [image | of_file for image, of_file in zip(of_images, of_files, strict=True)]
    found = aucs(rows, [i in done.signed for i in range(num_images)])
    return {trait: value for trait, value in found.items() if trait not in OF_PIXELS}


@dataclass(frozen=True)
class ByPixels:
    """What the pixels tell: by trait the AUC and standard error of an export, of the control, and of an export whose signed
    images have no noise: decoded and written again; and of how many signed images how many are, byte for byte, what the encoder
    of most images writes of their pixels."""

    exported: dict[str, tuple[float, float]]
    control: dict[str, tuple[float, float]]
    rewritten: dict[str, tuple[float, float]]
    num_signed: int
    num_equal: int


def told_by_pixels(encoder: str, root: Root, num_images: int) -> ByPixels:
    done = export(encoder, "imagefolder", root, num_images)
    rng = np.random.default_rng(num_images)
    is_signed = [i in done.signed for i in range(num_images)]
    control = [
        ENCODERS[encoder](noisy(image, rng) if is_noisy else image)
        for image, is_noisy in zip(done.photographs, is_signed, strict=True)
    ]
    images = done.exported.read_encoded(range(num_images))
    own = ENCODERS[encoder_of_most(images[-10:], encoder)]
    alike = export(encoder, "imagefolder", root.child("rewritten"), num_images, levels=0)
    rewritten = alike.exported.read_encoded(range(num_images))
    exported, expected, again = (aucs(traits_of(files, encoder), is_signed) for files in (images, control, rewritten))
    return ByPixels(
        {trait: value for trait, value in exported.items() if trait in OF_PIXELS},
        {trait: value for trait, value in expected.items() if trait in OF_PIXELS},
        {trait: value for trait, value in again.items() if trait in OF_PIXELS},
        len(done.signed),
        sum(images[i] == own(pixels.transpose(1, 2, 0)) for i, pixels in done.signed.items()),
    )


def is_told(found: tuple[float, float]) -> bool:
    value, error = found
    return abs(value - 0.5) > 3 * error


def print_tells(encoder: str, container: str, root: Root, num_images: int) -> None:
    layout = "imagefolder" if container == "S3" else container
    before, after = (
        measured(encoder, layout, root.child(when), num_images, before=when == "before") for when in ("before", "after")
    )
    told = [f"{trait} {found[0]:.3f}" for trait, found in before.items() if is_told(found)]
    farthest = max(after, key=lambda trait: abs(after[trait][0] - 0.5))
    value, error = after[farthest]
    print(
        f"| {encoder} | {container} | {', '.join(told) or 'none'} | {farthest} {value:.3f}, of {len(after)} traits | "
        f"{3 * error:.3f}{' EXCEEDED' if is_told(after[farthest]) else ''} |",
        flush=True,
    )


def print_pixels(encoder: str, root: Root, num_images: int) -> None:
    found = told_by_pixels(encoder, root, num_images)
    for trait, (value, error) in found.exported.items():
        control, again = found.control[trait][0], found.rewritten[trait][0]
        print(
            f"| {encoder} | {trait} | {value:.3f} | {control:.3f} | {again:.3f} | {error:.3f} | "
            f"{found.num_equal} of {found.num_signed} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument(
        "--s3", help="an empty prefix for image folders on S3; default: SeaweedFS, where it is installed"
    )
    parser.add_argument("--only", choices=ENCODERS, nargs="+", help="some encoders")
    given = parser.parse_args()
    with ExitStack() as stack:
        s3 = given.s3 or start_s3(stack)
        folder = Root(stack.enter_context(tempfile.TemporaryDirectory()))
        encoders = given.only or list(ENCODERS)
        print(
            "| encoder | container | before: traits that tell (AUC) | after: the farthest of all | 3 standard errors |"
        )
        print("| --- | --- | --- | --- | --- |")
        for encoder in encoders:
            for container in (*CONTAINERS, *(["S3"] if s3 else [])):
                root = Root(s3) if container == "S3" and s3 else folder.child(container)
                print_tells(encoder, container, root.child(encoder.replace(" ", "-")), given.images)
        print(
            "\n| encoder | trait of the pixels | signed | control | written again | standard error | written as by the encoder |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for encoder in encoders:
            print_pixels(encoder, folder.child("pixels").child(encoder.replace(" ", "-")), given.images)


if __name__ == "__main__":
    main()
