from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def trained() -> nn.Sequential:
    """A "cnn" for grey images of 8 px and 10 classes as a plain torch script would make it; no part of this project in it."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        layers = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()]
        return nn.Sequential(
            *layers, nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 10)
        ).eval()
