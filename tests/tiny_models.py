"""Networks small enough for slow oracles, in double precision."""

from __future__ import annotations

import torch
from torch import nn


def smooth_net(num_classes: int = 3, channels: int = 1) -> nn.Module:
    """Softplus convolution, so that finite differences of its gradients converge."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 36, num_classes)
        )
    return net.double().eval()
