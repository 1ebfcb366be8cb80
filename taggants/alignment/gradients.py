"""Parameter gradients and the cosine between them.

With t the key's gradient (constant) and p = sum over the signing set of grad_theta L_i, the objective is to maximise
A = <t, p> / (|t| |p|) (Bouaziz et al. 2025, eq. of gradient alignment; Geiping et al. 2021, eq. 3). Its derivative with
respect to p is v = (t/|t| - A p/|p|) / |p|, so the pixel gradient of A is sum_i grad_delta <v, grad_theta L_i(delta)>
with v held CONSTANT: the derivative is exact over the whole signing set although no graph ever spans two microbatches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taggants.alignment.activation_pattern import ActivationPattern, recorded

Gradient = list[Tensor]
"""One tensor for each trainable parameter of a model, in the order of `model.parameters()`."""


@dataclass(frozen=True, eq=False)
class Base:
    """Where a finite difference starts: the pixel gradient of the summed loss (like images) and the activation pattern that
    gave it, empty for a model without gates."""

    gradient: Tensor
    pattern: ActivationPattern


def trainable_parameters(model: nn.Module) -> list[Tensor]:
    """Returns the parameters a gradient is taken with respect to, in the order of `model.parameters()`."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def loss_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Gradient:
    """Returns grad_theta of the SUM of cross-entropies.

    Summed, not averaged, so that gradients of microbatches add up to that of the whole set.

    Args:
        model: in eval mode (BatchNorm frozen, dropout off), else the sum over samples would not split.
        images: float [N, C, H, W] in [0, 1].
        labels: int64 [N].
    """
    loss = cross_entropy(model(images), labels, reduction="sum")
    return list(torch.autograd.grad(loss, trainable_parameters(model)))


def loss_gradient_and_base(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Gradient, Base]:
    """Returns `loss_gradient` and, from the same passes, the base of a finite difference."""
    images = images.detach().requires_grad_(True)
    with recorded(model) as pattern:
        loss = cross_entropy(model(images), labels, reduction="sum")
    *gradient, by_images = torch.autograd.grad(loss, [*trainable_parameters(model), images])
    return gradient, Base(by_images, tuple(pattern))


def key_gradient(model: nn.Module, key_image: Tensor, key_label: Tensor) -> Gradient:
    """Returns t: the parameter gradient of the cross-entropy of one key.

    Args:
        key_image: float [C, H, W] in [0, 1], multiples of 1/255 (the tested key must equal the crafted one).
        key_label: int64 scalar.
    """
    return loss_gradient(model, key_image[None], key_label[None])


def inner(first: Gradient, second: Gradient) -> Tensor:
    """Returns the inner product of two gradients, a scalar."""
    return torch.stack([torch.sum(a * b) for a, b in zip(first, second, strict=True)]).sum()


def alignment(key: Gradient, signing: Gradient) -> Tensor:
    """Returns the cosine A in [-1, 1] of two gradients; 0 when either vanishes."""
    scale = torch.sqrt(inner(key, key) * inner(signing, signing))
    return torch.where(
        scale > 0, inner(key, signing) / scale.clamp_min(torch.finfo(scale.dtype).tiny), torch.zeros_like(scale)
    )


def alignment_direction(key: Gradient, signing: Gradient) -> tuple[Tensor, Gradient]:
    """Returns A and v = dA/dp = (t/|t| - A p/|p|) / |p|, the direction in parameter space that pass 2 differentiates along.

    A vanished key or signing gradient gives v = 0.
    """
    cosine = alignment(key, signing)
    tiny = torch.finfo(cosine.dtype).tiny
    norm_key = torch.sqrt(inner(key, key)).clamp_min(tiny)
    norm_signing = torch.sqrt(inner(signing, signing)).clamp_min(tiny)
    return cosine, [
        (t / norm_key - cosine * p / norm_signing) / norm_signing for t, p in zip(key, signing, strict=True)
    ]
