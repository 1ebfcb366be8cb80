"""Statistics that are a sum over keys of a score of the label's rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from taggants.detection.evidence import Evidence
from taggants.detection.exact import exact_p_value

if TYPE_CHECKING:
    from taggants.detection.registration import Registration


class ExactSum:
    """What sums over keys share: their p-value is that of independent draws, one from each key's values."""

    def values(self, evidence: Evidence, registration: Registration) -> NDArray[np.int64]:
        """As of `SumOverKeys`."""
        raise NotImplementedError

    def p_value(self, evidence: Evidence, registration: Registration) -> float:
        """P(sum_null <= sum), in [1e-300, 1]."""
        return exact_p_value(self.values(evidence, registration), evidence.positions)


@dataclass(frozen=True)
class RankSum(ExactSum):
    """A statistic: the sum over keys of a score of the label's rank; small when labels rank high.

    Null: the suspect does not depend on the key labels, which were drawn i.i.d. uniform over the classes. Then the ranks are
    i.i.d. uniform on 1..C, whatever the suspect and the key images are. Where ties, NaN or short answers are counted against
    the owner, ranks are stochastically larger than that, and the p-value stays an upper bound.

    Attributes:
        scores: (num_classes, top_k) -> int64 [num_classes], the score of each rank, never falling.
        null: as of `Statistic`.
    """

    scores: Callable[[int, int], NDArray[np.int64]]
    null: str = (
        "the suspect does not depend on the key labels, so the rank of each label in its answers is uniform, "
        "independently over keys"
    )
    needs: Literal["ranks", "table"] = "ranks"

    def values(self, evidence: Evidence, registration: Registration) -> NDArray[np.int64]:
        """As of `SumOverKeys`: the score of each rank, the same for all keys."""
        return self.scores(evidence.num_classes, registration.top_k)
