"""The statistic "rank": all key ranks at once, as an integer-valued sum of log ranks, calibrated exactly."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taggants.detection.exact import exact_p_value
from taggants.detection.rank_sum import RankSum
from taggants.errors import InputError

SCORE_PER_NAT: Final = 64
# Up to here no rank's score depends on the last bits of the logarithm, so platforms agree (a test checks it).
MAX_NUM_CLASSES: Final = 1_000_000


def rank_scores(num_classes: int) -> NDArray[np.int64]:
    """floor(64 ln(r) + 1/2) for the ranks r = 1..num_classes: int64 [num_classes], from 0 upwards, never falling."""
    if not 2 <= num_classes <= MAX_NUM_CLASSES:
        raise InputError(f"num_classes is {num_classes} but must be in 2..{MAX_NUM_CLASSES}.")
    ranks = np.arange(1, num_classes + 1, dtype=np.float64)
    return np.floor(SCORE_PER_NAT * np.log(ranks) + 0.5).astype(np.int64)


def rank_p_value(ranks: ArrayLike, num_classes: int) -> float:
    """One-sided p-value of the sum of floor(64 ln(rank) + 1/2) over the keys, with the null of `RankSum`.

    The sum of log ranks is Fisher's combination of the per-key p-values rank / num_classes, here on integers, so that its
    null distribution is a short list of probabilities and not a limit.

    Args:
        ranks: int [num_keys] in 1..num_classes, as of `key_ranks`.
        num_classes: number of classes C, 2..1,000,000.

    Returns:
        P(sum_null <= sum), in [1e-300, 1]; the floor is an upper bound of smaller values.

    Raises:
        InputError: a shape, type, rank or num_classes is wrong.
    """
    scores, observed = rank_scores(num_classes), np.asarray(ranks)
    if observed.ndim != 1 or observed.size < 1 or observed.dtype.kind not in "iu":
        raise InputError(
            f"ranks has shape {observed.shape} and type {observed.dtype} but must be integers [num_keys] of at least 1 key."
        )
    if observed.min() < 1 or observed.max() > num_classes:
        raise InputError(f"ranks holds a value outside 1..{num_classes}, the number of classes.")
    return exact_p_value(scores, observed.astype(np.int64) - 1)


def _scores(num_classes: int, top_k: int) -> NDArray[np.int64]:
    return rank_scores(num_classes)


RANK: Final = RankSum(_scores)
