from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taggants.errors import InputError
from taggants.perturbation import (
    epsilon_levels,
    initial_perturbation,
    project,
    psnr_db,
    round_to_8_bits,
    to_uint8,
)


@pytest.mark.parametrize(("epsilon", "levels"), [(16 / 255, 16), (0.07, 17), (1 / 255, 1), (1.0, 255), (64 / 255, 64)])
def test_epsilon_is_cut_to_whole_levels(epsilon, levels):
    assert epsilon_levels(epsilon) == levels


@pytest.mark.parametrize("epsilon", [0.0, 0.003, -0.1, 1.01, 3.0])
def test_epsilon_out_of_range_is_refused(epsilon):
    with pytest.raises(InputError, match=r"must lie in \[1/255, 1\]"):
        epsilon_levels(epsilon)


@given(levels=st.integers(1, 255), seed=st.integers(0, 1000))
def test_eight_bit_image_never_leaves_the_ball(levels, seed):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(0, 256, (2, 1, 4, 4), generator=generator, dtype=torch.uint8)
    pixels = clean.float() / 255
    wild = torch.randn(pixels.shape, generator=generator)
    signed = to_uint8(pixels + project(wild, pixels, levels))
    assert (signed.int() - clean.int()).abs().max() <= levels


def test_projection_leaves_what_is_inside_alone():
    pixels = torch.full((1, 1, 2, 2), 0.5)
    inside = torch.tensor([[[[0.01, -0.02], [0.0, 0.03]]]])
    torch.testing.assert_close(project(inside, pixels, 16), inside)


def test_rounding_is_straight_through():
    pixels = torch.rand(1, 1, 3, 3, requires_grad=True)
    rounded = round_to_8_bits(pixels)
    assert torch.allclose(rounded * 255, torch.round(pixels * 255), atol=1e-4)
    (gradient,) = torch.autograd.grad(rounded.sum(), [pixels])
    assert torch.equal(gradient, torch.ones_like(pixels))


def test_start_has_the_given_spread_and_depends_on_the_seed_only():
    pixels = torch.full((8, 3, 32, 32), 0.5)
    start = initial_perturbation(pixels, 255, 0.1, seed=3)
    assert float(start.std()) == pytest.approx(0.1, rel=0.02)
    torch.manual_seed(0)
    assert torch.equal(start, initial_perturbation(pixels, 255, 0.1, seed=3))
    assert not torch.equal(start, initial_perturbation(pixels, 255, 0.1, seed=4))


def test_psnr_of_the_largest_perturbation_is_that_of_the_paper():
    assert psnr_db(16**2 * 192, 192) == pytest.approx(24.05, abs=0.005)  # "worst-case PSNR 24.05 dB" at 16/255
    assert math.isinf(psnr_db(0, 192))
