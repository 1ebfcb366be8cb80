"""What a suspect's answers say of each key: all that p-values are computed from, without a label."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taggants.errors import InputError, check_integer

MAX_TABLE_SIZE: Final = 2**24
_MAX_VALUE: Final = 2**40


@dataclass(frozen=True)
class Evidence:
    """The rank of each key label among the classes and, where more is known than the order, the values behind the ranks.

    It tells how the labels fare but names none: the values of a key are sorted, and its label's value is the rank-th.

    Attributes:
        num_classes: number of classes C.
        ranks: for each key, in 1..C, 1 is the best: the number of classes that the suspect favours at least as much as
            the label, so that ties and missing answers count against the owner.
        table: for each key the values of its C classes in ascending order, integers of magnitude up to 2^40, small where the
            suspect favours a class; None where the ranks are all that counts, as if every row were 1..C. Averages over many
            queries and comparisons with references are such values.

    Raises:
        InputError: a rank, value or shape is out of its range.
    """

    num_classes: int
    ranks: tuple[int, ...]
    table: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        for rank in self.ranks:
            check_integer("a rank", rank, 1, self.num_classes)
        if self.table is None:
            return
        if len(self.table) != len(self.ranks) or {len(row) for row in self.table} - {self.num_classes}:
            raise InputError(f"table must have {self.num_classes} values for each of the {len(self.ranks)} keys.")
        if len(self.ranks) * self.num_classes > MAX_TABLE_SIZE:
            raise InputError(f"table has more than {MAX_TABLE_SIZE} values; use fewer keys.")
        for row in self.table:
            for value in row:
                check_integer("a value of table", value, -_MAX_VALUE, _MAX_VALUE)
            if any(a > b for a, b in itertools.pairwise(row)):
                raise InputError("a row of table falls but must be sorted: the order of classes would tell the labels.")

    @classmethod
    def of_table(cls, table: ArrayLike, labels: ArrayLike) -> Evidence:
        """Returns the evidence in a table int [num_keys, num_classes] of values, small where the suspect favours a class.

        labels: int [num_keys] in 0..num_classes-1, of the keys.
        """
        values, own = np.asarray(table), np.asarray(labels)[:, None]
        ranks = np.count_nonzero(values <= np.take_along_axis(values, own, axis=1), axis=1)
        rows = tuple(map(tuple, np.sort(values, axis=1).tolist()))
        return cls(values.shape[1], tuple(ranks.tolist()), rows)

    @property
    def positions(self) -> NDArray[np.int64]:
        """int64 [num_keys]: the column of each label's value in a row of C ascending values."""
        return np.array(self.ranks, dtype=np.int64) - 1

    def to_json(self) -> dict[str, Any]:
        table = None if self.table is None else [list(row) for row in self.table]
        return {"ranks": list(self.ranks), "table": table}

    @classmethod
    def from_json(cls, value: object, num_classes: int) -> Evidence:
        """Returns the evidence in a JSON object as `to_json` writes it; InputError otherwise."""
        if not isinstance(value, dict) or set(value) != {"ranks", "table"} or not isinstance(value["ranks"], list):
            raise InputError("The evidence must be a JSON object with only the lists ranks and table (or null).")
        table = value["table"]
        if table is not None:
            if not isinstance(table, list) or not all(isinstance(row, list) for row in table):
                raise InputError("The evidence's table must be a JSON list of lists, or null.")
            table = tuple(map(tuple, table))
        return cls(num_classes, tuple(value["ranks"]), table)
