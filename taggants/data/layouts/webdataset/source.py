"""An image classification dataset as WebDataset shards: plain tar files of pairs `key.jpg` and `key.cls`.

A sample id is the ordinal of an image over the tars sorted by name, and in a tar in the order of its members.
Source: the WebDataset format (github.com/webdataset/webdataset): a key is a member's path up to the first dot of its file
name, and a label is ASCII digits in `key.cls` or "label" in `key.json`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taggants.data.file_names import IMAGE_SUFFIXES, files_or_prefix, suffix_of
from taggants.data.source import DatasetIndex, FileHash, ImageSource, dataset_fingerprint, read_side_by_side
from taggants.errors import InputError
from taggants.limits import MOST_CLASSES, MOST_MEMBER_BYTES, MOST_TEXT_BYTES, check_label
from taggants.storage import Root
from taggants.storage.store import PIECE_BYTES

_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_STARTS_AT_ONCE = 512
_READS_AT_END = 100  # of a whole tar there are a few
_READS_PER_OPEN = 16  # enough to make up for opening, few enough for several threads on one tar


@dataclass(frozen=True, eq=False)
class _Tar:
    """What one tar holds: its hash, and by image the first byte, the size in bytes and the label; images without a key of
    their own by suffix, and the suffixes of other members."""

    hash: FileHash
    starts: NDArray[np.int64]
    sizes: NDArray[np.uint32]
    labels: NDArray[np.int32]
    skipped: Mapping[str, int]
    extras: frozenset[str]


@dataclass(frozen=True)
class WebDataset(ImageSource):
    """A dataset of uncompressed tar files with one image and one label per key.

    Each tar is read once from start to end, for its index and its hash together; after that an image is one ranged read.
    Members are images by their suffix (`IMAGE_SUFFIXES`); members of other suffixes, hidden ones and links are skipped.
    Keys have to differ within a tar. It pickles with place and label of each image, 16 bytes: 20 MB for ImageNet.

    Attributes:
        root: where the files lie.
        files: their names, or one string: all `.tar` files whose path starts with it ("" takes all).
        channels: 1 or 3 converts every image; None keeps greyscale images at 1 channel and RGB images at 3.

    Raises:
        InputError: from any method: there is no such file, it is damaged or cut off, or a key is there twice or lacks its
            image or label; the sentence names file and key.
    """

    layout: ClassVar[str] = "webdataset"

    root: Root
    files: tuple[str, ...] | str = ""
    channels: int | None = None

    @functools.cached_property
    def file_names(self) -> tuple[str, ...]:
        """The names of the tars, sorted: the order of the sample ids."""
        return files_or_prefix(self.root, self.files, ".tar")

    @functools.cached_property
    def _tars(self) -> tuple[_Tar, ...]:
        return tuple(read_side_by_side(self._read_tar, self.file_names))

    @functools.cached_property
    def file_offsets(self) -> tuple[int, ...]:
        """[len(file_names) + 1]: the first sample id of each tar, then the number of images."""
        return (0, *itertools.accumulate(len(tar.labels) for tar in self._tars))

    @property
    def num_rows(self) -> int:
        return self.file_offsets[-1]

    @property
    def how_read(self) -> tuple[str | int | None, ...]:
        """The layout and channels."""
        return self.layout, self.channels

    @property
    def skipped(self) -> Mapping[str, int]:
        return sum((Counter(tar.skipped) for tar in self._tars), Counter())

    @property
    def extras(self) -> tuple[str, ...]:
        return tuple(sorted(frozenset().union(*(tar.extras for tar in self._tars))))

    def at(self, root: Root) -> Self:
        """Returns: the files of the same names under another root."""
        return dataclasses.replace(self, root=root, files=self.file_names)

    def locate(self, sample_id: int) -> tuple[int, int, int]:
        """Returns: the index of the tar that holds an image, its first byte there, and its size in bytes.

        Raises:
            InputError: there is no such sample id.
        """
        file_index, row = self._split(sample_id, self.file_offsets)
        tar = self._tars[file_index]
        return file_index, int(tar.starts[row]), int(tar.sizes[row])

    def place_of(self, sample_id: int) -> str:
        """Returns: the tar, place in it and sample id of an image, in words for a message."""
        file_index, start, _ = self.locate(sample_id)
        row = sample_id - self.file_offsets[file_index]
        return f"Image {row} of {self.root.uri_of(self.file_names[file_index])} (sample {sample_id}, at byte {start})"

    def read_encoded(self, sample_ids: Sequence[int]) -> list[bytes]:
        """Returns: the encoded images in the order asked for, by one ranged read each.

        Raises:
            InputError: a sample id is out of range, or its tar is missing or shorter than it was.
        """
        return self._read(sample_ids, MOST_MEMBER_BYTES)

    def _read(self, sample_ids: Sequence[int], most_bytes: int) -> list[bytes]:
        """Returns: of each image so many of its first bytes, or all."""
        by_tar: dict[int, list[int]] = {}  # sample ids, each once
        for sample_id in sorted({int(sample_id) for sample_id in sample_ids}):
            by_tar.setdefault(self.locate(sample_id)[0], []).append(sample_id)
        parts = [
            ids[start : start + _READS_PER_OPEN]
            for ids in by_tar.values()
            for start in range(0, len(ids), _READS_PER_OPEN)
        ]
        read = functools.partial(self._read_part, most_bytes)
        found = {sample_id: data for part in read_side_by_side(read, parts) for sample_id, data in part}
        return [found[int(sample_id)] for sample_id in sample_ids]

    def _read_part(self, most_bytes: int, sample_ids: list[int]) -> list[tuple[int, bytes]]:
        """Returns: the images of sample ids that lie in one tar, or their first bytes."""
        part = []
        with self.root.open_input(self.file_names[self.locate(sample_ids[0])[0]]) as handle:
            for sample_id in sample_ids:
                _, start, size = self.locate(sample_id)
                size = min(size, most_bytes)
                data = bytes(handle.read_at(size, start))
                if len(data) != size:
                    raise InputError(f"{self.place_of(sample_id)} is cut off; the tar changed since it was indexed.")
                part.append((sample_id, data))
        return part

    def starts_in_order(self, num_bytes: int) -> Iterator[bytes]:
        for start in range(0, self.num_rows, _STARTS_AT_ONCE):
            yield from self._read(range(start, min(start + _STARTS_AT_ONCE, self.num_rows)), num_bytes)

    def _make_index(self) -> DatasetIndex:
        labels = self._read_labels()
        if not len(labels):
            raise InputError(
                f"The dataset in {self.root.uri} ({', '.join(self.file_names)}) has no images; give tars with pairs of "
                "KEY.jpg and KEY.cls."
            )
        rows = [len(tar.labels) for tar in self._tars]
        hashes = {name: tar.hash for name, tar in zip(self.file_names, self._tars, strict=True)}
        return DatasetIndex(
            labels=labels,
            files=self.file_names,
            file_offsets=self.file_offsets,
            num_classes=int(labels.max()) + 1,
            class_names=None,
            fingerprint=dataset_fingerprint(
                (name, tar_hash.sha256, num_rows)
                for (name, tar_hash), num_rows in zip(hashes.items(), rows, strict=True)
            ),
            hashes=hashes,
        )

    def _read_labels(self) -> NDArray[np.int64]:
        return np.concatenate([tar.labels for tar in self._tars]).astype(np.int64)

    def _read_tar(self, name: str) -> _Tar:
        uri = self.root.uri_of(name)
        version = self.root.version(name)
        with self.root.open_input(name) as handle:
            hashed = HashedFile(handle)
            # As a stream: object storage answers few long reads far faster than a short one per header.
            stream = io.BufferedReader(hashed, PIECE_BYTES)
            images, labels, end, others = _read_members(stream, uri)
            while stream.read(PIECE_BYTES):
                pass  # the hash is over the whole file
            # tarfile stops without a word at the end of a file and at a broken header; a whole tar ends in zeros.
            if handle.read_at(tarfile.BLOCKSIZE, end) != bytes(tarfile.BLOCKSIZE):
                raise _damaged(uri)
        for key in images:
            if key not in labels:
                raise InputError(f"Key {key!r} of {uri} has an image but no label; add {key}.cls to the tar.")
        return _Tar(
            FileHash(hashed.digest.hexdigest(), version),
            starts=np.array([start for start, _ in images.values()], dtype=np.int64),
            sizes=np.array([size for _, size in images.values()], dtype=np.uint32),
            labels=np.array([labels[key] for key in images], dtype=np.int32),
            skipped=Counter(
                f".{suffix_of(other)} behind a further dot"
                for other in others.elements()
                if suffix_of(other) in IMAGE_SUFFIXES
            ),
            extras=frozenset(f".{other}" for other in others),
        )


class BoundedHeader(tarfile.TarInfo):
    """A header whose extensions (PAX records, GNU long names) are small: tarfile holds them in memory whole."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        is_extension = self.type in (*_EXTENSIONS, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if is_extension and not 0 <= self.size <= MOST_TEXT_BYTES:
            raise tarfile.ReadError("extended header too large")
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


class HashedFile(io.RawIOBase):
    """An open file, to be read from start to end, with the hash of what was read so far.

    Raises:
        tarfile.ReadError: it was read far beyond its end, as tarfile does, for hours, to pass over a member that says it is
            longer than the file.
    """

    def __init__(self, handle: pa.NativeFile) -> None:
        self._handle = handle
        self._num_reads_at_end = 0
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = int(self._handle.readinto(buffer))
        self._num_reads_at_end += not size
        if self._num_reads_at_end == _READS_AT_END:
            raise tarfile.ReadError("a member longer than the tar")
        self.digest.update(buffer[:size])
        return size


def _read_members(stream: IO[bytes], uri: str) -> tuple[dict[str, tuple[int, int]], dict[str, int], int, Counter[str]]:
    """Returns: by key the first byte and size of its image, by key its label, where the last member ends, and how many
    other members there are by suffix, of those with many suffixes the last."""
    others: Counter[str] = Counter()
    images: dict[str, tuple[int, int]] = {}
    labels_of_suffix: dict[str, dict[str, int]] = {"json": {}, "cls": {}}
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=BoundedHeader) as tar:
            for member in tar:
                folder, slash, file_name = member.name.rpartition("/")
                stem, _, suffix = file_name.partition(".")
                key, suffix = folder + slash + stem, suffix.lower()
                if not stem or not member.isreg() or member.issparse():
                    continue
                if suffix in IMAGE_SUFFIXES:
                    if key in images:
                        raise InputError(f"Key {key!r} of {uri} has two images; give every image its own key.")
                    _check_size(member, MOST_MEMBER_BYTES, uri)
                    images[key] = (member.offset_data, member.size)
                elif suffix in labels_of_suffix:
                    labels = labels_of_suffix[suffix]
                    if key in labels:
                        raise InputError(f"{member.name!r} is in {uri} twice; give every image its own key.")
                    _check_size(member, MOST_TEXT_BYTES, uri)
                    content = tar.extractfile(member)
                    assert content is not None, "a regular file"
                    label = _label(content.read(), suffix, f"{member.name!r} of {uri}")
                    if label is not None:
                        labels[key] = label
                else:
                    others[suffix if suffix.count(".") == 0 else f"*.{suffix_of(suffix)}"] += 1
            end = tar.offset
    except (tarfile.TarError, EOFError, UnicodeError, OverflowError):
        raise _damaged(uri) from None
    for key in labels_of_suffix["cls"]:
        if key not in images:
            raise InputError(f"Key {key!r} of {uri} has a label but no image; add the image or remove {key}.cls.")
    return images, labels_of_suffix["json"] | labels_of_suffix["cls"], end, others


def _label(content: bytes, suffix: str, place: str) -> int | None:
    """Returns: the label in a member; None for JSON that has none."""
    label: object = None
    if suffix == "cls":
        text = content.strip()
        label = int(text) if text.isdigit() and len(text) < 20 else text
    else:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            raise InputError(f"{place} is not valid JSON; correct it.") from None
        if not isinstance(value, dict) or "label" not in value:
            return None
        label = value["label"]
    if isinstance(label, bool) or not isinstance(label, int):
        raise InputError(f"{place} has the label {label!r:.40}; labels are integers from 0 to {MOST_CLASSES - 1}.")
    check_label(label, place)
    return label


def _check_size(member: tarfile.TarInfo, most_bytes: int, uri: str) -> None:
    if not 0 <= member.size <= most_bytes:
        raise InputError(f"{member.name!r} of {uri} has {member.size} bytes; the most are {most_bytes}.")


def _damaged(uri: str) -> InputError:
    return InputError(f"{uri} is damaged, cut off or not an uncompressed tar; write or fetch it again.")
