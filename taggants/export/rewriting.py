"""Export in the layout of the source: only files that hold new images are written, the others copied, unless that would
tell them apart."""

from __future__ import annotations

import bisect
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, TypeAlias, cast

from taggants.data.layouts import layout_of
from taggants.data.signed_images import ImageStorage, Replacement, Replacements, Signed
from taggants.data.source import ImageSource, dataset_fingerprint, hash_now
from taggants.errors import InputError
from taggants.export.manifest import ExportedFile
from taggants.export.side_by_side import map_in_order
from taggants.storage import Root

_Task: TypeAlias = tuple[str, int, Replacements]  # name, number of rows and new images of a file
_HASHED_BYTES = 2**18  # still in the processor's cache when it is written


class HashedSink(io.RawIOBase):
    """Passes bytes on, or drops them, and knows their hash and number."""

    def __init__(self, sink: BinaryIO | None) -> None:
        self._sink = sink
        self.size_bytes = 0
        self._digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _HASHED_BYTES):
            piece = view[start : start + _HASHED_BYTES]
            self._digest.update(piece)
            if self._sink is not None:
                self._sink.write(piece)
        self.size_bytes += len(view)
        return len(view)

    def exported(self, path: str, num_rows: int) -> ExportedFile:
        """Returns: what the manifest says of a file of these bytes."""
        return ExportedFile(path, self._digest.hexdigest(), self.size_bytes, num_rows)


class _RowsOfFile(Mapping[int, Replacement]):
    """The new images of one file by row, each fetched when it is asked for."""

    def __init__(self, signed: Signed, storage: ImageStorage, sample_ids: Iterable[int], first: int) -> None:
        self._signed = signed
        self._storage = storage
        self._sample_ids = {sample_id - first: sample_id for sample_id in sample_ids}

    def __getitem__(self, row: int) -> Replacement:
        return Replacement(self._signed.get(self._sample_ids[row]), self._storage)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sample_ids)

    def __len__(self) -> int:
        return len(self._sample_ids)


def files_with_rows(source: ImageSource, signed: Signed, storage: ImageStorage, *, every: bool) -> Iterator[_Task]:
    """Yields: per file its name, number of rows and new images by row in it; every: of all rows."""
    sample_ids: Sequence[int] = sorted(int(i) for i in signed)
    if every:
        sample_ids = range(source.num_rows)
    first = 0
    for name, num_rows in layout_of(source).files(source):
        start, end = (bisect.bisect_left(sample_ids, edge) for edge in (first, first + num_rows))
        yield name, num_rows, _RowsOfFile(signed, storage, sample_ids[start:end], first)
        first += num_rows


def write_files(
    source: ImageSource,
    signed: Signed,
    storage: ImageStorage,
    destination: Root,
    advance: Callable[[int], None],
) -> tuple[ExportedFile, ...]:
    """Writes and copies all files; those already there as intended stay.

    Each is read back: a rewritten one is compared with its original, row by row; of the copies the fingerprint that the
    source would have with their bytes has to be the source's own, so no file of the source is read for it.

    Returns: the files, in the order of the sample ids.

    Raises:
        RuntimeError: a file does not read back as intended.
        InputError: the source changed since it was indexed, or a file of it is damaged where nothing was read before.
    """
    present = destination.sizes()

    def begin(task: _Task) -> tuple[_Task, HashedSink | None]:
        """Writes a file to be rewritten, unless it is there: then it may be right."""
        name, _, rows = task
        written = _written(source, name, rows, destination, advance) if rows and name not in present else None
        return task, written

    def finish(begun: tuple[_Task, HashedSink | None]) -> tuple[ExportedFile, str]:
        """Returns: what was exported, and the SHA-256 of the file that it comes from."""
        (name, num_rows, rows), written = begun
        if rows:
            exported = _rewritten(source, name, num_rows, rows, destination, written, advance)
            return exported, hash_now(source, name)  # after all reading of it
        exported = _copied(source, name, num_rows, destination, present.get(name))
        advance(num_rows)
        return exported, exported.sha256

    every = bool(storage.of_all_rows) or layout_of(source).leaves_traces(source)
    tasks = files_with_rows(source, signed, storage, every=every)
    layout = layout_of(source)
    if layout.is_written_in_order:
        answers = map_in_order(finish, map(begin, tasks), num_threads=layout.num_threads)
    else:
        answers = map_in_order(lambda task: finish(begin(task)), tasks, num_threads=layout.num_threads)
    results = tuple(answers)
    fingerprint = dataset_fingerprint((file.path, sha256, file.num_rows) for file, sha256 in results)
    if fingerprint != source.index().fingerprint:
        for file, sha256 in results:
            if hash_now(source, file.path) != sha256:
                raise RuntimeError(f"{destination.uri_of(file.path)} does not read back as the source's file")
        raise InputError(f"The dataset in {source.root.uri} changed since it was read; restore it, or start a new run.")
    return tuple(file for file, _ in results)


def _written(
    source: ImageSource, name: str, rows: Replacements, destination: Root, advance: Callable[[int], None]
) -> HashedSink:
    # Times and S3 headers as those of the files that are copied: else they tell which hold taggants.
    with destination.writing(name, like=source.root.attributes(name)) as file:
        sink = HashedSink(file)
        for num_written in layout_of(source).rewrite(source, name, rows, cast(BinaryIO, sink)):
            advance(num_written)
    return sink


def _rewritten(
    source: ImageSource,
    name: str,
    num_rows: int,
    rows: Replacements,
    destination: Root,
    written: HashedSink | None,
    advance: Callable[[int], None],
) -> ExportedFile:
    """Checks a file that was written, or that was there and stays if it is right."""
    if written is None:
        if _difference(source, name, rows, destination) is None:
            advance(num_rows)
            return ExportedFile(name, destination.sha256(name), destination.size_bytes(name), num_rows)
        written = _written(source, name, rows, destination, advance)
    difference = _difference(source, name, rows, destination)
    exported = written.exported(name, num_rows)
    # Of the bytes too: statistics or padding that storage spoilt would not show in the rows.
    if difference is None and destination.sha256(name) != exported.sha256:
        difference = "its bytes are others"
    if difference is not None:
        raise RuntimeError(f"{destination.uri_of(name)} does not read back as written: {difference}")
    return exported


def _difference(source: ImageSource, name: str, rows: Replacements, destination: Root) -> str | None:
    try:
        return layout_of(source).difference(source, name, rows, destination)
    except InputError as error:  # it is no file of this layout at all
        layout_of(source).difference(source, name, {}, source.root)  # or the source's own, where nothing read it before
        return str(error)


def _copied(
    source: ImageSource, name: str, num_rows: int, destination: Root, present_bytes: int | None
) -> ExportedFile:
    size_bytes = source.root.size_bytes(name) if present_bytes is not None else None
    if present_bytes is not None and present_bytes == size_bytes:
        sha256 = destination.sha256(name)
        if sha256 == hash_now(source, name):
            return ExportedFile(name, sha256, present_bytes, num_rows)
    source.root.copy(name, destination, name)
    return ExportedFile(name, destination.sha256(name), destination.size_bytes(name), num_rows)


def refuse_unsigned_files(source: ImageSource, signed: Signed, destination: Root) -> None:
    """Raises:
    InputError: a file to be rewritten is there unsigned: the destination is the source by another name.
    """
    present = destination.sizes()
    for name, _, rows in files_with_rows(source, signed, ImageStorage(), every=False) if present else ():
        if (
            rows
            and name in present
            and present[name] == source.root.size_bytes(name)
            and destination.sha256(name) == hash_now(source, name)
        ):
            raise InputError(f"{destination.uri_of(name)} is the unsigned file; give an empty folder to export to.")


def check_complete(
    source: ImageSource, signed: Signed, storage: ImageStorage, destination: Root, files: tuple[ExportedFile, ...]
) -> None:
    """Checks that the files of a complete export, which are as its manifest says, are those of this one.

    Raises:
        InputError: they hold other signed images.
    """
    other = InputError(f"{destination.uri} holds an export with other signed images; give an empty folder.")
    originals: list[tuple[str, str, int]] = []
    expected = list(
        files_with_rows(
            source, signed, storage, every=bool(storage.of_all_rows) or layout_of(source).leaves_traces(source)
        )
    )
    if [(name, num_rows) for name, num_rows, _ in expected] != [(file.path, file.num_rows) for file in files]:
        raise other
    for file, (name, num_rows, rows) in zip(files, expected, strict=True):
        if rows and _difference(source, name, rows, destination) is not None:
            raise other
        originals.append((name, hash_now(source, name) if rows else file.sha256, num_rows))
    if dataset_fingerprint(originals) != source.index().fingerprint:
        raise other  # it changed rows that are not to be
