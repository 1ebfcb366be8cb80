from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from taggants.augmentation.resampling import blur_matrices, resample, resampling_matrices


def real(*values):
    return torch.tensor(values, dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    fractions=st.tuples(*[st.floats(0, 0.8)] * 2, *[st.floats(0.2, 1)] * 2),
    size_out=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_resampling_equals_pillow_on_real_valued_images(height, width, fractions, size_out, seed):
    """Up and down, windows at fractions of a pixel, on a canvas larger than the image."""
    pixels = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    top, left = fractions[0] * height, fractions[1] * width
    window_height, window_width = (height - top) * fractions[2], (width - left) * fractions[3]
    expected = Image.fromarray(pixels).resize(
        (size_out, size_out), Image.Resampling.BILINEAR, box=(left, top, left + window_width, top + window_height)
    )
    canvas = torch.ones(1, 1, height + 3, width + 2)
    canvas[0, 0, :height, :width] = torch.from_numpy(pixels)
    rows = resampling_matrices(
        real(top), real(window_height), real(0), real(height), size_in=height + 3, size_out=size_out
    )
    columns = resampling_matrices(
        real(left), real(window_width), real(0), real(width), size_in=width + 2, size_out=size_out
    )
    np.testing.assert_allclose(resample(canvas, rows, columns)[0, 0], np.asarray(expected), atol=1e-4)


@pytest.mark.parametrize("size_out", [64, 224, 700])
def test_single_precision_is_enough_for_large_images(size_out):
    pixels = np.random.default_rng(0).random((3, 2400), dtype=np.float32)
    expected = Image.fromarray(pixels).resize(
        (size_out, 3), Image.Resampling.BILINEAR, box=(1501.3, 0, 2399.9, 3), reducing_gap=None
    )
    columns = resampling_matrices(real(1501.3), real(898.6), real(0), real(2400), size_in=2400, size_out=size_out)
    np.testing.assert_allclose(torch.from_numpy(pixels) @ columns[0].T, np.asarray(expected), atol=1e-4)


def test_flipped_matrices_mirror_the_output():
    window = (real(1.5, 1.5), real(6, 6), real(0, 0), real(9, 9))
    matrices = resampling_matrices(*window, size_in=9, size_out=5, flip=torch.tensor([False, True]))
    assert torch.equal(matrices[1], matrices[0].flip(0))


@pytest.mark.parametrize("shape", [(11, 30), (30, 11), (1, 4)])
def test_blur_equals_scipy_on_images_of_their_own_sizes(shape):
    pixels = np.random.default_rng(1).random(shape)
    canvas = torch.full((2, 1, 32, 31), 9.0, dtype=torch.float64)
    canvas[:, 0, : shape[0], : shape[1]] = torch.from_numpy(pixels)
    sigma = real(0.3, 1.9)
    rows, columns = (
        blur_matrices(sigma, torch.tensor([size, size]), size_in=canvas_size, radius=8, dtype=torch.float64)
        for size, canvas_size in zip(shape, (32, 31), strict=True)
    )
    blurred = resample(canvas, rows, columns)
    for i in range(2):
        expected = gaussian_filter(pixels, float(sigma[i]), mode="nearest", radius=8)
        np.testing.assert_allclose(blurred[i, 0, : shape[0], : shape[1]], expected, atol=1e-12)
    assert blurred[:, :, shape[0] :].abs().max() == 0


def test_blur_is_nearest_to_pillows_of_the_same_sigma():
    rng = np.random.default_rng(2)
    pixels = np.clip(128 + 150 * gaussian_filter(rng.normal(size=(48, 48)), 1.0), 0, 255).round().astype(np.uint8)
    for sigma in (0.5, 1.0, 2.0):
        expected = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)), dtype=np.float64)
        nearby = sigma * torch.tensor([0.9, 1.0, 1.1], dtype=torch.float64)
        matrices = blur_matrices(nearby, torch.tensor([48] * 3), size_in=48, radius=8)
        blurred = resample(torch.from_numpy(pixels).float().expand(3, 1, 48, 48), matrices, matrices)
        errors = np.abs(blurred[:, 0].numpy() - expected).mean(axis=(1, 2))
        assert errors.argmin() == 1
        assert errors[1] < 1.2  # of 255 levels: Pillow rounds, and approximates by three box blurs
