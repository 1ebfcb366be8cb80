"""Perturbations of images: their start, their bounds and their rounding to 8 bits.

Inside the crafting loop a pixel is a float in [0, 1]; a stored image is uint8. Epsilon is an L-infinity bound in [0, 1]
units. The bound is held on the final 8-bit image: epsilon is cut to whole levels of 1/255 first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from taggants.errors import InputError


def epsilon_levels(epsilon: float) -> int:
    """Returns the largest whole number of 8-bit levels within epsilon, so that rounding can never leave the ball.

    Raises:
        InputError: epsilon outside [1/255, 1].
    """
    levels = math.floor(epsilon * 255 + 1e-9)
    if not 1 <= levels <= 255:
        raise InputError(
            f"epsilon {epsilon:g} must lie in [1/255, 1] (L-infinity, pixels in [0, 1]); for example 16/255"
        )
    return levels


def initial_perturbation(images: Tensor, levels: int, noise: float, seed: int) -> Tensor:
    """Returns a float perturbation like `images`: Gaussian of standard deviation noise * levels / 255, then projected.

    Drawn on the CPU by a generator of its own, so that it is the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(images.shape, generator=generator, dtype=torch.float32) * (noise * levels / 255)
    return project(draw.to(images.device, images.dtype), images, levels)


def project(perturbation: Tensor, images: Tensor, levels: int) -> Tensor:
    """Returns the nearest perturbation with |p| <= levels / 255 and images + p in [0, 1]; all float, same shape."""
    bound = levels / 255
    return (images + perturbation.clamp(-bound, bound)).clamp(0.0, 1.0) - images


def round_to_8_bits(images: Tensor) -> Tensor:
    """Returns images rounded to multiples of 1/255; the derivative is that of the identity (straight-through)."""
    rounded = torch.round(images.detach() * 255) / 255
    return images + (rounded - images.detach())


def to_uint8(images: Tensor) -> Tensor:
    """Returns uint8 images from float ones in [0, 1], rounded to nearest (ties to even)."""
    return torch.round(images.detach() * 255).clamp(0, 255).to(torch.uint8)


def psnr_db(squared_error: float, num_values: int) -> float:
    """Returns the peak signal-to-noise ratio in dB of 8-bit images; infinity when they are equal.

    Args:
        squared_error: sum over all values of the squared difference, in levels of 8 bits.
        num_values: pixels times channels, over all images.
    """
    return 10 * math.log10(255**2 * num_values / squared_error) if squared_error else math.inf
