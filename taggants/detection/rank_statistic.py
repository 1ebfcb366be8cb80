"""The p-value of all key ranks at once: an integer-valued sum of log ranks, calibrated exactly."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taggants.detection.binomial import P_VALUE_FLOOR
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
    """One-sided p-value of the sum S of floor(64 ln(rank) + 1/2) over the keys; small when labels rank high.

    Null: the model does not depend on the key labels, which were drawn i.i.d. uniform over num_classes classes. Then
    the ranks are i.i.d. uniform on 1..num_classes, whatever the model and the key images are. Where ties, NaN or short
    answers are counted against the owner, ranks are stochastically larger than that, and the p-value stays an upper
    bound. The sum of log ranks is Fisher's combination of the per-key p-values rank / num_classes, here on integers,
    so that its null distribution is a short list of probabilities and not a limit.

    The distribution of S is built key by key, cut off at the observed S. All terms are non-negative and none is
    subtracted, so the relative error is at most about (K (D + 2) + S) 2^-53, with D <= 64 ln(C) + 2 the length of one
    key's list (1e-11 for K = 100, C = 1000); what underflows is below 1e-310 in all. Time grows as K S D, that is as
    K^2 for a given mean rank.

    Args:
        ranks: int [num_keys] in 1..num_classes, as of `key_ranks`.
        num_classes: number of classes C, 2..1,000,000.

    Returns:
        P(S_null <= S), in [1e-300, 1]; the floor is an upper bound of smaller values.

    Raises:
        InputError: a shape, type, rank or num_classes is wrong.
    """
    scores = rank_scores(num_classes)
    observed_ranks = np.asarray(ranks)
    if observed_ranks.ndim != 1 or observed_ranks.size < 1 or observed_ranks.dtype.kind not in "iu":
        raise InputError(
            f"ranks has shape {observed_ranks.shape} and type {observed_ranks.dtype} but must be integers [num_keys] "
            "of at least 1 key."
        )
    if observed_ranks.min() < 1 or observed_ranks.max() > num_classes:
        raise InputError(f"ranks holds a value outside 1..{num_classes}, the number of classes.")
    observed = int(scores[observed_ranks - 1].sum())
    if observed >= observed_ranks.size * int(scores[-1]):
        return 1.0
    one_key = np.bincount(scores) / num_classes  # P(score of one key = s), s = 0..64 ln(C)
    total = np.ones(1)
    for _ in range(observed_ranks.size):
        total = np.convolve(total, one_key)[: observed + 1]
    return min(1.0, max(P_VALUE_FLOOR, float(total.sum())))
