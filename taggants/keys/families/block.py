"""The family "block": uniform noise in cells, each a square of one colour; the paper's keys."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from taggants.keys.families.cells import noise_family
from taggants.keys.families.family import TestVector


def block_image(cells: NDArray[np.uint8], cell_size: int, image_size: int) -> NDArray[np.uint8]:
    """Each cell repeated to a block of cell_size x cell_size pixels, cropped to the image.

    Args:
        cells: uint8 [channels, grid, grid] with grid = ceil(image_size / cell_size).
        cell_size: side of a block, in pixels.
        image_size: side of the image, in pixels.

    Returns:
        uint8 [channels, image_size, image_size].
    """
    enlarged = cells.repeat(cell_size, axis=1).repeat(cell_size, axis=2)
    return np.ascontiguousarray(enlarged[:, :image_size, :image_size])


BLOCK: Final = noise_family(
    "uniform noise in cells of one colour, as in the paper",
    block_image,
    (
        TestVector(3, 32, {"cell_size": 4}, "ef3312ffdeada24c4d637e93de0bed79508f1ec9e6d1d34334ef164b2cb02aa3"),
        TestVector(1, 10, {"cell_size": 4}, "bb447aa09651ca76090094dedd0e83912547b9e33c3713bac0aa5a70ef09c998"),
    ),
)
