"""Crafting the perturbations of one signing set: the reference objective and optimiser of Data Taggants.

Bouaziz, Usunier, El-Mhamdi, ICLR 2025, section 3 (gradient matching after Geiping et al., ICLR 2021). Pure: tensors and
numbers in, values out; no storage, no Ray, no global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from taggants.alignment import (
    PixelGradientEngine,
    alignment,
    alignment_direction,
    key_gradient,
    loss_gradient,
    loss_gradient_and_base,
)
from taggants.alignment.gradients import Gradient
from taggants.augmentation import CropAndFlip
from taggants.perturbation import initial_perturbation, project, round_to_8_bits, to_uint8


@dataclass(frozen=True)
class Optimisation:
    """How a perturbation is optimised; every field changes the result and is part of the plan.

    levels: L-infinity bound in 8-bit levels. step_size: length of a step in units of the bound.
    milestones: steps after which the step size is multiplied by `decay`. momentum: Adam's beta_1.
    views: independent augmentations of each image per step. microbatch: augmented images per pass; changes rounding only.
    initial_noise: standard deviation of the start in units of the bound.
    """

    levels: int
    num_steps: int
    step_size: float
    milestones: tuple[int, ...]
    decay: float
    momentum: float
    num_restarts: int
    num_views: int
    microbatch: int
    initial_noise: float
    augmentation: CropAndFlip
    engine: PixelGradientEngine


@dataclass(frozen=True)
class CraftedSet:
    """images: uint8 [N, C, H, W], within the bound. alignment: cosine over the unaugmented 8-bit signing set, in [-1, 1].
    alignment_before: the same of the clean images. history: alignment of the augmented set at every step of the kept restart."""

    images: Tensor
    alignment: float
    alignment_before: float
    history: tuple[float, ...]


def craft_signing_set(
    surrogates: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    key_image: Tensor,
    key_label: Tensor,
    optimisation: Optimisation,
    *,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> CraftedSet:
    """Returns the signed images whose summed loss gradient aligns best with the key's.

    Args:
        surrogates: in eval mode, at least one; the objective is the mean of their alignments.
        images: uint8 [N, C, H, W]; labels: int64 [N]; image_ids: int64 [N], unique.
        key_image: uint8 [C, H, W]; key_label: int64 scalar.
        seed: of the start and of the augmentation draws; restart r uses seed + r.
        on_step: called after every step.
    """
    clean = images.to(torch.float32) / 255
    keys = [key_gradient(model, key_image.to(torch.float32) / 255, key_label) for model in surrogates]
    best: tuple[float, Tensor, list[Tensor]] | None = None
    for restart in range(optimisation.num_restarts):
        perturbation, history = _optimise(
            surrogates, clean, labels, image_ids, keys, optimisation, seed + restart, on_step
        )
        signed = to_uint8(clean + perturbation)
        reached = _set_alignment(surrogates, signed.to(torch.float32) / 255, labels, keys, optimisation.microbatch)
        if best is None or reached > best[0]:
            best = (reached, signed, history)
    assert best is not None, "num_restarts is at least 1"
    return CraftedSet(
        images=best[1],
        alignment=best[0],
        alignment_before=_set_alignment(surrogates, clean, labels, keys, optimisation.microbatch),
        history=tuple(torch.stack(best[2]).tolist()) if best[2] else (),
    )


def _optimise(
    surrogates: Sequence[nn.Module],
    clean: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    keys: Sequence[Gradient],
    optimisation: Optimisation,
    seed: int,
    on_step: Callable[[], None],
) -> tuple[Tensor, list[Tensor]]:
    """signAdam with straight-through 8-bit rounding; returns the float perturbation and the alignment before each step."""
    perturbation = initial_perturbation(clean, optimisation.levels, optimisation.initial_noise, seed)
    average = torch.zeros_like(perturbation)
    step_size = optimisation.step_size * optimisation.levels / 255
    history: list[Tensor] = []
    for step in range(optimisation.num_steps):
        cosine, pixel_gradient = torch.zeros(()), torch.zeros_like(clean)
        for model, key in zip(surrogates, keys, strict=True):
            one_cosine, one_gradient = alignment_and_pixel_gradient(
                model, clean, perturbation, labels, image_ids, key, optimisation, seed=seed, step=step
            )
            cosine, pixel_gradient = cosine + one_cosine / len(surrogates), pixel_gradient + one_gradient
        history.append(cosine)
        # Adam on signs: the second moment is 1 after bias correction, so an average of signs is all its state.
        average = optimisation.momentum * average + (1 - optimisation.momentum) * pixel_gradient.sign()
        debiased = average / (1 - optimisation.momentum ** (step + 1))
        rate = step_size * optimisation.decay ** sum(step >= milestone for milestone in optimisation.milestones)
        perturbation = project(perturbation + rate * debiased, clean, optimisation.levels)
        on_step()
    return perturbation, history


def alignment_and_pixel_gradient(
    model: nn.Module,
    clean: Tensor,
    perturbation: Tensor,
    labels: Tensor,
    image_ids: Tensor,
    key: Gradient,
    optimisation: Optimisation,
    *,
    seed: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Returns the cosine over the whole augmented set (scalar) and its gradient by the perturbation (like `clean`).

    Two passes over the same draws: the first sums the signing gradient, the second differentiates along the direction that
    the sum gives. No graph spans two microbatches, so both results are those of one batch, up to rounding.
    """

    def batches() -> list[tuple[int, slice]]:
        starts = range(0, len(clean), optimisation.microbatch)
        return [
            (view, slice(start, start + optimisation.microbatch))
            for view in range(optimisation.num_views)
            for start in starts
        ]

    def augmented(rows: slice, view: int, delta: Tensor) -> Tensor:
        signed = round_to_8_bits(clean[rows] + delta)
        return optimisation.augmentation(signed, image_ids[rows], seed=seed, step=step, view=view)

    signing: Gradient | None = None
    bases: list[Tensor | None] = []
    for view, rows in batches():
        seen = augmented(rows, view, perturbation[rows])
        if optimisation.engine.needs_base:
            part, base_of_part = loss_gradient_and_base(model, seen, labels[rows])
            bases.append(base_of_part)
        else:
            part = loss_gradient(model, seen, labels[rows])
            bases.append(None)
        signing = part if signing is None else [total + new for total, new in zip(signing, part, strict=True)]
    assert signing is not None, "a signing set holds at least one image"
    cosine, direction = alignment_direction(key, signing)

    pixel_gradient = optimisation.engine.bind(model, direction)
    gradient = torch.zeros_like(perturbation)
    for (view, rows), base in zip(batches(), bases, strict=True):
        delta = perturbation[rows].detach().requires_grad_(True)
        seen = augmented(rows, view, delta)
        by_seen = pixel_gradient(seen.detach(), labels[rows], base)
        (by_delta,) = torch.autograd.grad(seen, [delta], grad_outputs=by_seen)
        gradient[rows] += by_delta
    return cosine, gradient


def _set_alignment(
    surrogates: Sequence[nn.Module], images: Tensor, labels: Tensor, keys: Sequence[Gradient], microbatch: int
) -> float:
    """The mean alignment over surrogates of an unaugmented set of float images, whatever the microbatch."""
    cosines = []
    for model, key in zip(surrogates, keys, strict=True):
        signing: Gradient | None = None
        for start in range(0, len(images), microbatch):
            part = loss_gradient(model, images[start : start + microbatch], labels[start : start + microbatch])
            signing = part if signing is None else [total + new for total, new in zip(signing, part, strict=True)]
        assert signing is not None, "a signing set holds at least one image"
        cosines.append(float(alignment(key, signing)))
    return sum(cosines) / len(cosines)
