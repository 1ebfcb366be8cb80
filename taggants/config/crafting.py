"""The section on the perturbations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from taggants.alignment import ENGINES, OBJECTIVES
from taggants.config.fields import FractionOf, PixelBound, Section, UnitFraction, Uri, named_in
from taggants.crafting.methods import METHODS, Imprint


class CraftingConfig(Section):
    """The perturbations. Every field is part of the plan; the microbatch and the thread count because they change rounding."""

    method: Annotated[str, named_in(METHODS)] = Field(
        "matching", description="; ".join(f"{name}: {method.description}" for name, method in METHODS.items())
    )
    imprinted: UnitFraction = Field(1 / 3, description="share of each signing set that is imprinted, with method mixed")
    imprint_weakest: FractionOf = Field(
        1.0,
        gt=0,
        le=1,
        description="weakest imprint in units of epsilon; the secret draws each image's strength between it and 1",
    )
    imprint_shift: int = Field(
        0,
        ge=0,
        le=4096,
        description="the secret shifts each imprint cyclically by up to so many pixels along each axis, so that the mean of "
        "signed images does not show the key",
    )
    epsilon: PixelBound = Field(64 / 255, description="L-infinity bound, pixels in [0, 1]; paper 16/255")
    num_steps: int = Field(150, ge=1, le=100_000, description="optimiser steps of each restart; paper's release 250")
    step_size: float = Field(0.4, gt=0, le=10, description="first step in units of epsilon")
    milestones: tuple[UnitFraction, ...] = Field(
        (40 / 250, 93 / 250, 156 / 250, 218 / 250),
        description="fractions of num_steps after which the step shrinks (paper's release)",
    )
    decay: float = Field(0.3, gt=0, le=1, description="factor at each milestone")
    momentum: float = Field(0.9, ge=0, lt=1, description="Adam's beta_1")
    num_restarts: int = Field(1, ge=1, le=100, description="random starts, of which the best aligned is kept")
    halving: bool = Field(
        True,
        description="of several starts, drop the worse half again and again, until one is left halfway",
    )
    convergence_window: int = Field(
        0,
        ge=0,
        description="steps over which the alignment is averaged to see whether it still rises; 0 runs all steps",
    )
    convergence_gain: float = Field(
        0.002, ge=0, le=2, description="a smaller rise from window to window shrinks the step, and finally ends the run"
    )
    num_views: int = Field(2, ge=1, le=64, description="independent augmentations of each image per step")
    initial_noise: float = Field(1.0, ge=0, le=1, description="standard deviation of the start in units of epsilon")
    augmentation: Literal["crop", "resized_crop"] = Field(
        "crop", description="crop after padding, or random resized crop; the latter always with data.image_size"
    )
    crop_padding: int = Field(0, ge=0, description="as in training: pixels of reflect padding before the random crop")
    flip: bool = Field(False, description="as in training: mirror half of the draws")
    three_augment: bool = Field(False, description="greyscale, solarisation or blur after the crop, as in DeiT III")
    colour_jitter: float = Field(
        0.0, ge=0, le=1, description="strength of brightness, contrast and saturation; DeiT III 0.3"
    )
    mixing: UnitFraction = Field(
        0.0, description="share of the draws mixed with another clean image (Mixup or CutMix, as strong victims do)"
    )
    perceptual: Literal["none", "ssim", "lpips"] = Field(
        "none",
        description="distance from the clean images that is kept small beside the alignment; paper's release LPIPS",
    )
    perceptual_weight: float = Field(0.01, gt=0, le=100, description="weight of that distance; paper's release 0.01")
    lpips_weights: Uri | None = Field(
        None, description="file of the LPIPS-AlexNet weights; for the term, and for the figure in the report"
    )
    objective: Annotated[str, named_in(OBJECTIVES)] = Field(
        "cosine", description="what is maximised, a function of the key's and the signing set's gradients; paper cosine"
    )
    engine: Annotated[str, named_in(ENGINES)] = Field(
        "one_sided",
        description="see taggants/alignment/engines.py; one_sided is about as strong as the exact ones on the families of models "
        "measured, see benchmarks/results, in half the work; less so when small/NAME are compiled",
    )
    difference_step: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="finite step relative to the weights' norm; null: 3e-4 for networks with GELU, SiLU or layer normalisation; "
        "for others 1e-3 with ReLU (3e-3 where its pattern cannot be held: compiled, or ReLU6 and the like), else 3e-4",
    )
    direction_interval: int = Field(
        1, ge=1, le=1_000, description="steps for which the direction in parameter space is kept; 1 is exact"
    )
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32", description="of matrix products; perturbations, gradients and dot products stay float32"
    )
    channels_last: bool = Field(False, description="memory layout of convolutions; faster on most machines")
    compile: bool = Field(
        False,
        description="compile with torch.compile; only with central and one_sided, which then lose precision on ReLU networks",
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="where a worker computes")
    ensemble: Literal["loop", "cycle"] = Field(
        "loop", description="every step takes the mean over all surrogates, or one surrogate in turn"
    )
    microbatch: int = Field(64, ge=1, description="augmented images per pass")
    num_threads: int = Field(1, ge=1, le=1024, description="torch threads of one worker; changes rounding")

    @property
    def imprint(self) -> Imprint:
        """How keys are imprinted, where the method does so."""
        return Imprint(self.imprinted, self.imprint_weakest, self.imprint_shift)

    @property
    def optimised_share(self) -> float:
        """Share of the signed images that are optimised on surrogates, in [0, 1]."""
        return METHODS[self.method].optimised_share(self.imprint)

    @model_validator(mode="after")
    def _fits_together(self) -> CraftingConfig:
        first_order = [name for name, engine in ENGINES.items() if engine.is_first_order]
        if self.compile and self.engine not in first_order:
            raise ValueError(f"crafting.compile needs engine {' or '.join(first_order)}, not {self.engine}")
        if self.precision == "tf32" and self.device != "cuda":
            raise ValueError("crafting.precision=tf32 needs crafting.device=cuda; use float32 or bfloat16 on the CPU")
        if self.perceptual == "lpips" and self.lpips_weights is None:
            raise ValueError("crafting.perceptual=lpips needs the file crafting.lpips_weights; ssim needs none")
        if self.difference_step is not None and self.engine not in first_order:
            raise ValueError(
                f"crafting.difference_step needs engine {' or '.join(first_order)}; {self.engine} is exact, leave it out"
            )
        return self
