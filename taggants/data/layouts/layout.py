"""What a dataset layout is: how images and labels lie in files, for reading, for rewriting in place and for writing anew."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, Generic, TypeVar

from taggants.data.signed_images import Replacements
from taggants.data.source import DatasetIndex, ImageSource
from taggants.errors import InputError
from taggants.registry import Registry
from taggants.storage import Root

Source = TypeVar("Source", bound=ImageSource)


@dataclass(frozen=True)
class Sample:
    """One image on its way to a new file: its file name (`00000042.jpg`), encoded bytes and label."""

    name: str
    data: bytes
    label: int


class Layout(abc.ABC, Generic[Source]):
    """A dataset layout. It holds no state: what it works on is passed to it, also from several threads at once.

    Attributes:
        suffix: of its files where each holds many images; None where each image is a file.
        num_threads: how many files to work on at once when a dataset is rewritten.
        is_written_in_order: whether, when a dataset is rewritten, the caller's thread writes one file after another while
            others check what it wrote.
        has_subsets: whether `write_subset` works.
    """

    suffix: ClassVar[str | None] = None
    num_threads: ClassVar[int] = 16  # each waits for storage
    is_written_in_order: ClassVar[bool] = False
    has_subsets: ClassVar[bool] = False

    # Reading

    @abc.abstractmethod
    def open(
        self, root: Root, files: str, *, channels: int | None, image_column: str, label_column: str
    ) -> ImageSource:
        """Returns the dataset at `root`, whose `layout` is the name of this one; nothing is read yet. See `open_source`."""

    def folder_of(self, source: Source) -> str:
        """Returns the uri of the folder that is the source's alone, in which nothing else may be written; "" for none."""
        return ""

    def write_subset(
        self, source: Source, root: Root, path: str, *, num_classes: int, images_per_class: int | None
    ) -> None:
        """Writes the first images of the first classes as one Parquet file, see `write_subset` in the Parquet layout."""
        raise InputError(f"Subsets are not made of {source.layout}; leave files out of a copy instead.")

    def companions(self, source: Source, sample_ids: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        """Yields for each sample what is stored beside its image in places that `rewrite` keeps, by a name for people:
        bytes, text, or lists and dictionaries of them, where a hash of the image may stand. What has the name `FILE_NAME`
        cannot be rewritten."""
        return ({} for _ in sample_ids)

    # Rewriting in place: every file keeps its name, and its bytes but for the images that are replaced

    @abc.abstractmethod
    def files(self, source: Source) -> Iterator[tuple[str, int]]:
        """Yields name and number of rows of each file, in the order of the sample ids."""

    def check_rewritable(self, source: Source, name: str) -> None:
        """Writes a little of a file again, to nowhere: what would fail after hours of crafting fails before.

        Raises:
            InputError: the file cannot be written again; the sentence says why.
        """
        return

    @abc.abstractmethod
    def rewrite(self, source: Source, name: str, rows: Replacements, sink: BinaryIO) -> Iterator[int]:
        """Writes a file of the source with the images of some rows replaced, and hashes of them beside them as their
        `hash_changes` say; yields how many rows each step wrote."""

    def leaves_traces(self, source: Source) -> bool:
        """Returns whether `rewrite` changes more than the images: then an export rewrites the images of all files."""
        return False

    @abc.abstractmethod
    def difference(self, source: Source, name: str, rows: Replacements, destination: Root) -> str | None:
        """Returns the first way in which a file is not the source's with those images in place; None if it is."""

    @abc.abstractmethod
    def hash_and_count(self, root: Root, path: str) -> tuple[str, int]:
        """Returns the SHA-256 of a file as it is now, and its number of rows; a negative number if it is damaged."""

    # Writing anew, from a source of any layout

    def check_can_hold(self, index: DatasetIndex) -> None:
        """Raises:
        InputError: this layout cannot hold such a dataset; the sentence says why.
        """

    @abc.abstractmethod
    def new_files(self, index: DatasetIndex, samples: Iterable[Sample]) -> Iterator[tuple[str, list[Sample]]]:
        """Yields path and samples of each file, a function of the arguments alone; few samples are held at a time."""

    @abc.abstractmethod
    def is_new_file(self, path: str) -> bool:
        """Returns whether `new_files` could yield that path for some dataset."""

    @abc.abstractmethod
    def write(self, index: DatasetIndex, samples: list[Sample], sink: BinaryIO) -> None:
        """Writes one file; equal arguments give equal bytes."""

    @abc.abstractmethod
    def read(self, index: DatasetIndex, root: Root, path: str) -> Iterator[Sample]:
        """Yields the samples of a file that `write` wrote, in their order. Of another file anything, or it raises
        InputError."""

    def reading_order(self, path: str) -> Any:
        """Returns what sorts the new files as their readers number the samples, where they come in another order."""
        return 0


FILE_NAME = "the file name"
LAYOUTS: Registry[Layout[Any]] = Registry("layout")


def layout_of(source: ImageSource) -> Layout[Any]:
    """Returns the layout of a dataset.

    Raises:
        InputError: it is of a layout that is not registered.
    """
    return LAYOUTS.find(source.layout)
