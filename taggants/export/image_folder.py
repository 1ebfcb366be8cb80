"""Image folders with some images replaced: every image is a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from taggants.data.image_folder import ImageFolder
from taggants.export.originals import Signed, is_replaced, replaced
from taggants.storage import Root


class FolderLayout:
    """Rewrites and compares the files of an image folder."""

    num_threads = 16  # each waits for storage
    is_written_in_order = False

    def __init__(self, source: ImageFolder) -> None:
        self._source = source

    def files(self) -> Iterator[tuple[str, int]]:
        """Yields: path of each image and 1 (row), in the order of the sample ids."""
        for sample_id in range(self._source.num_rows):
            yield self._source.path_of(sample_id), 1

    def write(self, name: str, rows: Signed, sink: BinaryIO) -> Iterator[int]:
        """Writes the signed image; yields 1."""
        sink.write(replaced(self._source.root.read_bytes(name), rows[0]))
        yield 1

    def difference(self, name: str, rows: Signed, destination: Root) -> str | None:
        """Returns: in words that the file does not hold its signed image; None if it does."""
        is_signed = is_replaced(self._source.root.read_bytes(name), destination.read_bytes(name), rows[0])
        return None if is_signed else "it does not hold its signed image"
