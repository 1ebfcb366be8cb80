"""A suspect of whose answers only the best labels are used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taggants.detection.question import REFUSED
from taggants.suspects.answers import Suspect


class BestLabels:
    """Another suspect, cut to its best `top_m` labels, in order; scores that hold NaN become a refusal.

    Of equal scores the class with the lower number comes first: the order depends on no key.
    """

    def __init__(self, suspect: Suspect, top_m: int) -> None:
        self._suspect = suspect
        self._top_m = top_m
        self.name = suspect.name
        self.sha256 = suspect.sha256
        self.num_classes = suspect.num_classes
        self.class_names = suspect.class_names

    def answers(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Returns integer labels [N, m]."""
        given = np.asarray(self._suspect.answers(images))
        if given.dtype.kind != "f" or given.ndim != 2:
            return given[:, : self._top_m] if given.ndim == 2 else given
        best = np.argsort(-given, axis=1, kind="stable")[:, : self._top_m]
        best[np.isnan(given).any(axis=1)] = REFUSED
        return best
