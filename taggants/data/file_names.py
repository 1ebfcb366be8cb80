"""What the names of files say: which hold images, which are of one split, and whether all of a set are there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from taggants.errors import InputError
from taggants.limits import MOST_CLASSES
from taggants.storage import Root

# By name, because indexing decodes nothing. The list is torchvision's: one that grew would renumber old datasets.
IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"})


def suffix_of(name: str) -> str:
    """Returns: what follows the last dot of a file name, in lower case; "" if there is no dot."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def files_or_prefix(root: Root, files: tuple[str, ...] | str, suffix: str) -> tuple[str, ...]:
    """Args:
        files: names of files, or one string: all whose path starts with it and ends with `suffix` ("" takes all).

    Returns: the names, sorted.

    Raises:
        InputError: there are none, or one is named twice.
    """
    if isinstance(files, str):
        names = [name for name in root.list() if name.startswith(files) and name.endswith(suffix)]
        if not names:
            raise InputError(f"There is no {suffix} file that starts with {files!r} in {root.uri}; check the path.")
        # `train` also begins the name of `trainval.parquet`, which holds other images.
        longer = [name for name in names if files[-1:].isalpha() and name[len(files) : len(files) + 1].isalpha()]
        if 0 < len(longer) < len(names):
            other = next(name for name in names if name not in longer)
            raise InputError(
                f"{files!r} begins the names of {other} and {longer[0]} in {root.uri}, which may be different splits; give a "
                "longer prefix, or the name of one file."
            )
        _refuse_incomplete(root, names)
        return tuple(names)
    if not files:
        raise InputError(f"No files are given for the dataset in {root.uri}; name at least one {suffix} file.")
    if len(set(files)) < len(files):
        raise InputError(f"The files {', '.join(files)} name one of them twice; give each file once.")
    return tuple(sorted(files))


def _refuse_incomplete(root: Root, names: Sequence[str]) -> None:
    """Files that say how many they are have to be all there, and of one writing."""
    counts: dict[str, set[int]] = {}
    numbers: dict[str, set[int]] = {}
    for name in names:
        if found := re.fullmatch(r"(.*)-(\d{1,9})-of-(\d{1,9})(\.\w+)", name):
            counts.setdefault(found[1], set()).add(int(found[3]))
            numbers.setdefault(found[1], set()).add(int(found[2]))
    for prefix, count in counts.items():
        if len(count) > 1:
            listed = " and ".join(map(str, sorted(count)))
            raise InputError(
                f"{root.uri_of(prefix)}-... are of sets of {listed} files, so of different writings; remove the stale set."
            )
        missing = len(set(range(max(count))) - numbers[prefix]) if max(count) <= MOST_CLASSES else max(count)
        if missing and numbers[prefix] != set(range(1, max(count) + 1)):
            raise InputError(
                f"{root.uri_of(prefix)}-... are {len(numbers[prefix])} files of {max(count)}; fetch those that are missing, or "
                "rename the files if they are meant to be all."
            )
