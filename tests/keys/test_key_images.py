from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from taggants.keys.families.block import block_image
from taggants.keys.families.smooth import smooth_image


def random_cells(channels: int, cell_size: int, image_size: int, seed: int = 0) -> NDArray[np.uint8]:
    grid = -(-image_size // cell_size)
    return np.random.default_rng(seed).integers(0, 256, (channels, grid, grid), dtype=np.uint8)


def catmull_rom(distance: Fraction) -> Fraction:
    x = abs(distance)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    if x < 2:
        return Fraction(-1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2
    return Fraction(0)


def slow_smooth_pixel(cells: NDArray[np.uint8], cell_size: int, y: int, x: int) -> int:
    last = cells.shape[-1] - 1
    centre_y = Fraction(2 * y + 1, 2 * cell_size) - Fraction(1, 2)
    centre_x = Fraction(2 * x + 1, 2 * cell_size) - Fraction(1, 2)
    total = Fraction(0)
    for i in range(math.floor(centre_y) - 2, math.floor(centre_y) + 4):
        for j in range(math.floor(centre_x) - 2, math.floor(centre_x) + 4):
            value = int(cells[min(max(i, 0), last), min(max(j, 0), last)])
            total += value * catmull_rom(centre_y - i) * catmull_rom(centre_x - j)
    return min(255, max(0, math.floor(total + Fraction(1, 2))))


@settings(max_examples=30)
@given(st.sampled_from([1, 3]), st.integers(4, 20), st.data())
def test_block_image_repeats_cells(channels: int, image_size: int, data: st.DataObject) -> None:
    cell_size = data.draw(st.integers(1, image_size))
    cells = random_cells(channels, cell_size, image_size)
    image = block_image(cells, cell_size, image_size)
    assert image.shape == (channels, image_size, image_size)
    assert image.dtype == np.uint8
    for c, y, x in np.ndindex(*image.shape):
        assert image[c, y, x] == cells[c, y // cell_size, x // cell_size]


@settings(max_examples=12, deadline=None)
@given(st.integers(4, 9), st.data())
def test_smooth_image_equals_exact_fractions_everywhere(image_size: int, data: st.DataObject) -> None:
    cell_size = data.draw(st.integers(1, image_size))
    cells = random_cells(1, cell_size, image_size, data.draw(st.integers(0, 100)))
    image = smooth_image(cells, cell_size, image_size)
    assert image.shape == (1, image_size, image_size)
    assert image.dtype == np.uint8
    for y, x in np.ndindex(image_size, image_size):
        assert image[0, y, x] == slow_smooth_pixel(cells[0], cell_size, y, x)


@pytest.mark.parametrize("cell_size", [211, 212, 256])  # on both sides of the change from 64-bit to Python integers
def test_smooth_image_of_large_cells_equals_exact_fractions(cell_size: int) -> None:
    cells = np.array([[[0, 255, 0], [255, 0, 255], [0, 255, 255]]], dtype=np.uint8)
    image_size = 2 * cell_size + 1
    image = smooth_image(cells, cell_size, image_size)
    rng = np.random.default_rng(1)
    for y, x in rng.integers(0, image_size, (60, 2)).tolist():
        assert image[0, y, x] == slow_smooth_pixel(cells[0], cell_size, y, x)


@pytest.mark.parametrize(("cell_size", "image_size"), [(4, 32), (5, 32), (8, 64), (28, 224)])
def test_smooth_image_is_pillows_bicubic_inside(cell_size: int, image_size: int) -> None:
    cells = random_cells(3, cell_size, image_size)
    grid = cells.shape[-1]
    image = smooth_image(cells, cell_size, image_size)
    size = (grid * cell_size, grid * cell_size)
    # Within two cells of the edge Pillow drops the outside weights, where we repeat the edge cell.
    inside = slice(2 * cell_size, image_size - 2 * cell_size)
    for channel in range(3):
        # As floats, because on bytes Pillow rounds and clips after the first axis as well.
        floats = Image.fromarray(cells[channel].astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        reference = np.clip(np.asarray(floats), 0, 255)
        difference = image[channel, inside, inside] - reference[inside, inside]
        assert difference.size
        assert np.abs(difference).max() <= 0.5001


@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_smooth_image_keeps_a_constant(value: int) -> None:
    assert (smooth_image(np.full((3, 4, 4), value, np.uint8), 7, 25) == value).all()


def test_smooth_image_with_cells_of_one_pixel_is_the_grid() -> None:
    cells = random_cells(3, 1, 12)
    assert np.array_equal(smooth_image(cells, 1, 12), cells)
