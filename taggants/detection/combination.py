"""One decision for several suspects."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taggants.errors import InputError


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down adjusted p-values (Holm, "A simple sequentially rejective multiple test procedure", 1979).

    Null of each: as of the p-value given. Declaring all suspects with an adjusted p-value <= alpha detected, the
    probability of even one false detection is at most alpha, under any dependence (the same keys test all suspects, so
    there is some).

    Args:
        p_values: [num_suspects] in [0, 1].

    Returns:
        float64 [num_suspects], in the order given, in [0, 1].

    Raises:
        InputError: no p-value, or one outside [0, 1].
    """
    given = np.asarray(p_values, dtype=np.float64)
    if given.ndim != 1 or given.size < 1 or not ((given >= 0) & (given <= 1)).all():
        raise InputError(f"p_values has shape {given.shape} but must be a list of at least 1 number, each in [0, 1].")
    order = np.argsort(given, kind="stable")
    steps = given[order] * np.arange(given.size, 0, -1)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted
