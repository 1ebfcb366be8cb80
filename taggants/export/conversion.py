"""Export to another layout than the source's: the encoded images stay as they are, the files around them are new.

    train-00000.parquet   rows (image: struct<bytes, path>, label), class names as the Hugging Face ClassLabel
    train-00000.tar       pairs 00000042.jpg, 00000042.cls; class names in the manifest
    <class>/00000042.jpg  the class folders sorted as the labels are

Files hold the samples in the order of their ids, Parquet files and tars up to `LARGEST_FILE_BYTES` of images each.
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from taggants.data import SourceKind
from taggants.data.image_codec import encoding_of, is_jpeg
from taggants.data.source import PIECE_BYTES, DatasetIndex, EncodedSource
from taggants.errors import InputError
from taggants.export.manifest import ExportedFile
from taggants.export.originals import Signed, replaced
from taggants.export.rewriting import HashedSink
from taggants.export.side_by_side import map_in_order
from taggants.storage import Root

LARGEST_FILE_BYTES = 256 * 2**20
_ROW_GROUP_ROWS = 100  # as Hugging Face's datasets writes images
_IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "PPM": "ppm", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}
_NUM_THREADS = 16


@dataclass(frozen=True)
class Sample:
    """One image on its way: its file name, encoded bytes and label."""

    name: str
    data: bytes
    label: int


class Container(Protocol):
    """How samples become one file."""

    def write(self, samples: list[Sample], sink: BinaryIO) -> None:
        """Writes the file; equal samples give equal bytes."""

    def read(self, root: Root, path: str) -> Iterator[Sample]:
        """Yields: the samples of a file, in its order."""


@dataclass(frozen=True)
class _ParquetFile:
    class_names: tuple[str, ...] | None

    def write(self, samples: list[Sample], sink: BinaryIO) -> None:
        with pq.ParquetWriter(sink, self._schema()) as writer:
            for start in range(0, len(samples), _ROW_GROUP_ROWS):
                part = samples[start : start + _ROW_GROUP_ROWS]
                images = pa.array([{"bytes": sample.data, "path": sample.name} for sample in part], _IMAGE_TYPE)
                labels = pa.array([sample.label for sample in part], pa.int64())
                writer.write_table(pa.table([images, labels], schema=self._schema()))

    def read(self, root: Root, path: str) -> Iterator[Sample]:
        with root.open_input(path) as handle:
            for batch in pq.ParquetFile(handle).iter_batches(_ROW_GROUP_ROWS):
                for row in batch.to_pylist():
                    yield Sample(row["image"]["path"], row["image"]["bytes"], row["label"])

    def _schema(self) -> pa.Schema:
        label: dict[str, Any] = {"_type": "Value", "dtype": "int64"}
        if self.class_names is not None:
            label = {"_type": "ClassLabel", "names": list(self.class_names)}
        features = {"image": {"_type": "Image"}, "label": label}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        return pa.schema({"image": _IMAGE_TYPE, "label": pa.int64()}, metadata=metadata)


class _TarFile:
    def write(self, samples: list[Sample], sink: BinaryIO) -> None:
        with tarfile.open(fileobj=sink, mode="w|", format=tarfile.USTAR_FORMAT, bufsize=PIECE_BYTES) as tar:
            for sample in samples:
                label_name = f"{sample.name.partition('.')[0]}.cls"
                for name, content in ((sample.name, sample.data), (label_name, str(sample.label).encode())):
                    member = tarfile.TarInfo(name)  # time 0, nobody's: nothing but the samples decides the bytes
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))

    def read(self, root: Root, path: str) -> Iterator[Sample]:
        with root.open_input(path) as handle, tarfile.open(fileobj=handle, mode="r|", bufsize=PIECE_BYTES) as tar:
            name, data = "", b""
            for member in tar:
                stream = tar.extractfile(member)
                content = stream.read() if stream is not None else b""
                if member.name.endswith(".cls"):
                    yield Sample(name, data, int(content))
                else:
                    name, data = member.name, content


class _ImageFile:
    def __init__(self, label_of: Mapping[str, int]) -> None:
        self._label_of = label_of

    def write(self, samples: list[Sample], sink: BinaryIO) -> None:
        sink.write(samples[0].data)

    def read(self, root: Root, path: str) -> Iterator[Sample]:
        folder, _, name = path.partition("/")
        yield Sample(name, root.read_bytes(path), self._label_of[folder])


def convert(
    source: EncodedSource,
    signed: Signed,
    destination: Root,
    layout: SourceKind,
    advance: Callable[[int], None],
    *,
    only_hash: bool = False,
) -> tuple[ExportedFile, ...]:
    """Writes every sample in another layout; files already there with the same bytes stay. Each is read back and
    compared with the samples that were to be in it.

    Args:
        only_hash: write nothing; say what would be.

    Returns: the files, in the order that the sample ids will have.

    Raises:
        InputError: an image folder is asked for but a class has no images, or an image is of a format without a suffix.
        RuntimeError: a file does not read back as intended.
    """
    index = source.index()
    samples = _samples(source, index, signed)
    files: Iterator[tuple[str, list[Sample]]]
    container: Container
    if layout == "imagefolder":
        folders = class_folders(index)
        container = _ImageFile({folder: label for label, folder in enumerate(folders)})
        files = ((f"{folders[sample.label]}/{sample.name}", [sample]) for sample in samples)
    else:
        container = _ParquetFile(index.class_names) if layout == "parquet" else _TarFile()
        suffix = "parquet" if layout == "parquet" else "tar"
        files = ((f"train-{number:05d}.{suffix}", group) for number, group in enumerate(_groups(samples)))
    present = {} if only_hash else destination.sizes()

    def export_file(task: tuple[str, list[Sample]]) -> ExportedFile:
        path, group = task
        if only_hash or path in present:
            would_be = _hashed(container, path, group)
            if only_hash or (present[path], destination.sha256(path)) == (would_be.size_bytes, would_be.sha256):
                advance(len(group))
                return would_be
        with destination.writing(path) as file:
            sink = HashedSink(file)
            container.write(group, cast(BinaryIO, sink))
        exported = sink.exported(path, len(group))
        if not _holds(container, destination, path, group) or destination.sha256(path) != exported.sha256:
            raise RuntimeError(f"{destination.uri_of(path)} does not read back as written")
        advance(len(group))
        return exported

    if layout != "imagefolder":
        return tuple(export_file(task) for task in files)  # one at a time: each is large
    exported = map_in_order(export_file, files, num_threads=_NUM_THREADS)
    # An image folder numbers its samples by class first; within one, names rise with the sample ids.
    return tuple(sorted(exported, key=lambda file: file.path.split("/")))


def class_folders(index: DatasetIndex) -> tuple[str, ...]:
    """Returns: a folder name per label, sorted, since readers number the classes of a folder by name: the class names if
    they are sorted and may be folders, else the label in digits, followed by the name.

    Raises:
        InputError: a class has no images, which would shift the labels of those after it.
    """
    counts = np.bincount(index.labels, minlength=index.num_classes)
    if not counts.all():
        label = int(np.argmin(counts))
        raise InputError(
            f"Class {label} of {index.num_classes} has no images, and an image folder cannot hold an empty class; export "
            "to Parquet or WebDataset."
        )
    names = index.class_names
    if names and list(names) == sorted(set(names)) and all(_may_be_folder(name) for name in names):
        return names
    width = len(str(index.num_classes - 1))
    numbers = [f"{label:0{width}d}" for label in range(index.num_classes)]
    if not names:
        return tuple(numbers)
    plain = ["".join(c if c.isalnum() and c.isascii() else "_" for c in name) for name in names]
    return tuple(f"{number}_{name[:100]}" for number, name in zip(numbers, plain, strict=True))


def _may_be_folder(name: str) -> bool:
    return (
        name.isprintable() and len(name.encode()) < 200 and not name.startswith(".") and "/" not in name and bool(name)
    )


def _samples(source: EncodedSource, index: DatasetIndex, signed: Signed) -> Iterator[Sample]:
    """Yields: every sample with its image signed or as it is, by sample id."""
    for sample_id, original in enumerate(source.encoded_in_order()):
        data = replaced(original, signed[sample_id]) if sample_id in signed else original
        suffix = "jpg" if is_jpeg(data) else _SUFFIXES.get(encoding_of(data))
        if suffix is None:
            raise InputError(
                f"{source.place_of(sample_id)} is {encoding_of(data)}, which has no suffix in an image folder or tar; "
                "export in the layout of the source."
            )
        yield Sample(f"{sample_id:08d}.{suffix}", data, int(index.labels[sample_id]))


def _groups(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    """Yields: the samples of one file each, up to its largest size."""
    group: list[Sample] = []
    size_bytes = 0
    for sample in samples:
        if group and size_bytes + len(sample.data) > LARGEST_FILE_BYTES:
            yield group
            group, size_bytes = [], 0
        group.append(sample)
        size_bytes += len(sample.data)
    if group:
        yield group


def _holds(container: Container, root: Root, path: str, samples: list[Sample]) -> bool:
    """Returns: whether a file holds exactly these samples."""
    try:
        found = container.read(root, path)
        return all(sample == other for sample, other in itertools.zip_longest(samples, found))
    except (tarfile.TarError, pa.ArrowInvalid):
        return False
    except OSError as error:  # of pyarrow for a damaged page
        if error.errno is not None:
            raise
        return False


def _hashed(container: Container, path: str, group: list[Sample]) -> ExportedFile:
    sink = HashedSink(None)
    container.write(group, cast(BinaryIO, sink))
    return sink.exported(path, len(group))
