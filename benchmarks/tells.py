"""Whether signed rows can be told from others without looking at the pictures: AUC of each trait of the files.

    python benchmarks/tells.py [--images 500] [--s3 s3://BUCKET/PREFIX] [--only opencv]

For every encoder and container it writes crops of two photographs, signs 30% of them (in Parquet and tar: those of one half
of the files) with noise, exports them, and measures every trait of a row: AUC 0.5 says nothing, 0 or 1 everything. "before"
is a signed image written with Pillow's defaults and nothing else done. A trait passes within 3 standard errors of the null
hypothesis. OpenCV and zopfli are used where they are installed, and imitated where not.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import os
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision import io as _registers_libpng  # noqa: F401

from taggants.data import open_source
from taggants.data.image_codec import decode_image, is_jpeg
from taggants.data.jpeg import _DHT, _SOS, _huffman_tables, _segments, jpeg_layout
from taggants.data.png import PILLOW_DEFAULT, chunks
from taggants.data.signed_images import Treatment
from taggants.data.source import ImageSource
from taggants.export import export_dataset
from taggants.storage import Attributes, Root

SIZE, NUM_FILES, SHARE, LEVELS = 48, 8, 0.3, 6
CONTAINERS = ("imagefolder", "parquet", "webdataset")
Pixels = NDArray[np.uint8]  # [H, W, 3]
Traits = dict[str, float]


def saved(image_format: str, **options: object) -> Callable[[Pixels], bytes]:
    def encode(pixels: Pixels) -> bytes:
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, image_format, **options)
        return sink.getvalue()

    return encode


def by_libpng(pixels: Pixels) -> bytes:
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    return bytes(torch.ops.image.encode_png(image, 6).numpy().tobytes())


def by_opencv(pixels: Pixels) -> bytes:
    try:
        import cv2

        return bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
    except ImportError:
        compressor = zlib.compressobj(1, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
        return assembled(pixels, compressor.compress(b"".join(filtered(pixels)[1])) + compressor.flush(), 8192)


def by_search(pixels: Pixels) -> bytes:
    try:
        import zopfli

        return bytes(zopfli.ZopfliPNG(iterations=2).optimize(saved("PNG")(pixels)))
    except ImportError:
        raw = b"".join(
            min(tried, key=lambda row: len(zlib.compress(row, 9))) for tried in zip(*filtered(pixels), strict=True)
        )
        compressor = zlib.compressobj(9)
        pieces = [compressor.compress(raw[:1000]), compressor.flush(zlib.Z_BLOCK), compressor.compress(raw[1000:])]
        return assembled(pixels, b"".join([*pieces, compressor.flush()]), 2**31)


def filtered(pixels: Pixels) -> list[list[bytes]]:
    """Returns: every row by the filters none, sub and up, each after the filter's byte."""
    rows = pixels.reshape(len(pixels), -1)
    left, above = np.zeros_like(rows), np.zeros_like(rows)
    left[:, 3:], above[1:] = rows[:, :-3], rows[:-1]
    return [[bytes([k]) + row.tobytes() for row in tried] for k, tried in enumerate((rows, rows - left, rows - above))]


def assembled(pixels: Pixels, compressed: bytes, chunk_bytes: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0)
    pieces = [chunk(b"IDAT", compressed[i : i + chunk_bytes]) for i in range(0, len(compressed), chunk_bytes)]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(pieces) + chunk(b"IEND", b"")


ENCODERS: dict[str, Callable[[Pixels], bytes]] = {
    "pillow": saved("PNG"),
    "optimize": saved("PNG", optimize=True, dpi=(72, 72)),
    "libpng": by_libpng,
    "opencv": by_opencv,
    "zopfli": by_search,
    "jpeg": saved("JPEG", quality=90),
    "jpeg optimised": saved("JPEG", quality=80, optimize=True, subsampling=0),
    "jpeg progressive": saved("JPEG", quality=85, progressive=True, comment=b"mine"),
}


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
    }


def write(container: str, root: Root, images: list[bytes]) -> ImageSource:
    """Returns: the dataset of those images, of labels 0, 1, 2, 0, ..., with times of its own and a column or member more."""
    suffix = "jpg" if is_jpeg(images[0]) else "png"
    labels = [i % 3 for i in range(len(images))]
    headers = {"CacheControl": "max-age=60", "Metadata": {"origin": "camera"}} if root.uri.startswith("s3://") else {}
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
        if new.modified_ns is not None:
            found = {"time": new.modified_ns, "time moved": float(new.modified_ns != old.modified_ns)}
            found["mode"] = os.stat(f"{root.uri}/{name}").st_mode
        return found

    if container == "imagefolder":
        for sample_id in range(source.num_rows):
            yield of_file(source.path_of(sample_id))  # type: ignore[attr-defined]
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
            "taggants.export.dataset.treatment_of": lambda *_: Treatment(),
            "taggants.export.rewriting._leaves_traces": lambda *_: False,
        }.items():
            stack.enter_context(mock.patch(name, value))
        yield


def measured(
    encoder: str, container: str, root: Root, num_images: int, *, before: bool = False
) -> dict[str, tuple[float, float]]:
    """Returns: by trait its AUC and standard error, of an export of that many images."""
    rng = np.random.default_rng([sorted(ENCODERS).index(encoder), num_images])
    photographs = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    images = []
    for i in range(num_images):
        photograph = photographs[i % 2]
        top, left = (int(rng.integers(0, side - SIZE)) for side in photograph.shape[:2])
        images.append(photograph[top : top + SIZE, left : left + SIZE])
    source = write(container, root.child("source"), [ENCODERS[encoder](image) for image in images])
    # In half of the files where there are files of several images.
    halves = np.arange(num_images) if container == "imagefolder" else np.arange(num_images // 2)
    chosen = rng.choice(halves, int(SHARE * num_images), replace=False).tolist()
    signed = {}
    for sample_id, pixels in zip(chosen, source.read_sized(chosen), strict=True):
        noise = rng.integers(-LEVELS, LEVELS + 1, pixels.shape)
        signed[int(sample_id)] = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    with as_before() if before else ExitStack():
        export_dataset(source, signed, root.child("export"))
    exported = source.at(root.child("export"))
    traits = jpeg_traits if encoder.startswith("jpeg") else png_traits
    data_of = exported.read_encoded(range(num_images))
    like = ENCODERS[encoder_of_most(data_of[-10:], encoder)]
    rows = [
        traits(data, like) | of_file
        for data, of_file in zip(data_of, file_traits(container, exported, source), strict=True)
    ]
    return {trait: auc([row[trait] for row in rows], [i in signed for i in range(num_images)]) for trait in rows[0]}


def is_told(found: tuple[float, float]) -> bool:
    value, error = found
    return abs(value - 0.5) > 3 * error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--s3", help="also export image folders from and to here")
    parser.add_argument("--only", choices=ENCODERS, help="one encoder")
    given = parser.parse_args()
    if not given.only:
        print(
            "| encoder | container | before: traits that tell (AUC) | after: the farthest of all | 3 standard errors |"
        )
        print("| --- | --- | --- | --- | --- |")
    for encoder in [given.only] if given.only else ENCODERS:
        for container in (*CONTAINERS, *(["S3"] if given.s3 else [])):
            with tempfile.TemporaryDirectory() as folder:
                root = Root(given.s3 if container == "S3" else folder).child(encoder.replace(" ", "-"))
                layout = "imagefolder" if container == "S3" else container
                before, after = (
                    measured(encoder, layout, root.child(when), given.images, before=when == "before")
                    for when in ("before", "after")
                )
            told = [f"{trait} {found[0]:.3f}" for trait, found in before.items() if is_told(found)]
            farthest = max(after, key=lambda trait: abs(after[trait][0] - 0.5))
            value, error = after[farthest]
            print(
                f"| {encoder} | {container} | {', '.join(told) or 'none'} | {farthest} {value:.3f}, of {len(after)} traits | "
                f"{3 * error:.3f}{' EXCEEDED' if is_told(after[farthest]) else ''} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
