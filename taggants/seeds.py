"""Seeds of generators that must not share draws."""

from __future__ import annotations

import numpy as np


def hash_seed(*values: int) -> int:
    """Returns a 32-bit seed that is a function of the values; distinct lists give independent generators."""
    return int(np.random.SeedSequence([value & 0xFFFFFFFF for value in values]).generate_state(1)[0])
