"""What the project asks of an image dataset, whatever its layout, and what all layouts share.

A sample id is the ordinal of an image in its dataset, in an order that depends on the names of its files alone.
"""

from __future__ import annotations

import abc
import bisect
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from taggants.data.image_codec import channels_first, decode_picture
from taggants.errors import InputError
from taggants.limits import check_pixels
from taggants.storage import Root
from taggants.storage.store import PIECE_BYTES

_NUM_THREADS = 16
_CHUNK = 256

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class SampleError(InputError):
    """Bad input in a single image, which the sentence names: work on others can go on."""


@dataclass(frozen=True, slots=True)
class FileHash:
    """The hash of a file, and the version of the file (`Root.version`) before it was read for that."""

    sha256: str
    version: str


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """What a dataset holds, short of the pixels.

    Attributes:
        labels: int64 [N], the label of each sample id, in 0..num_classes - 1.
        files: names of the files, sorted; of an image folder the class folders.
        file_offsets: [len(files) + 1], the first sample id of each file, then N.
        num_classes: how many the class names are; without names, the largest label + 1.
        class_names: names by label, if the dataset carries them.
        fingerprint: SHA-256 that changes with any byte of any file, see `dataset_fingerprint`.
        hashes: by file, see `hash_now`; empty for an image folder, which has millions of files, each soon read again.
    """

    labels: NDArray[np.int64]
    files: tuple[str, ...]
    file_offsets: tuple[int, ...]
    num_classes: int
    class_names: tuple[str, ...] | None
    fingerprint: str
    hashes: Mapping[str, FileHash] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return len(self.labels)


class ImageSource(abc.ABC):
    """An image classification dataset under a root; the layouts are its subclasses, which read encoded images. It pickles
    without its index; a copy reads the same samples.

    Attributes:
        layout: the name of its layout in `taggants.data.layouts.LAYOUTS`.
        root: where the files lie.
        channels: 1 or 3 converts every image; None keeps greyscale images at 1 channel and RGB images at 3.

    Raises:
        InputError: from any method: a file is missing, damaged or not what the layout wants; the sentence names it.
    """

    layout: ClassVar[str]
    root: Root
    channels: int | None
    # What an object learned and would be too much to send to every worker.
    _not_pickled: ClassVar[tuple[str, ...]] = ("_index",)

    def __post_init__(self) -> None:
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels is {self.channels}; give 1 (grey) or 3 (RGB), or leave it out.")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._not_pickled}

    @property
    @abc.abstractmethod
    def num_rows(self) -> int:
        """The number of images."""

    @property
    @abc.abstractmethod
    def how_read(self) -> tuple[str | int | None, ...]:
        """What decides the pixels and labels besides the files: part of the identity of what is made from them."""

    @abc.abstractmethod
    def at(self, root: Root) -> Self:
        """Returns: the files of the same names under another root, for instance those of an export."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many files or members hold no image and label by their names, by what those end with; once it is indexed."""
        return {}

    @property
    def extras(self) -> tuple[str, ...]:
        """What lies beside images and labels, by column or suffix: another layout has no place for it."""
        return ()

    def class_names(self) -> tuple[str, ...] | None:
        """Returns: as in `index`, the class names by label, but without hashing a file for it."""
        return None

    @abc.abstractmethod
    def place_of(self, sample_id: int) -> str:
        """Returns: where a sample lies, in words for a message."""

    @abc.abstractmethod
    def read_encoded(self, sample_ids: Sequence[int]) -> list[bytes]:
        """Returns: the encoded images in the order asked for."""

    @abc.abstractmethod
    def _make_index(self) -> DatasetIndex: ...

    @abc.abstractmethod
    def _read_labels(self) -> NDArray[np.int64]:
        """Returns: int64 [N], without the cost of hashing."""

    def encoded_in_order(self) -> Iterator[bytes]:
        """Yields: every encoded image, by sample id."""
        for start in range(0, self.num_rows, _CHUNK):
            yield from self.read_encoded(range(start, min(start + _CHUNK, self.num_rows)))

    def starts_in_order(self, num_bytes: int) -> Iterator[bytes]:
        """Yields: of every encoded image, by sample id, at least so many of its first bytes, or all."""
        return self.encoded_in_order()

    @functools.cached_property
    def _index(self) -> DatasetIndex:
        return self._make_index()

    def index(self) -> DatasetIndex:
        """Reads the labels and hashes the files, once for this object; decodes no image.

        Returns: the index.

        Raises:
            InputError: a file is missing or damaged, or the labels are not what the layout wants.
        """
        return self._index

    def labels(self) -> NDArray[np.int64]:
        """Returns: int64 [N], as in `index`, but without hashing a file for it: a pickled source has no index.

        Raises:
            InputError: a file is missing or damaged, or the labels are not what the layout wants.
        """
        return self._index.labels if "_index" in self.__dict__ else self._read_labels()

    def read_sized(self, sample_ids: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Returns: per sample id uint8 [C, H_i, W_i], the decoded image in its own size, in the order asked for.

        Raises:
            InputError: a sample id is out of range, or an image is damaged.
        """
        return self.decode(self.read_encoded(sample_ids), sample_ids)

    def decode(self, encoded: Sequence[bytes], sample_ids: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Returns: what `read_sized` returns, of images that `read_encoded` returned already."""
        return [self._decode(data, int(sample_id)) for data, sample_id in zip(encoded, sample_ids, strict=True)]

    def read_images(self, sample_ids: Sequence[int]) -> NDArray[np.uint8]:
        """Returns: uint8 [n, C, H, W], the decoded images in the order asked for.

        Raises:
            InputError: no sample id is given or one is out of range, an image is damaged, or the images differ in size.
        """
        _refuse_none(sample_ids)
        return self._stack(self.read_sized(sample_ids), sample_ids)

    def read_resized(self, sample_ids: Sequence[int], size: int) -> NDArray[np.uint8]:
        """Returns: uint8 [n, C, size, size], the decoded images after `resize_and_crop`, in the order asked for.

        Raises:
            InputError: no sample id is given or one is out of range, an image is damaged, some are grey and some RGB
                with channels=None, or the size is below 1.
        """
        if size < 1:
            raise InputError(f"size is {size}; give the height and width in pixels, at least 1.")
        _refuse_none(sample_ids)
        encoded = self.read_encoded(sample_ids)  # far smaller than the decoded images, of which one is held at a time
        resized = [
            self._decode(data, int(sample_id), size) for data, sample_id in zip(encoded, sample_ids, strict=True)
        ]
        return self._stack(resized, sample_ids)

    def read_all(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Returns: all images, uint8 [N, C, H, W], and their labels, int64 [N].

        Raises:
            InputError: as `read_images`, or a label is missing or negative.
        """
        labels = self.labels()
        images: NDArray[np.uint8] | None = None
        for sample_id, data in enumerate(self.encoded_in_order()):
            image = self._decode(data, sample_id)
            if images is None:
                images = np.empty((self.num_rows, *image.shape), dtype=np.uint8)
            self._check_size(image, sample_id, images[0], 0)
            images[sample_id] = image
        if images is None:
            raise InputError(f"The dataset in {self.root.uri} has no rows; give one that has.")
        return images, labels

    def _split(self, sample_id: int, offsets: Sequence[int]) -> tuple[int, int]:
        """Returns: which part holds a sample, and its row there; offsets: the first sample id of each part, then N.

        Raises:
            InputError: there is no such sample id.
        """
        if not 0 <= sample_id < self.num_rows:
            raise InputError(f"Sample id {sample_id} is not in 0 to {self.num_rows - 1}, the rows of {self.root.uri}.")
        part = bisect.bisect_right(offsets, sample_id) - 1
        return part, sample_id - offsets[part]

    def _decode(self, data: bytes, sample_id: int, size: int | None = None) -> NDArray[np.uint8]:
        try:
            picture = decode_picture(data, self.channels)
            return channels_first(picture if size is None else _resized(picture, size))
        except InputError as error:
            raise SampleError(f"{self.place_of(sample_id)}: {error}") from None

    def _stack(self, images: list[NDArray[np.uint8]], sample_ids: Sequence[int]) -> NDArray[np.uint8]:
        for image, sample_id in zip(images, sample_ids, strict=True):
            self._check_size(image, int(sample_id), images[0], int(sample_ids[0]))
        return np.stack(images)

    def _check_size(self, image: NDArray[np.uint8], sample_id: int, other: NDArray[np.uint8], other_id: int) -> None:
        if image.shape != other.shape:
            fix = "set data.channels to 1 or 3"
            if image.shape[1:] != other.shape[1:]:
                fix = "set data.image_size to the side in px that models take, or resize the images to one size"
            raise InputError(
                f"{self.place_of(sample_id)} has size {_size(image)} but sample {other_id} has {_size(other)} "
                f"(channels x height x width); {fix}."
            )


def dataset_fingerprint(files: Iterable[tuple[str, str, int]]) -> str:
    """Args:
        files: per file its name, the SHA-256 of its bytes in hex digits, and its number of rows, in the order of the
            sample ids.

    Returns: SHA-256 in hex digits over the list as JSON without spaces.
    """
    digest = hashlib.sha256(b"[")  # entry by entry: an image folder has millions
    separator = b""
    for name, sha256, num_rows in files:
        digest.update(separator + json.dumps([name, sha256, num_rows], separators=(",", ":")).encode())
        separator = b","
    digest.update(b"]")
    return digest.hexdigest()


def resize_and_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scales the shorter side to `size` (bilinear, antialiased, aspect ratio kept), then cuts out the centre.

    Source: the evaluation transform of ImageNet models, `torchvision.transforms` Resize and CenterCrop of one size, whose
    rounding it shares.

    Args:
        image: uint8 [C, H, W] with C 1 or 3.

    Returns: uint8 [C, size, size].
    """
    pixels = image[0] if image.shape[0] == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    return channels_first(_resized(Image.fromarray(pixels), size))


def _resized(picture: Image.Image, size: int) -> Image.Image:
    width, height = picture.size
    scaled_longer = int(size * max(width, height) / min(width, height))
    new_size = (size, scaled_longer) if width <= height else (scaled_longer, size)
    check_pixels(
        new_size[1], new_size[0], f"the image of {height} x {width} px, resized to a shorter side of {size} px,"
    )
    if new_size != picture.size:
        picture = picture.resize(new_size, Image.Resampling.BILINEAR)
    left, top = (round((extent - size) / 2) for extent in new_size)
    return picture.crop((left, top, left + size, top + size))


def read_for_models(source: ImageSource, sample_ids: Sequence[int], image_size: int | None) -> NDArray[np.uint8]:
    """Returns: uint8 [n, C, S, S], the samples as models take them: resized and centre-cropped to `image_size`, or as they
    are where it is None.

    Raises:
        InputError: an image cannot be read, or without `image_size` they differ in size.
    """
    return source.read_images(sample_ids) if image_size is None else source.read_resized(sample_ids, image_size)


def read_side_by_side(read: Callable[[_Item], _Answer], items: Iterable[_Item]) -> list[_Answer]:
    """Returns: `read(item)` of each item in their order, from several threads: for waiting on storage and for hashing."""
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return list(pool.map(read, items))


def sha256_of(handle: pa.NativeFile) -> str:
    """Returns: the SHA-256 in hex digits of what is left to read of an open file."""
    digest = hashlib.sha256()
    while piece := handle.read(PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def hash_now(source: ImageSource, path: str) -> str:
    """Returns: the SHA-256 in hex digits of a file of a source as it is now. It is read again only if it is not known to
    be the file that was hashed for the index."""
    known = source.index().hashes.get(path)
    if known is not None and source.root.version(path) == known.version:
        return known.sha256
    return source.root.sha256(path)


def _refuse_none(sample_ids: Sequence[int]) -> None:
    if not len(sample_ids):
        raise InputError("No sample id is given, so the image size is unknown; ask for at least one image.")


def _size(image: NDArray[np.uint8]) -> str:
    return "x".join(str(extent) for extent in image.shape)
