"""Engines for pass 2 of a crafting step: the pixel gradient of <v, grad_theta L> for a constant direction v.

Each engine has one signature, so that a configuration chooses one by name. F is the cost of one forward pass of one sample;
multiples are those of a complete two-pass step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from taggants.alignment.gradients import Gradient, inner, trainable_parameters

PixelGradientEngine = Callable[[nn.Module, Tensor, Tensor, Gradient], Tensor]
"""(model, images [N, C, H, W] in [0, 1], labels [N], v) -> grad_images <v, grad_theta sum_i L_i>, like images."""


def double_backward(model: nn.Module, images: Tensor, labels: Tensor, direction: Gradient) -> Tensor:
    """Reference engine: reverse over reverse, asking only for the pixels. Exact.

    Cost of a step: about 10 to 11 F; memory about twice that of training.
    """
    images = images.detach().requires_grad_(True)
    loss = cross_entropy(model(images), labels, reduction="sum")
    gradient = list(torch.autograd.grad(loss, trainable_parameters(model), create_graph=True))
    (pixels,) = torch.autograd.grad(inner(gradient, direction), [images])
    return pixels


ENGINES: Mapping[str, PixelGradientEngine] = MappingProxyType({"double_backward": double_backward})
"""The engines a configuration can name."""
