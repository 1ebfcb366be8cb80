"""Gradient alignment: the key gradient, the signing gradient, and engines for the pixel gradient of their cosine."""

from taggants.alignment.activation_pattern import gate_kinks
from taggants.alignment.engines import ENGINES, PixelGradient, PixelGradientEngine, base_of, pixel_gradient
from taggants.alignment.gradients import (
    Base,
    Gradient,
    alignment,
    alignment_direction,
    key_gradient,
    loss_gradient,
    loss_gradient_and_base,
)

__all__ = [
    "ENGINES",
    "Base",
    "Gradient",
    "PixelGradient",
    "PixelGradientEngine",
    "alignment",
    "alignment_direction",
    "base_of",
    "gate_kinks",
    "key_gradient",
    "loss_gradient",
    "loss_gradient_and_base",
    "pixel_gradient",
]
