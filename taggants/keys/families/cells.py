"""A grid of cells, one uniform byte for each channel of each cell: what the families "block" and "smooth" are made from."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from taggants.keys.families.family import Parameter

CELL_SIZE: Final = Parameter(1, 1, None, "pixels along one side of a noise cell")


def num_cells(channels: int, image_size: int, cell_size: int) -> int:
    """channels * ceil(image_size / cell_size)^2."""
    return channels * (-(-image_size // cell_size)) ** 2


def cells_of(stream: NDArray[np.uint8], channels: int, image_size: int, cell_size: int) -> NDArray[np.uint8]:
    """The stream as uint8 [channels, grid, grid], channel-major, then row-major."""
    grid = -(-image_size // cell_size)
    return stream.reshape(channels, grid, grid)
