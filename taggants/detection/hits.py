"""The statistic "hits": how many key labels are within the suspect's top k. Its p-value is the binomial tail."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from taggants.detection.exact import exact_p_value
from taggants.detection.rank_sum import RankSum
from taggants.errors import check_integer


def misses(num_classes: int, top_k: int) -> NDArray[np.int64]:
    """0 for the ranks up to top_k, 1 for the others: int64 [num_classes]."""
    return (np.arange(num_classes) >= top_k).astype(np.int64)


def hits_p_value(num_hits: int, num_keys: int, top_k: int, num_classes: int) -> float:
    """P(at least num_hits labels of num_keys are within the top k), in [1e-300, 1], with the null of `RankSum`.

    Raises:
        InputError: a number is out of its range.
    """
    check_integer("num_keys", num_keys, 1, 100_000)
    check_integer("num_hits", num_hits, 0, num_keys)
    check_integer("num_classes", num_classes, 2, 1_000_000)
    check_integer("top_k", top_k, 1, num_classes)
    positions = np.repeat([0, num_classes - 1], [num_hits, num_keys - num_hits])
    return exact_p_value(misses(num_classes, top_k), positions)


def hits_needed(alpha: float, num_keys: int, top_k: int, num_classes: int) -> int | None:
    """The fewest hits whose p-value is at most alpha, or None when even num_keys hits do not suffice.

    Raises:
        InputError: a number is out of its range.
    """
    counts = range(num_keys + 1)
    return next((hits for hits in counts if hits_p_value(hits, num_keys, top_k, num_classes) <= alpha), None)


HITS: Final = RankSum(misses)
