from __future__ import annotations

import pytest
import torch
from torch import nn

from taggants.models import ModelSpec, build_model
from taggants.training.features import penultimate_features


@pytest.mark.parametrize(
    "name", ["cnn", "timm/resnet18", "timm/vit_tiny_patch16_224", "timm/convnext_atto", "small/vit", "small/convnext"]
)
def test_features_are_what_the_last_linear_layer_gets(name):
    model = build_model(ModelSpec(name, num_classes=7, channels=3, image_size=32), 1).eval()
    head = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 7][-1]
    seen = []
    head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(images.to(torch.float32) / 255)
    torch.testing.assert_close(penultimate_features(model, images, batch_size=3), seen[0], rtol=1e-4, atol=1e-5)
