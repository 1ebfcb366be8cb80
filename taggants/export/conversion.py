"""Export to another layout than the source's: the encoded images stay as they are, the files around them are new.

Files hold the samples in the order of their ids; the layout says how many each holds.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from taggants.data.image_codec import encoding_of, is_jpeg
from taggants.data.layouts import Layout, Sample
from taggants.data.signed_images import ImageStorage, Replacement, Signed, replaced
from taggants.data.source import DatasetIndex, ImageSource
from taggants.errors import InputError
from taggants.export.manifest import ExportedFile
from taggants.export.rewriting import HashedSink
from taggants.export.side_by_side import map_in_order
from taggants.storage import Attributes, Root

_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "PPM": "ppm", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}
_NUM_THREADS = 16


def convert(
    source: ImageSource,
    signed: Signed,
    storage: ImageStorage,
    destination: Root,
    layout: Layout[Any],
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
        InputError: the layout cannot hold the dataset, or an image is of a format without a suffix.
        RuntimeError: a file does not read back as intended.
    """
    index = source.index()
    files = layout.new_files(index, _samples(source, index, signed, storage))
    one_time = Attributes(modified_ns=time.time_ns())  # of all files: signed images take longer
    present = {} if only_hash else destination.sizes()

    def holds(path: str, group: list[Sample]) -> bool:
        try:
            found = layout.read(index, destination, path)
            return all(sample == other for sample, other in itertools.zip_longest(group, found))
        except InputError:
            return False

    def hashed(path: str, group: list[Sample]) -> ExportedFile:
        sink = HashedSink(None)
        layout.write(index, group, cast(BinaryIO, sink))
        return sink.exported(path, len(group))

    def export_file(task: tuple[str, list[Sample]]) -> ExportedFile:
        path, group = task
        if only_hash or path in present:
            would_be = hashed(path, group)
            if only_hash or (present[path], destination.sha256(path)) == (would_be.size_bytes, would_be.sha256):
                advance(len(group))
                return would_be
        with destination.writing(path, like=one_time) as file:
            sink = HashedSink(file)
            layout.write(index, group, cast(BinaryIO, sink))
        exported = sink.exported(path, len(group))
        if not holds(path, group) or destination.sha256(path) != exported.sha256:
            raise RuntimeError(f"{destination.uri_of(path)} does not read back as written")
        advance(len(group))
        return exported

    if layout.suffix is not None:
        return tuple(export_file(task) for task in files)  # one at a time: each is large
    exported = map_in_order(export_file, files, num_threads=_NUM_THREADS)
    return tuple(sorted(exported, key=lambda file: layout.reading_order(file.path)))


def _samples(source: ImageSource, index: DatasetIndex, signed: Signed, storage: ImageStorage) -> Iterator[Sample]:
    """Yields: every sample with its image signed or as it is, by sample id."""
    for sample_id, original in enumerate(source.encoded_in_order()):
        data = original
        if sample_id in signed or storage.of_all_rows:
            data = replaced(original, Replacement(signed.get(sample_id), storage))
        try:
            suffix = "jpg" if is_jpeg(data) else _SUFFIXES.get(encoding_of(data))
        except InputError as error:
            raise InputError(f"{source.place_of(sample_id)}: {error}") from None
        if suffix is None:
            raise InputError(
                f"{source.place_of(sample_id)} is {encoding_of(data)}, which has no suffix in an image folder or tar; "
                "export in the layout of the source."
            )
        yield Sample(f"{sample_id:08d}.{suffix}", data, int(index.labels[sample_id]))
