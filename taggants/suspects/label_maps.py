"""Which class of a suspect stands for which of the owner's: by names, by a file, or by its answers to plain covers.

A map is found before any key is asked, from nothing that depends on the key labels. So given the map, the labels of the keys
whose class it knows are uniform on the classes that it knows, and the test on them is exact.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taggants.detection.outcome import LabelMap
from taggants.detection.question import REFUSED
from taggants.errors import InputError
from taggants.identity import strict_json
from taggants.storage import Root

_MOST_PAIRS: Final = 2**26  # classes of both sides, when a map is fitted: some seconds
_MOST_BYTES: Final = 2**26


def folded_name(name: str) -> str:
    """Returns what of a class name counts: NFC, without regard to case and to spaces around it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name.strip()).casefold())


def label_map_by_names(owner: Sequence[str] | None, suspect: Sequence[str] | None) -> LabelMap:
    """Returns the map of equal names.

    Raises:
        InputError: names are not known, stand for two classes of one side, or fewer than 2 are equal.
    """
    for names, side in ((owner, "the signed dataset"), (suspect, "the suspect")):
        if names is None:
            raise InputError(
                f"label map 'names': the class names of {side} are not known; give class_names in the suspect's description, or "
                "a file with the classes"
            )
    assert owner is not None, "just checked"
    assert suspect is not None, "just checked"
    own, theirs = _Side(owner, len(owner), "the signed dataset"), _Side(suspect, len(suspect), "the suspect")
    assert all(own.find(name) is not None for name in owner), "raises where a name stands twice"
    return LabelMap("names", tuple(theirs.find(name) for name in owner))


def label_map_from_file(
    uri: str,
    owner: Sequence[str] | None,
    num_classes: int,
    suspect: Sequence[str] | None,
    num_suspect_classes: int,
) -> LabelMap:
    """Returns the map in a file: a JSON object, or a CSV with the columns owner and suspect; classes by name or number.

    The owner's classes that the file leaves out are unknown to the suspect.

    Raises:
        InputError: the file is none, or names a class twice or one that does not exist.
    """
    root, file = Root.of_file(uri)
    if root.size_bytes(file) > _MOST_BYTES:
        raise InputError(f"label map {uri} is longer than {_MOST_BYTES} bytes; give one line for each class")
    data = root.read_bytes(file)
    if uri.endswith(".json"):
        tree = strict_json(data, f"The label map {uri}")
        if not isinstance(tree, dict):
            raise InputError(f"label map {uri} must be a JSON object of the owner's class and the suspect's")
        pairs: list[tuple[str, Any]] = list(tree.items())
    else:
        pairs = _csv_pairs(data, uri)
    own, theirs = _Side(owner, num_classes, "the dataset"), _Side(suspect, num_suspect_classes, "the suspect")
    classes: dict[int, int | None] = {}
    try:
        for name, found in pairs:
            number = own.class_of(name)
            if number in classes:
                raise InputError(f"the owner's class {name!r} stands there twice; name each once")
            classes[number] = None if found is None or found == "" else theirs.class_of(found)
        return LabelMap("file", tuple(classes.get(number) for number in range(num_classes)))
    except InputError as error:
        raise InputError(f"label map {uri}: {error}") from error


def fitted_label_map(best: ArrayLike, labels: ArrayLike, num_classes: int) -> LabelMap:
    """Returns the one-to-one map under which most plain covers are answered with their class.

    A class of the owner whose covers are never answered with the class that it would get is unknown.

    Args:
        best: int [N], the suspect's best class for each cover, `REFUSED` where there is none.
        labels: int [N], the owner's class of each cover.

    Raises:
        InputError: there are too many classes, or fewer than 2 classes agree.
    """
    from scipy.optimize import linear_sum_assignment

    answered, own = np.asarray(best), np.asarray(labels)
    # Up to the last class that was answered: of equal maps, whoever knows only the answers finds the same one.
    num_answered = int(answered.max(initial=0)) + 1
    if num_classes * num_answered > _MOST_PAIRS:
        raise InputError(
            f"a label map between {num_classes} and {num_answered} classes is too large to fit; give names or a file"
        )
    agreement = np.zeros((num_classes, num_answered), dtype=np.int64)
    usable = answered != REFUSED
    np.add.at(agreement, (own[usable], answered[usable]), 1)
    rows, columns = linear_sum_assignment(agreement, maximize=True)
    classes: list[int | None] = [None] * num_classes
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if agreement[row, column] > 0:
            classes[row] = column
    try:
        return LabelMap("fitted", tuple(classes))
    except InputError:
        raise InputError(
            f"{len(own)} plain covers do not tell which of the suspect's classes are the owner's; give names or a file, or "
            "register more covers"
        ) from None


def held_out_half(labels: ArrayLike) -> NDArray[np.bool_]:
    """Returns which covers a fitted map is checked on, and not fitted on: every second of each class, bool [N].

    labels: int [N], the owner's class of each cover.
    """
    turn: dict[int, int] = {}
    held_out = []
    for label in np.asarray(labels).tolist():
        turn[label] = turn.get(label, -1) + 1
        held_out.append(turn[label] % 2 == 1)
    return np.array(held_out, dtype=np.bool_)


def _csv_pairs(data: bytes, uri: str) -> list[tuple[str, Any]]:
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"label map {uri} is not CSV in UTF-8: {error}") from None
    rows = [row for row in rows if row]
    if not rows or [name.strip() for name in rows[0]] != ["owner", "suspect"] or any(len(row) != 2 for row in rows):
        raise InputError(f"label map {uri} must be a CSV with the two columns owner and suspect, or end with .json")
    return [(own, found) for own, found in rows[1:]]


class _Side:
    """The classes of one side by name or number."""

    def __init__(self, names: Sequence[str] | None, num_classes: int, what: str) -> None:
        folded = [folded_name(name) for name in names or ()]
        self._numbers = {name: number for number, name in enumerate(folded)}
        self._twice = {name for name, times in Counter(folded).items() if times > 1}
        self._num_classes = num_classes
        self._what = what

    def find(self, name: str) -> int | None:
        """The number of a name; None if there is no such class."""
        if folded_name(name) in self._twice:
            raise InputError(
                f"the class name {name!r} stands for two classes of {self._what}; give a file with the numbers of the classes"
            )
        return self._numbers.get(folded_name(name))

    def class_of(self, given: Any) -> int:
        """The number of a name or number."""
        if isinstance(given, str):
            number = self.find(given)
            if number is not None:
                return number
            if re.fullmatch("[0-9]{1,9}", given.strip()):
                given = int(given)
        if type(given) is not int or not 0 <= given < self._num_classes:
            raise InputError(
                f"{self._what} has no class {given!r}; give one of its names, or 0 to {self._num_classes - 1}"
            )
        return given
