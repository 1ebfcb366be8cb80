"""The statistic "hits": how many key labels are within the suspect's top k. Its p-value is the binomial tail."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from taggants.detection.rank_sum import RankSum


def misses(num_classes: int, top_k: int) -> NDArray[np.int64]:
    """0 for the ranks up to top_k, 1 for the others: int64 [num_classes]."""
    return (np.arange(num_classes) >= top_k).astype(np.int64)


HITS: Final = RankSum(misses)
