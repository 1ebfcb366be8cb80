"""Scores of candidates for the signing sets: how much each training image would move the surrogate."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

_MOST_GRADIENT_BYTES = 2**30  # of a batch of gradients, one for each image


def gradient_norms(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int | None = None) -> Tensor:
    """Returns float32 [N]: the Euclidean norm of each image's parameter gradient of the cross-entropy.

    Source: selection by gradient norm, Geiping et al. (ICLR 2021) and Souri et al. ("Sleeper Agent", NeurIPS 2022).

    Args:
        model: in eval mode.
        images: uint8 [N, C, H, W]; labels: int64 [N].
        batch_size: images at once; None: as many as have gradients of 1 GiB, up to 256. It changes rounding.
    """
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    buffers = {name: buffer.detach() for name, buffer in model.named_buffers()}

    if batch_size is None:
        bytes_of_one = sum(parameter.numel() * parameter.element_size() for parameter in parameters.values())
        batch_size = max(1, min(256, _MOST_GRADIENT_BYTES // bytes_of_one))

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, (weights, buffers), (image[None],)), label[None])

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0))
    norms = []
    for part, part_labels in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        gradients = per_sample(parameters, part.to(torch.float32) / 255, part_labels)
        norms.append(
            torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients.values()]).sum(0).sqrt()
        )
    return torch.cat(norms)


@torch.no_grad()
def losses(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 512) -> Tensor:
    """Returns float32 [N]: the cross-entropy of each uint8 image [N, C, H, W], model in eval mode."""
    return torch.cat(
        [
            cross_entropy(model(part.to(torch.float32) / 255), part_labels, reduction="none")
            for part, part_labels in zip(images.split(batch_size), labels.split(batch_size), strict=True)
        ]
    )
