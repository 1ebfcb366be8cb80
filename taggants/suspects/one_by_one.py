"""Suspects that are asked image by image, since each answer takes a request that costs something."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from taggants.detection.question import REFUSED
from taggants.errors import InputError
from taggants.suspects.answers import Suspect

Row: TypeAlias = list[int] | list[float] | None
"""One answer: labels, best first; or scores, all of them floats; or None, refused."""


class BudgetSpent(InputError):
    """No further request may be sent."""


@runtime_checkable
class OneByOne(Suspect, Protocol):
    """A suspect whose answers are kept as they come, so that none is asked for twice.

    Attributes:
        max_requests: the most requests in all, over all processes that ask it the same.
    """

    max_requests: int

    def one_by_one(
        self, images: NDArray[np.uint8], before_request: Callable[[], None]
    ) -> Generator[tuple[int, Row], None, None]:
        """Yields the number of an image and its answer, as soon as it is there.

        before_request: called before every request is sent, one call at a time; if it raises, nothing more is sent.
        """
        ...


def table_of_rows(rows: Sequence[Row]) -> NDArray[Any]:
    """Returns answers in the forms of `Suspect.answers`: shorter lists of labels and refusals filled up with -1, or scores, a
    refusal being NaN.

    Raises:
        InputError: some rows are labels and others scores, or rows of scores differ in length.
    """
    given = [row for row in rows if row]
    if any(isinstance(row[0], float) for row in given):
        if len({len(row) for row in given}) > 1 or not all(isinstance(row[0], float) for row in given):
            raise InputError("it answers in several forms; return one shape and type for all images")
        scores = np.full((len(rows), len(given[0])), np.nan)
        for index, row in enumerate(rows):
            if row:
                scores[index] = row
        return scores
    labels = np.full((len(rows), max(map(len, given), default=1)), REFUSED, dtype=np.int64)
    for index, row in enumerate(rows):
        labels[index, : len(row or ())] = row or ()
    return labels


def rows_of_table(table: NDArray[Any]) -> list[Row]:
    """Returns answers in the forms of `Suspect.answers` as rows of plain numbers, from which `table_of_rows` makes them again."""
    if table.dtype.kind == "f":
        scores: list[Row] = table.astype(np.float64).tolist()
        return scores
    labels = table[:, None] if table.ndim == 1 else table
    lengths = np.where(labels != REFUSED, np.arange(1, labels.shape[1] + 1), 0).max(axis=1, initial=0)
    return [row[:length] or None for row, length in zip(labels.tolist(), lengths.tolist(), strict=True)]
