"""An image classification dataset as one folder per class, the native layout of ILSVRC: `train/<wnid>/<file>.JPEG`.

A sample id is the ordinal of an image over the classes sorted by name, and in a class over its paths, sorted by code point.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from taggants.data.file_names import IMAGE_SUFFIXES, suffix_of
from taggants.data.layouts.layout import FILE_NAME, Layout, Sample
from taggants.data.signed_images import Replacements, is_replaced, replaced
from taggants.data.source import DatasetIndex, ImageSource, dataset_fingerprint, read_side_by_side, sha256_of
from taggants.errors import InputError
from taggants.storage import Root

_STARTS_AT_ONCE = 512


@dataclass(frozen=True)
class ImageFolder(ImageSource):
    """A dataset whose images lie, at any depth, in one folder per class; the folder's name is the class name.

    Files are images by their suffix (`IMAGE_SUFFIXES`, in any case), whatever their content; others, and hidden files and
    folders, are skipped. A folder without any file is no class: object storage has none. It pickles with the class
    sizes; a copy lists only the classes it reads.

    Attributes:
        root: where the files lie; names of files in messages and the fingerprint are relative to it.
        folder: the folder of class folders below it, for instance "train"; "" for the root itself.
        channels: 1 or 3 converts every image; None keeps greyscale images at 1 channel and RGB images at 3.

    Raises:
        InputError: from any method: there is no class, a class without images, an image beside the class folders, a
            name that cannot be read, or a file that is missing or changed; the sentence names it.
    """

    layout: ClassVar[str] = "imagefolder"

    root: Root
    folder: str = ""
    channels: int | None = None

    _not_pickled: ClassVar[tuple[str, ...]] = (*ImageSource._not_pickled, "_paths")

    def __post_init__(self) -> None:
        super().__post_init__()
        folder = str(PurePosixPath(self.folder))
        object.__setattr__(self, "folder", "" if folder == "." else folder)

    @functools.cached_property
    def _paths(self) -> dict[str, tuple[str, ...]]:
        """The paths of the images by class, below the class folder, as far as they were listed."""
        return {}

    @functools.cached_property
    def class_sizes(self) -> tuple[tuple[str, int], ...]:
        """The name of each class and its number of images, sorted by name."""
        self._skipped.clear()
        found = self._list(self.folder)
        if not found:
            raise InputError(
                f"There are no class folders in {self.uri}; give a folder that holds one folder of images per class."
            )
        for name, paths in found.items():
            if not paths:
                raise InputError(
                    f"Class {name!r} in {self.uri} has no images ({', '.join(sorted(IMAGE_SUFFIXES))}); remove the "
                    "folder or restore its images."
                )
        self._paths.update(found)
        return tuple((name, len(found[name])) for name in sorted(found))

    @functools.cached_property
    def class_offsets(self) -> tuple[int, ...]:
        """[number of classes + 1]: the first sample id of each class, then the number of images."""
        return (0, *itertools.accumulate(size for _, size in self.class_sizes))

    @property
    def num_rows(self) -> int:
        return self.class_offsets[-1]

    @property
    def how_read(self) -> tuple[str | int | None, ...]:
        """The layout and channels."""
        return self.layout, self.channels

    def at(self, root: Root) -> Self:
        """Returns: the folder of the same name under another root."""
        return dataclasses.replace(self, root=root)

    def path_of(self, sample_id: int) -> str:
        """Returns: the path of an image, relative to the root.

        Raises:
            InputError: there is no such sample id.
        """
        label, row = self._split(sample_id, self.class_offsets)
        return f"{_joined(self.folder, self.class_sizes[label][0])}/{self._paths_of(label)[row]}"

    def place_of(self, sample_id: int) -> str:
        """Returns: the uri and sample id of an image, in words for a message."""
        return f"{self.root.uri_of(self.path_of(sample_id))} (sample {sample_id})"

    def read_encoded(self, sample_ids: Sequence[int]) -> list[bytes]:
        """Returns: the encoded images in the order asked for.

        Raises:
            InputError: a sample id is out of range, or its file is missing.
        """
        return read_side_by_side(self.root.read_bytes, [self.path_of(int(sample_id)) for sample_id in sample_ids])

    def starts_in_order(self, num_bytes: int) -> Iterator[bytes]:
        def start(path: str) -> bytes:
            with self.root.open_input(path) as handle:
                return bytes(handle.read_at(num_bytes, 0))

        for label, (name, _) in enumerate(self.class_sizes):
            paths = [f"{_joined(self.folder, name)}/{below}" for below in self._paths_of(label)]
            for first in range(0, len(paths), _STARTS_AT_ONCE):
                yield from read_side_by_side(start, paths[first : first + _STARTS_AT_ONCE])

    def class_names(self) -> tuple[str, ...]:
        """Returns: the names of the class folders, sorted."""
        return tuple(name for name, _ in self.class_sizes)

    def _make_index(self) -> DatasetIndex:
        return DatasetIndex(
            labels=self._read_labels(),
            files=tuple(_joined(self.folder, name) for name, _ in self.class_sizes),
            file_offsets=self.class_offsets,
            num_classes=len(self.class_sizes),
            class_names=self.class_names(),
            fingerprint=dataset_fingerprint(self._hashed_files()),
        )

    def _read_labels(self) -> NDArray[np.int64]:
        sizes = [size for _, size in self.class_sizes]
        return np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)

    def _hashed_files(self) -> Iterator[tuple[str, str, int]]:
        """Yields: path, SHA-256 and 1 (row) of each image, in the order of the sample ids."""
        for label, (name, _) in enumerate(self.class_sizes):
            paths = [f"{_joined(self.folder, name)}/{below}" for below in self._paths_of(label)]
            for path, sha256 in zip(paths, read_side_by_side(self._sha256, paths), strict=True):
                yield path, sha256, 1

    def _sha256(self, path: str) -> str:
        with self.root.open_input(path) as handle:
            return sha256_of(handle)

    def _paths_of(self, label: int) -> tuple[str, ...]:
        """Returns: the paths of the images of a class, below the class folder."""
        name, size = self.class_sizes[label]
        if name not in self._paths:
            self._paths[name] = self._list(_joined(self.folder, name)).get(name, ())
        paths = self._paths[name]
        if len(paths) != size:
            raise InputError(
                f"Class {name!r} in {self.uri} has {len(paths)} images but had {size} when it was indexed; restore "
                "them, or start a new run."
            )
        return paths

    @property
    def skipped(self) -> Mapping[str, int]:
        return dict(self._skipped)

    @functools.cached_property
    def _skipped(self) -> Counter[str]:
        return Counter()

    def _list(self, folder: str) -> dict[str, tuple[str, ...]]:
        """Returns: by class the images below it, sorted, of the classes in `folder` or of the one that it is."""
        start = len(self.folder) + 1 if self.folder else 0
        found: dict[str, list[str]] = {}
        for path in self.root.list(folder):
            below = path[start:]
            if below.startswith(".") or "/." in below:
                continue
            self._check_readable(path)
            name, slash, rest = below.partition("/")
            suffix = suffix_of(below.rpartition("/")[2])
            is_image = suffix in IMAGE_SUFFIXES
            if slash:
                images = found.setdefault(name, [])
                if is_image:
                    images.append(rest)
                else:
                    self._skipped[f".{suffix}" if suffix else "without a suffix"] += 1
            elif is_image:
                raise InputError(
                    f"{self.root.uri_of(path)} is beside the class folders, so it has no class; move or remove it."
                )
        return {name: tuple(sorted(images)) for name, images in found.items()}

    def _check_readable(self, path: str) -> None:
        try:
            path.encode()
        except UnicodeEncodeError:
            pass
        else:
            if "//" not in path:
                return
        raise InputError(
            f"The name {path!a} in {self.root.uri} is not UTF-8 or has an empty part, so it cannot be read; rename it."
        )

    @property
    def uri(self) -> str:
        """The uri of the folder of class folders."""
        return self.root.uri_of(self.folder) if self.folder else self.root.uri


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


class ImageFolderLayout(Layout[ImageFolder]):
    """One folder per class and one file per image. New ones are `<class>/00000042.jpg`, the folders sorted as the labels."""

    def open(
        self, root: Root, files: str, *, channels: int | None, image_column: str, label_column: str
    ) -> ImageFolder:
        return ImageFolder(root, files, channels)

    def folder_of(self, source: ImageFolder) -> str:
        return source.uri

    def companions(self, source: ImageFolder, sample_ids: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        return ({FILE_NAME: source.path_of(sample_id)} for sample_id in sample_ids)

    def files(self, source: ImageFolder) -> Iterator[tuple[str, int]]:
        for sample_id in range(source.num_rows):
            yield source.path_of(sample_id), 1

    def rewrite(self, source: ImageFolder, name: str, rows: Replacements, sink: BinaryIO) -> Iterator[int]:
        sink.write(replaced(source.root.read_bytes(name), rows[0]))
        yield 1

    def difference(self, source: ImageFolder, name: str, rows: Replacements, destination: Root) -> str | None:
        is_signed = is_replaced(source.root.read_bytes(name), destination.read_bytes(name), rows[0])
        return None if is_signed else "it does not hold its signed image"

    def hash_and_count(self, root: Root, path: str) -> tuple[str, int]:
        return root.sha256(path), 1

    def check_can_hold(self, index: DatasetIndex) -> None:
        class_folders(index)

    def new_files(self, index: DatasetIndex, samples: Iterable[Sample]) -> Iterator[tuple[str, list[Sample]]]:
        folders = tuple(class_folders(index))
        for sample in samples:
            yield f"{folders[sample.label]}/{sample.name}", [sample]

    def is_new_file(self, path: str) -> bool:
        return path.count("/") == 1

    def write(self, index: DatasetIndex, samples: list[Sample], sink: BinaryIO) -> None:
        sink.write(samples[0].data)

    def read(self, index: DatasetIndex, root: Root, path: str) -> Iterator[Sample]:
        folder, _, name = path.partition("/")
        yield Sample(name, root.read_bytes(path), class_folders(index)[folder])

    def reading_order(self, path: str) -> Any:
        return path.split("/")  # by class first; within one, names rise with the sample ids


@functools.lru_cache(maxsize=1)  # asked for once per file
def class_folders(index: DatasetIndex) -> dict[str, int]:
    """Returns: a folder name per label and its label, sorted, since readers number the classes of a folder by name: the
    class names if they are sorted and may be folders, else the label in digits, followed by the name.

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
    if not names or list(names) != sorted(set(names)) or not all(_may_be_folder(name) for name in names):
        width = len(str(index.num_classes - 1))
        plain = [name if _may_be_folder(name) else _as_folder(name) for name in names or ()]
        endings = [f"_{name}" for name in plain] or [""] * index.num_classes
        names = tuple(f"{label:0{width}d}{ending}" for label, ending in enumerate(endings))
    return {name: label for label, name in enumerate(names)}


def _as_folder(name: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in name)[:100]


def _may_be_folder(name: str) -> bool:
    return (
        name.isprintable()
        and len(name.encode(errors="replace")) < 200
        and not name.startswith(".")
        and "/" not in name
        and bool(name)
    )
