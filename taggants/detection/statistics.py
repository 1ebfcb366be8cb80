"""The statistics that can be registered, by name: what each assumes, what it needs, and its p-value.

To add one, write a module that defines it, here or in a plugin, and register it; the configuration, the registration,
certificates, reports and help read the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from taggants.detection.evidence import Evidence
from taggants.detection.exact import P_VALUE_FLOOR
from taggants.detection.hits import HITS
from taggants.detection.rank_statistic import RANK
from taggants.detection.rank_sum import ExactSum
from taggants.detection.sequential import running_e_values
from taggants.errors import InputError
from taggants.registry import Registry

if TYPE_CHECKING:
    from taggants.detection.registration import Registration


class Statistic(Protocol):
    """A test of one null hypothesis.

    Attributes:
        null: the null hypothesis, as one sentence of a certificate without its full stop.
        needs: what it uses of the evidence: "ranks" alone, which scores, lists of best labels and single labels all give, or
            the "table" of values, which not every question has.
    """

    @property
    def null(self) -> str: ...

    @property
    def needs(self) -> Literal["ranks", "table"]: ...

    def p_value(self, evidence: Evidence, registration: Registration) -> float:
        """Returns the one-sided p-value, in [1e-300, 1], a function of these two alone.

        It must be valid, or an upper bound, whatever the answers are, since the labels were drawn i.i.d. uniform.

        Raises:
            InputError: it would take minutes to compute.
        """
        ...


@runtime_checkable
class SumOverKeys(Protocol):
    """A statistic whose p-value is `exact_p_value` of a table, so that its null distribution can be shown."""

    def values(self, evidence: Evidence, registration: Registration) -> NDArray[np.int64]:
        """Returns int64 [num_keys, num_classes], or [num_classes] where all keys share one row, in ascending order."""
        ...


@dataclass(frozen=True)
class TableSum(ExactSum):
    """A statistic: the sum over keys of the value of the label in its key's row; small when labels are favoured.

    Null: neither the suspect nor the references depend on the key labels, which were drawn i.i.d. uniform over the classes. Given
    all answers, the sum is then one of independent draws from the rows, whose distribution is exact (`exact_p_value`).
    """

    null: str = (
        "neither the suspect nor the references depend on the key labels, so each label is a uniform draw from the classes, "
        "independently over keys"
    )
    needs: Literal["ranks", "table"] = "table"

    def values(self, evidence: Evidence, registration: Registration) -> NDArray[np.int64]:
        """As of `SumOverKeys`."""
        return np.array(evidence.table, dtype=np.int64)


@dataclass(frozen=True)
class Sequential:
    """A statistic: the largest e-value after any key, which holds whenever one stops asking (`taggants.detection.sequential`).

    Null: as of `TableSum`.
    """

    null: str = TableSum.null
    needs: Literal["ranks", "table"] = "table"

    def p_value(self, evidence: Evidence, registration: Registration) -> float:
        """The inverse of the largest e-value, in [1e-300, 1]."""
        largest = float(running_e_values(np.array(evidence.table), evidence.positions).max())
        return max(P_VALUE_FLOOR, math.exp(-max(0.0, largest)))


STATISTICS: Final[Registry[Statistic]] = Registry("statistic")
STATISTICS.register("rank", RANK)
STATISTICS.register("hits", HITS)
STATISTICS.register("question", TableSum())
STATISTICS.register("sequential", Sequential())
ANYTIME: Final = frozenset({"sequential"})  # hold although asking was stopped by what was answered


def p_values(evidence: Evidence, registration: Registration, *, stopped: bool = False) -> dict[str, float]:
    """Returns the p-value of every statistic whose needs the evidence meets, by name, in the order of the table.

    stopped: not all keys were asked, since the answers to the first were enough or the budget was spent: only `ANYTIME` hold.

    Raises:
        InputError: the evidence does not meet the needs of the registered statistic, which decides, or asking was stopped and
            that statistic does not hold then.
    """
    if STATISTICS.find(registration.statistic).needs == "table" and evidence.table is None:
        raise InputError(
            f"statistic {registration.statistic!r} needs a table of values but the answers give ranks only."
        )
    if stopped and registration.statistic not in ANYTIME:
        raise InputError(
            f"statistic {registration.statistic!r} needs the answers to all keys; ask them, or register 'sequential'."
        )
    return {
        name: statistic.p_value(evidence, registration)
        for name, statistic in STATISTICS.items()
        if (statistic.needs == "ranks" or evidence.table is not None) and (not stopped or name in ANYTIME)
    }
