"""Which of many candidates become the keys: those that clean networks tell apart best. No label has a part in it.

Candidates are the keys 0, 1, ... of the secret. The first is chosen; then, again and again, the one whose largest cosine with
those chosen before, over the worst network, is smallest (farthest point; Gonzalez, "Clustering to minimize the maximum
intercluster distance", 1985). Cosines count in whole thousandths, and of equals the first, so that platforms agree but for
cosines at the edge of a thousandth. As the choice sees images alone, the labels of the chosen are as independent and uniform as
any; an owner who chose by labels would be found out once the secret and the networks are disclosed, for the rule can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from taggants.errors import InputError, check_integer, check_sha256

MAX_POOL: Final = 100_000
_FIELDS: Final = ("pool", "networks", "indices")


@dataclass(frozen=True)
class Choice:
    """pool: number of candidates. networks: SHA-256 of the weight files that they were told apart by. indices: of the chosen.

    Raises:
        InputError: a value is out of its range, or an index stands twice.
    """

    pool: int
    networks: tuple[str, ...]
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        check_integer("pool", self.pool, 1, MAX_POOL)
        for sha256 in self.networks:
            check_sha256("a network's SHA-256", sha256)
        for index in self.indices:
            check_integer("an index of the choice", index, 0, self.pool - 1)
        if len(set(self.indices)) != len(self.indices):
            raise InputError("the choice names a candidate twice; name each once.")

    def to_json(self) -> dict[str, Any]:
        return {"pool": self.pool, "networks": list(self.networks), "indices": list(self.indices)}

    @classmethod
    def from_json(cls, value: object) -> Choice:
        """The choice in a JSON object with exactly the fields of this class; InputError otherwise."""
        if not isinstance(value, dict) or set(value) != set(_FIELDS):
            raise InputError(f"The choice of keys must be a JSON object with the fields {', '.join(_FIELDS)}.")
        if not isinstance(value["networks"], list) or not isinstance(value["indices"], list):
            raise InputError("The choice's networks and indices must be JSON lists.")
        return cls(value["pool"], tuple(value["networks"]), tuple(value["indices"]))


def farthest_points(cosines: NDArray[np.floating], num_chosen: int) -> tuple[int, ...]:
    """Returns the chosen candidates in the order of their choice, so that the first n do not depend on num_chosen.

    Args:
        cosines: [networks, pool, pool], in [-1, 1]. num_chosen: 1 to pool.
    """
    worst = np.rint(1000 * np.max(cosines, axis=0)).astype(np.int64)
    chosen = [0]
    nearest = worst[0].copy()
    while len(chosen) < num_chosen:
        nearest[chosen] = 2000
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, worst[chosen[-1]])
    return tuple(chosen)
