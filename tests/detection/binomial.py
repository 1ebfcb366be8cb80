"""The outside reference of the statistic "hits": SciPy's binomial tail."""

from __future__ import annotations

import numpy as np
from scipy.stats import binom

FLOOR = 1e-300


def binomial_p_value(num_hits: int, num_keys: int, top_k: int, num_classes: int) -> float:
    """P(Binomial(num_keys, top_k / num_classes) >= num_hits), in [1e-300, 1]."""
    return max(FLOOR, float(binom.sf(num_hits - 1, num_keys, top_k / num_classes)))


def hits_needed(alpha: float, num_keys: int, top_k: int, num_classes: int) -> int | None:
    """The fewest hits whose p-value is at most alpha, or None when num_keys hits do not suffice."""
    tails = np.maximum(FLOOR, binom.sf(np.arange(num_keys + 1) - 1, num_keys, top_k / num_classes))
    enough = np.flatnonzero(tails <= alpha)
    return int(enough[0]) if enough.size else None
