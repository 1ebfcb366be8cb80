"""The outside reference of the statistic "hits": SciPy's binomial tail."""

from __future__ import annotations

from scipy.stats import binom

FLOOR = 1e-300


def binomial_p_value(num_hits: int, num_keys: int, top_k: int, num_classes: int) -> float:
    """P(Binomial(num_keys, top_k / num_classes) >= num_hits), in [1e-300, 1]."""
    return max(FLOOR, float(binom.sf(num_hits - 1, num_keys, top_k / num_classes)))
