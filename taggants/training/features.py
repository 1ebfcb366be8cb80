"""What a model sees before its head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def penultimate_features(model: nn.Module, images: Tensor, batch_size: int = 512) -> Tensor:
    """Returns float32 [N, D]: what the last linear layer of a model of `build_model` gets, model in eval mode.

    Args:
        images: uint8 [N, C, H, W].
    """
    model.eval()
    assert isinstance(model, nn.Sequential), "as build_model makes them: input normalisation, then the network"
    normalisation: nn.Module = model[0]
    network: Any = model[1]  # timm's methods carry no types
    device = next(model.parameters()).device
    features = []
    for part in images.split(batch_size):
        pixels = normalisation(part.to(device).to(torch.float32) / 255)
        if isinstance(network, nn.Sequential):
            features.append(network[:-1](pixels))
        else:
            features.append(network.forward_head(network.forward_features(pixels), pre_logits=True))
    return torch.cat([part.cpu() for part in features])
