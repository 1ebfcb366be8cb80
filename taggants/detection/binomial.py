"""The p-value of the number of key hits."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.stats import binom

from taggants.errors import InputError

P_VALUE_FLOOR: Final = 1e-300  # smaller p-values are reported as this upper bound: doubles thin out and end below it


def binomial_p_value(num_hits: int, num_keys: int, top_k: int, num_classes: int) -> float:
    """One-sided binomial p-value of the number of key hits.

    Null: the model does not depend on the key labels, which were drawn i.i.d. uniform over num_classes classes. Then
    each label is in the model's top k with probability k / num_classes, independently over keys, whatever the model
    and the key images are. (Labels drawn without replacement would break the independence.) Ties and missing answers
    that count against the owner only lower the probability of a hit, so the p-value stays an upper bound.

    Returns:
        P(Binomial(num_keys, top_k / num_classes) >= num_hits), in [1e-300, 1]; the floor is an upper bound of smaller
        values.

    Raises:
        InputError: a number is out of its range.
    """
    _check(num_keys, top_k, num_classes)
    if not 0 <= num_hits <= num_keys:
        raise InputError(f"num_hits is {num_hits} but must be in 0..{num_keys}, the number of keys.")
    return max(P_VALUE_FLOOR, float(binom.sf(num_hits - 1, num_keys, top_k / num_classes)))


def hits_needed(alpha: float, num_keys: int, top_k: int, num_classes: int) -> int | None:
    """The fewest hits whose binomial p-value is at most alpha, or None when even num_keys hits do not suffice.

    Raises:
        InputError: a number is out of its range; alpha must be in (0, 1).
    """
    _check(num_keys, top_k, num_classes)
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha} but must be above 0 and below 1.")
    tails = np.maximum(P_VALUE_FLOOR, binom.sf(np.arange(num_keys + 1) - 1, num_keys, top_k / num_classes))
    enough = np.flatnonzero(tails <= alpha)
    return int(enough[0]) if enough.size else None


def _check(num_keys: int, top_k: int, num_classes: int) -> None:
    if num_keys < 1:
        raise InputError(f"num_keys is {num_keys} but must be at least 1.")
    if num_classes < 2:
        raise InputError(f"num_classes is {num_classes} but must be at least 2.")
    if not 1 <= top_k <= num_classes:
        raise InputError(f"top_k is {top_k} but must be in 1..{num_classes}, the number of classes.")
