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


def add(total: Gradient, part: Gradient) -> Gradient:
    """Returns `total`, to which `part` was added in place."""
    torch._foreach_add_(total, part)
    return total


def adds_by_tensor(first: Gradient) -> bool:
    """Whether inner products add up tensor by tensor, as they always did on a CPU: another order is another rounding."""
    return first[0].is_cpu


def inner(first: Gradient, second: Gradient) -> Tensor:
    """Returns the inner product of two gradients, a scalar.

    On a GPU in a handful of launches whatever the number of tensors: a ResNet-50 has 161, whose products and sums one by one
    would take longer to launch than to compute.
    """
    if adds_by_tensor(first):
        return torch.stack([torch.sum(a * b) for a, b in zip(first, second, strict=True)]).sum()
    return torch.cat([_in_any_order(product) for product in torch._foreach_mul(first, second)]).sum()


def _in_any_order(values: Tensor) -> Tensor:
    """All entries as a vector, in the order in which they lie in memory, so that none is copied."""
    if values.is_contiguous():
        return values.view(-1)
    if values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1).view(-1)
    return values.flatten()


def alignment(key: Gradient, signing: Gradient) -> Tensor:
    """Returns the cosine A in [-1, 1] of two gradients, a scalar; 0 when either vanishes."""
    return _cosine(inner(key, signing), inner(key, key), inner(signing, signing))


def _cosine(product: Tensor, key_square: Tensor, signing_square: Tensor) -> Tensor:
    scale = torch.sqrt(key_square * signing_square)
    return torch.where(scale > 0, product / scale.clamp_min(torch.finfo(scale.dtype).tiny), torch.zeros_like(scale))


def alignment_direction(key: Gradient, signing: Gradient) -> tuple[Tensor, Gradient]:
    """Returns A and v = dA/dp = (t/|t| - A p/|p|) / |p|, the direction in parameter space that pass 2 differentiates along.

    A vanished key or signing gradient gives v = 0.
    """
    key_square, signing_square = inner(key, key), inner(signing, signing)
    cosine = _cosine(inner(key, signing), key_square, signing_square)
    tiny = torch.finfo(cosine.dtype).tiny
    norm_key, norm_signing = (torch.sqrt(square).clamp_min(tiny) for square in (key_square, signing_square))
    direction = list(torch._foreach_div(key, norm_key))
    along_signing = torch._foreach_mul(signing, cosine)
    torch._foreach_div_(along_signing, norm_signing)
    torch._foreach_sub_(direction, along_signing)
    torch._foreach_div_(direction, norm_signing)
    return cosine, direction
