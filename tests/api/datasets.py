"""The digits as the objects that users hold, and settings under which signing them takes seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_TRAIN = 300
NAMES = [f"digit <{i}>" for i in range(10)]
TINY: dict[str, Any] = {
    "keys.num_keys": 4,
    "signing.images_per_key": 3,
    "surrogate.num_epochs": 1,
    "crafting.num_steps": 3,
}


class Digits:
    """A map-style dataset of (uint8 array [8, 8], label)."""

    classes = NAMES

    def __init__(self, start: int, end: int) -> None:
        from sklearn.datasets import load_digits

        found = load_digits()
        self.images: NDArray[np.uint8] = np.rint(found.images[start:end] * 255 / 16).astype(np.uint8)
        self.labels: list[int] = found.target[start:end].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        return self.images[position], self.labels[position]


def digits() -> tuple[Digits, Digits]:
    """Returns a training and a test split."""
    return Digits(0, NUM_TRAIN), Digits(NUM_TRAIN, NUM_TRAIN + 60)
