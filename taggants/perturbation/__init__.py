"""Perturbations of images: their start and bounds, what storage does to them, and how visible they are."""

from taggants.perturbation.bounds import (
    epsilon_levels,
    initial_perturbation,
    project,
    psnr_db,
    round_to_8_bits,
    to_uint8,
)

__all__ = ["epsilon_levels", "initial_perturbation", "project", "psnr_db", "round_to_8_bits", "to_uint8"]
