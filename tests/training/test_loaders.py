"""Images on the training device: the same batches, and a host that never waits within an epoch."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from taggants.models import ModelSpec, build_model
from taggants.training.examples import Epoch, InMemory
from taggants.training.loop import Optimiser, train
from taggants.training.recipes import RECIPES, Recipe

BATCHED = [name for name, parts in RECIPES.items() if parts.policy is None]
"""The recipes that loader device takes."""


def examples(device="cpu", count=90, **options):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return InMemory(images.to(device), (torch.arange(count) % 3).to(device), **options)


@pytest.mark.parametrize("batches_at_once", [1, 2, 5])
@pytest.mark.parametrize("name", BATCHED)
def test_batches_augmented_in_one_pass_are_those_augmented_one_by_one(name, batches_at_once):
    rows = [*torch.randperm(90, generator=torch.Generator().manual_seed(1)).split(16)]  # the last of 10
    together = examples(values_at_once=batches_at_once * 16 * 3 * 16 * 16)
    epoch = Epoch(Recipe(name, 2, True, 3), seed=7, number=3)
    one_by_one, by_the_pass = together.batches(epoch, rows), together._several_at_once(epoch, rows)
    for (pixels, weights), (own_pixels, own_weights) in zip(one_by_one, by_the_pass, strict=True):
        torch.testing.assert_close(pixels, own_pixels, rtol=0, atol=1e-6)  # a blur rounds by the number of images
        torch.testing.assert_close(weights, own_weights, rtol=0, atol=1e-7)
        if name == "simple":
            assert torch.equal(pixels, own_pixels)


class Uploads(TorchDispatchMode):
    """Counts copies from one device to another."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if function is torch.ops.aten.copy_.default else args[0]
            self.count += source.device != result.device
        return result


@pytest.mark.parametrize("name", BATCHED)
def test_an_epoch_on_another_device_never_waits_for_it(name):
    """On tensors without values: whatever needs one on the host raises, as the mean loss at the epoch's end does."""
    uploads = []
    for count in (32, 32, 96):  # the first pass also uploads the tables that are kept
        steps = []
        model = build_model(ModelSpec("timm/resnet10t", 3, 3, 16, drop_path=0.1), 0).to("meta")
        on_device = examples("meta", count, values_at_once=2**14)
        settings = Optimiser(2, 16, 1e-2, 0.01, name="lamb", clip_norm=1.0)  # fused steps know no such device
        with Uploads() as copied, pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
            train(model, on_device, Recipe(name, 2, True, 3), settings, seed=1, after_step=steps.append)
        assert steps == list(range(1, count // 16 + 1))
        uploads.append(copied.count)
    assert uploads[1] == uploads[2]


@pytest.mark.gpu
@pytest.mark.parametrize("name", BATCHED)
def test_a_gpu_that_augments_trains_nearly_the_same_model(name):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    flat, seeds = {}, {"cpu": 1, "cuda": 1, "other": 2}
    for place, seed in seeds.items():
        model = build_model(ModelSpec("cnn", 3, 3, 16), seed).to("cuda")
        torch.cuda.set_sync_debug_mode("warn")  # and warnings are errors here
        try:
            source = examples("cpu" if place == "other" else place)
            train(model, source, Recipe(name, 2, True, 3), Optimiser(1, 16, 1e-3, 0.01), seed=seed)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        flat[place] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    between_seeds = torch.linalg.norm(flat["cpu"] - flat["other"])
    assert torch.linalg.norm(flat["cpu"] - flat["cuda"]) < 1e-2 * between_seeds
