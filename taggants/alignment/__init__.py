"""Gradient alignment: the key gradient, the signing gradient, and engines for the pixel gradient of their cosine."""

from taggants.alignment.engines import ENGINES, PixelGradient, PixelGradientEngine, pixel_gradient
from taggants.alignment.gradients import (
    Gradient,
    alignment,
    alignment_direction,
    key_gradient,
    loss_gradient,
    loss_gradient_and_base,
)

__all__ = [
    "ENGINES",
    "Gradient",
    "PixelGradient",
    "PixelGradientEngine",
    "alignment",
    "alignment_direction",
    "key_gradient",
    "loss_gradient",
    "loss_gradient_and_base",
    "pixel_gradient",
]
