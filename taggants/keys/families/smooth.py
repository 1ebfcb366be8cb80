"""The family "smooth": the cells of "block", interpolated in integer arithmetic, so that every platform gives the same bytes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from taggants.keys.families.cells import noise_family
from taggants.keys.families.family import TestVector


def smooth_image(cells: NDArray[np.uint8], cell_size: int, image_size: int) -> NDArray[np.uint8]:
    """The grid enlarged cell_size times by Catmull-Rom interpolation, cropped, rounded half up and clipped to 0..255.

    Bicubic convolution with a = -1/2 (Keys, "Cubic convolution interpolation for digital image processing", 1981).
    Pixel x lies at (2x + 1 - cell_size) / (2 cell_size) in units of cells; cells beyond the edge repeat the
    edge. The two axes are summed as exact fractions and rounded once, at the end.

    Args and Returns: as of `taggants.keys.families.block.block_image`.
    """
    num_cells = cells.shape[-1]
    taps, weights, denominator = _catmull_rom(num_cells, cell_size, image_size)
    # The weights of one axis sum to `denominator` and their magnitudes to at most 5/4 of it; two axes of 255 stay below
    # 400 denominator^2. Where 64 bits cannot hold that (cells above 211 pixels), Python integers do.
    exact_type: Any = np.int64 if 400 * denominator**2 < 2**63 else object
    weights = weights.astype(exact_type)
    grid = cells.astype(exact_type)
    # [channels, grid, grid] -> [channels, image_size, grid] -> [channels, image_size, image_size]
    rows: Any = sum(grid[:, taps[k], :] * weights[k][None, :, None] for k in range(4))
    values: Any = sum(rows[:, :, taps[k]] * weights[k][None, None, :] for k in range(4))
    rounded = (values + denominator**2 // 2) // denominator**2  # the denominator is even, so the half is exact
    image: NDArray[np.uint8] = np.clip(rounded, 0, 255).astype(np.uint8)
    return image


def _catmull_rom(num_cells: int, cell_size: int, image_size: int) -> tuple[NDArray[np.int64], NDArray[Any], int]:
    """Per pixel of one axis: its cells [4, image_size], their integer weights [4, image_size], and the denominator."""
    d = 2 * cell_size
    position = 2 * np.arange(image_size, dtype=np.int64) + 1 - cell_size  # in units of 1/d cell
    cell, r = np.divmod(position, d)  # the fraction of a cell is t = r / d
    # Polynomials in t, times 2 d^3 (at most 2^40, as d <= 2^13).
    weights = np.stack(
        [
            -(r**3) + 2 * r**2 * d - r * d**2,
            3 * r**3 - 5 * r**2 * d + 2 * d**3,
            -3 * r**3 + 4 * r**2 * d + r * d**2,
            r**3 - r**2 * d,
        ]
    )
    taps = np.clip(cell + np.arange(-1, 3)[:, None], 0, num_cells - 1)
    return taps, weights, 2 * d**3


SMOOTH: Final = noise_family(
    "the same noise, interpolated bicubically",
    smooth_image,
    (
        TestVector(3, 32, {"cell_size": 4}, "4e00d639c12f22d5cb93501e2cd1ae9bdba09e5968d64544b2a406c365a348c2"),
        TestVector(1, 50, {"cell_size": 7}, "da71b6ded3626d649c0ac048927dbf5bdba539cdf7dbdc9d145d326c25811c63"),
    ),
)
