"""New files that hold many samples each, numbered from 0."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from taggants.data.layouts.layout import Sample

LARGEST_FILE_BYTES = 256 * 2**20


def numbered_files(samples: Iterable[Sample], suffix: str) -> Iterator[tuple[str, list[Sample]]]:
    """Yields `train-00000.SUFFIX` and its samples, and so on: in their order, up to `LARGEST_FILE_BYTES` of images each."""
    for number, group in enumerate(_groups(samples)):
        yield f"train-{number:05d}.{suffix}", group


def is_numbered(path: str, suffix: str) -> bool:
    """Returns whether `numbered_files` could yield that path."""
    return re.fullmatch(rf"train-\d{{5,}}\.{suffix}", path) is not None


def _groups(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
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
