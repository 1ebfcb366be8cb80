"""The WebDataset layout: tars with some images replaced, whose every other byte stays as it is, and new tars."""

from __future__ import annotations

import io
import itertools
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa

from taggants.data.file_names import IMAGE_SUFFIXES
from taggants.data.layouts.layout import FILE_NAME, Layout, Sample
from taggants.data.layouts.numbered_files import is_numbered, numbered_files
from taggants.data.layouts.webdataset.source import BoundedHeader, HashedFile, WebDataset
from taggants.data.signed_images import Replacements, is_replaced, replaced
from taggants.data.source import DatasetIndex
from taggants.data.stored_hashes import end_of_words, with_hashes
from taggants.errors import InputError
from taggants.limits import MOST_TEXT_BYTES
from taggants.storage import Root
from taggants.storage.store import PIECE_BYTES

_BLOCK = tarfile.BLOCKSIZE
_SIZE_FIELD = slice(124, 136)  # POSIX.1-1988 ustar header
_CHECKSUM_FIELD = slice(148, 156)


class WebDatasetLayout(Layout[WebDataset]):
    """Uncompressed tars. New ones are `train-00000.tar` and so on, of pairs `00000042.jpg` and `00000042.cls`; they have
    no place for class names."""

    suffix = "tar"
    num_threads = 4

    def open(self, root: Root, files: str, *, channels: int | None, image_column: str, label_column: str) -> WebDataset:
        return WebDataset(root, (files,) if files.endswith(f".{self.suffix}") else files, channels)

    def files(self, source: WebDataset) -> Iterator[tuple[str, int]]:
        for name, (start, end) in zip(source.file_names, itertools.pairwise(source.file_offsets), strict=True):
            yield name, end - start

    def check_rewritable(self, source: WebDataset, name: str) -> None:
        first, end = source.file_offsets[source.file_names.index(name) :][:2]
        if first < end:
            _, start, size = source.locate(first)
            with source.root.open_input(name) as handle:
                _header_of(handle, start, size, size, f"Image 0 of {source.root.uri_of(name)}")

    def rewrite(self, source: WebDataset, name: str, rows: Replacements, sink: BinaryIO) -> Iterator[int]:
        """Writes a tar with the images of some rows replaced.

        Yields: how many rows a step wrote.

        Raises:
            InputError: the header of such an image is of a rare kind that holds its size elsewhere.
        """
        root = source.root
        end, size_bytes = _end_of_members(root, name)
        done = position = change = 0
        before: dict[bytes, bytes] = {}  # hashes that stand after the last image written, and before the next
        with root.open_input(name) as handle:
            for row, (start, size) in _places(source, name, rows).items():
                original = bytes(handle.read_at(size, start))
                data = replaced(original, rows[row])
                after = rows[row].hash_changes(original, data)
                _copy(handle, sink, position, start - _BLOCK, before | after)
                before = after
                header = _header_of(handle, start, size, len(data), f"Image {row} of {root.uri_of(name)}")
                sink.write(header + data + bytes(-len(data) % _BLOCK))
                change += _padded(len(data)) - _padded(size)
                position = start + _padded(size)
                yield row + 1 - done
                done = row + 1
            _copy(handle, sink, position, end, before)
            tail = bytes(handle.read_at(size_bytes - end, end))
            if not any(tail) and len(tail) == _tail(end):
                tail = bytes(_tail(end + change))
            sink.write(tail)
        yield dict(self.files(source))[name] - done

    def companions(self, source: WebDataset, sample_ids: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        for sample_id in sample_ids:
            file_index, start, _ = source.locate(sample_id)
            yield _beside(source.root, source.file_names[file_index], start)

    def difference(self, source: WebDataset, name: str, rows: Replacements, destination: Root) -> str | None:
        places = {start: row for row, (start, _) in _places(source, name, rows).items()}
        try:
            changes = _hash_changes(source, name, rows, destination)
            with _members(source.root, name) as old_tar, _members(destination, name) as new_tar:
                for old, new in itertools.zip_longest(old_tar, new_tar):
                    if old is None or new is None:
                        return "the number of members differs"
                    if with_hashes(_described(old), changes) != _described(new):
                        return f"the header of member {old.name!r} differs"
                    row = places.get(old.offset_data) if old.isreg() else None
                    if row is None:
                        if old.size != new.size or not _equal(old_tar, old, new_tar, new, changes):
                            return f"member {old.name!r} differs"
                    elif not is_replaced(_content(old_tar, old), _content(new_tar, new), rows[row]):
                        return f"row {row} does not hold its signed image"
                old_end, new_end = old_tar.offset, new_tar.offset
        except tarfile.TarError:
            return "it is damaged"
        old_tail = source.root.size_bytes(name) - old_end
        new_tail = destination.size_bytes(name) - new_end
        if new_tail != (_tail(new_end) if old_tail == _tail(old_end) else old_tail):
            return "the padding at its end differs"
        return None

    def hash_and_count(self, root: Root, path: str) -> tuple[str, int]:
        with root.open_input(path) as handle:  # once for both
            hashed = HashedFile(handle)
            stream = io.BufferedReader(hashed, PIECE_BYTES)
            num_images = 0
            try:
                with tarfile.open(fileobj=stream, mode="r|", tarinfo=BoundedHeader) as tar:
                    num_images = sum(_is_image(member) for member in tar)
            except tarfile.TarError:
                num_images = -1
            while stream.read(PIECE_BYTES):
                pass
            return hashed.digest.hexdigest(), num_images

    def new_files(self, index: DatasetIndex, samples: Iterable[Sample]) -> Iterator[tuple[str, list[Sample]]]:
        return numbered_files(samples, self.suffix)

    def is_new_file(self, path: str) -> bool:
        return is_numbered(path, self.suffix)

    def write(self, index: DatasetIndex, samples: list[Sample], sink: BinaryIO) -> None:
        with tarfile.open(fileobj=sink, mode="w|", format=tarfile.USTAR_FORMAT, bufsize=PIECE_BYTES) as tar:
            for sample in samples:
                label_name = f"{sample.name.partition('.')[0]}.cls"
                for name, content in ((sample.name, sample.data), (label_name, str(sample.label).encode())):
                    member = tarfile.TarInfo(name)  # time 0, nobody's: nothing but the samples decides the bytes
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))

    def read(self, index: DatasetIndex, root: Root, path: str) -> Iterator[Sample]:
        try:
            with _members(root, path) as tar:
                name, data = "", b""
                for member in tar:
                    content = _content(tar, member) if member.isreg() else b""
                    if member.name.endswith(".cls"):
                        yield Sample(name, data, int(content))
                    else:
                        name, data = member.name, content
        except (tarfile.TarError, ValueError):
            raise InputError(f"{root.uri_of(path)} is damaged.") from None


def _places(source: WebDataset, name: str, rows: Replacements) -> dict[int, tuple[int, int]]:
    """Returns: by row the first byte and the size in bytes of each signed image, rising."""
    first = source.file_offsets[source.file_names.index(name)]
    found = {row: source.locate(first + row)[1:] for row in rows}
    return dict(sorted(found.items(), key=lambda place: place[1]))


def _is_image(member: tarfile.TarInfo) -> bool:
    stem, _, suffix = member.name.rpartition("/")[2].partition(".")
    return bool(stem) and member.isreg() and not member.issparse() and suffix.lower() in IMAGE_SUFFIXES


@contextmanager
def _members(root: Root, name: str) -> Iterator[tarfile.TarFile]:
    """Yields: a tar to be read once, from start to end, through a large buffer."""
    with (
        root.open_input(name) as handle,
        tarfile.open(fileobj=handle, mode="r|", bufsize=PIECE_BYTES, tarinfo=BoundedHeader) as tar,
    ):
        yield tar


def _end_of_members(root: Root, name: str) -> tuple[int, int]:
    """Returns: where the last member of a tar ends, and where the file does."""
    with _members(root, name) as tar:
        for _ in tar:
            pass
        return tar.offset, root.size_bytes(name)


def _copy(handle: pa.NativeFile, sink: BinaryIO, start: int, end: int, changes: Mapping[bytes, bytes]) -> None:
    """Copies part of a tar. New hashes are as long as the old ones, so no header and no checksum of one changes."""
    rest = b""
    for position in range(start, end, PIECE_BYTES):
        piece = handle.read_at(min(PIECE_BYTES, end - position), position)
        if changes:
            piece = rest + bytes(piece)
            cut = len(piece) if position + PIECE_BYTES >= end else end_of_words(piece)
            piece, rest = with_hashes(piece[:cut], changes), piece[cut:]
        sink.write(piece)


def _padded(size: int) -> int:
    return size + -size % _BLOCK


def _tail(end: int) -> int:
    """Returns: how many zeros end an archive: two blocks, then up to a whole record (GNU tar, tarfile)."""
    return 2 * _BLOCK + -(end + 2 * _BLOCK) % tarfile.RECORDSIZE


def _header_of(handle: pa.NativeFile, start: int, old_size: int, new_size: int, place: str) -> bytes:
    """Returns: the header of the member at a place, with another size."""
    header = _with_size(bytes(handle.read_at(_BLOCK, start - _BLOCK)), old_size, new_size)
    if header is None:
        raise InputError(
            f"{place} has a tar header that is not plain ustar, PAX or GNU; write the tar again with tarfile or GNU tar."
        )
    return header


def _with_size(header: bytes, old_size: int, new_size: int) -> bytes | None:
    """Returns: the header of a member of another size, its numbers written as they were; None if the size is not there."""
    found = re.fullmatch(rb" *([0-7]+)[\0 ]*", header[_SIZE_FIELD])
    if found is None or int(found[1], 8) != old_size:
        return None
    blank = bytearray(header)
    size_field = _octal_like(header[_SIZE_FIELD], new_size)
    if size_field is None:
        return None
    blank[_SIZE_FIELD] = size_field
    blank[_CHECKSUM_FIELD] = b" " * 8  # as which it counts itself
    checksum_field = _octal_like(header[_CHECKSUM_FIELD], sum(blank))
    if checksum_field is None:
        return None
    blank[_CHECKSUM_FIELD] = checksum_field
    return bytes(blank)


def _octal_like(field: bytes, value: int) -> bytes | None:
    """Returns: a number in the width, filling and ending of another; None if that is no number or has no room."""
    found = re.fullmatch(rb"( *)([0-7]+)([\0 ]*)", field)
    if found is None:
        return None
    width = len(found[1]) + len(found[2])
    digits = (b"%o" % value).rjust(width, b" " if found[1] else b"0")
    if len(digits) > width and len(digits) >= len(field):
        return None
    return (digits + found[3])[: len(field)]


def _described(member: tarfile.TarInfo) -> list[Mapping[str, object]]:
    info = {name: value for name, value in member.get_info().items() if name not in ("size", "chksum")}
    return [info, member.pax_headers]


def _beside(root: Root, name: str, start: int) -> dict[str, Any]:
    """Returns: what stands beside the image of a key that begins at that byte of a tar."""
    found: dict[str, Any] = {}
    key = ""
    with _members(root, name) as tar:
        for member in tar:
            stem, _, suffix = member.name.rpartition("/")[2].partition(".")
            if member.name.rpartition("/")[0] + "/" + stem != key:
                if FILE_NAME in found:
                    return found
                found, key = {}, member.name.rpartition("/")[0] + "/" + stem
            if member.isreg() and member.offset_data == start:
                found |= {FILE_NAME: member.name, "the PAX header": dict(member.pax_headers)}
            elif member.isreg() and member.size <= MOST_TEXT_BYTES:
                found[f"member .{suffix}"] = _content(tar, member)
    return found


def _hash_changes(source: WebDataset, name: str, rows: Replacements, destination: Root) -> dict[bytes, bytes]:
    """Returns: the changes of hashes that the images of a tar make in what it was exported to."""
    if not any(new.storage.hashes != "refuse" for new in rows.values()):
        return {}
    first = source.file_offsets[source.file_names.index(name)]
    ids, exported = [first + row for row in rows], source.at(destination)
    changes: dict[bytes, bytes] = {}
    for sample_id, row in zip(ids, rows, strict=True):  # one by one: their images may not fit into memory
        (old,), (new,) = source.read_encoded([sample_id]), exported.read_encoded([sample_id])
        changes |= rows[row].hash_changes(old, new)
    return changes


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None, "a regular file"
    return stream.read()


def _equal(
    old_tar: tarfile.TarFile,
    old: tarfile.TarInfo,
    new_tar: tarfile.TarFile,
    new: tarfile.TarInfo,
    changes: Mapping[bytes, bytes],
) -> bool:
    """Returns: whether two members of one size have one content, but for changes of hashes."""
    if not old.isreg():
        return True
    old_stream, new_stream = old_tar.extractfile(old), new_tar.extractfile(new)
    assert old_stream is not None
    assert new_stream is not None
    if changes and old.size <= MOST_TEXT_BYTES:
        return bool(with_hashes(old_stream.read(), changes) == new_stream.read())
    while piece := old_stream.read(PIECE_BYTES):
        if new_stream.read(PIECE_BYTES) != piece:
            return False
    return True
