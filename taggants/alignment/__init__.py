"""Gradient alignment: the key gradient, the signing gradient, objectives of both, and engines for their pixel gradient."""

from taggants.alignment.activation_pattern import gate_kinks
from taggants.alignment.engines import ENGINES, PixelGradient, PixelGradientEngine, base_of, pixel_gradient
from taggants.alignment.gradients import (
    Base,
    Gradient,
    add,
    alignment,
    alignment_direction,
    key_gradient,
    loss_gradient,
    loss_gradient_and_base,
)
from taggants.alignment.objectives import OBJECTIVES, Objective

__all__ = [
    "ENGINES",
    "OBJECTIVES",
    "Base",
    "Gradient",
    "Objective",
    "PixelGradient",
    "PixelGradientEngine",
    "add",
    "alignment",
    "alignment_direction",
    "base_of",
    "gate_kinks",
    "key_gradient",
    "loss_gradient",
    "loss_gradient_and_base",
    "pixel_gradient",
]
