"""A grid of cells, one uniform byte for each channel of each cell: what the families "block" and "smooth" are made from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from taggants.keys.families.family import KeyFamily, Parameter, TestVector


def noise_family(
    description: str,
    enlarged: Callable[[NDArray[np.uint8], int, int], NDArray[np.uint8]],
    test_vectors: tuple[TestVector, ...],
) -> KeyFamily:
    """Returns the family of grids of ceil(image_size / cell_size)^2 cells, channel-major, then row-major.

    enlarged: (cells uint8 [channels, grid, grid], cell_size, image_size) -> uint8 [channels, image_size, image_size].
    """

    def num_bytes(channels: int, image_size: int, cell_size: int) -> int:
        return int(channels * (-(-image_size // cell_size)) ** 2)

    def image(stream: NDArray[np.uint8], channels: int, image_size: int, cell_size: int) -> NDArray[np.uint8]:
        grid = -(-image_size // cell_size)
        return enlarged(stream.reshape(channels, grid, grid), cell_size, image_size)

    parameters = {"cell_size": Parameter(1, 1, None, "pixels along one side of a noise cell")}
    return KeyFamily(description, parameters, num_bytes, image, test_vectors)
