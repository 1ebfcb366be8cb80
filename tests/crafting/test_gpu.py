"""On a CUDA device: what the CPU computes in float32, and the lower precisions near it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from taggants.alignment import ENGINES
from taggants.augmentation import ColourJitter, Compose, CropAndFlip, MixAugment, RandomResizedCrop, ThreeAugment
from taggants.crafting.signing_set import SigningSet, craft_signing_set, key_gradients
from taggants.models import ModelSpec, Precision, build_model
from taggants.perturbation.codec import JpegCodec
from tests.crafting.optimisation import OPTIMISATION

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

LONG = replace(
    OPTIMISATION,
    levels=16,
    num_steps=30,
    milestones=(15,),
    num_restarts=2,
    augmentation=Compose((CropAndFlip(4, True), ThreeAugment())),
    engine=ENGINES["one_sided"],
)


def reached(device, name, engine, dtype=torch.float32, compiled=False):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=generator, dtype=torch.uint8)
    key_image = torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8)
    model = build_model(ModelSpec(name, 10, 3, 32), seed=0).eval().to(device)
    if compiled:
        model.compile(dynamic=False)
    engine = ENGINES[engine]
    is_first_order = engine.is_first_order
    model = Precision(model, dtype, channels_last=True, is_first_order=is_first_order, is_compiled=compiled)
    signing_set = SigningSet(images.to(device), torch.full((20,), 3, device=device), torch.arange(20, device=device))
    keys = key_gradients([model], key_image.to(device), torch.tensor(3, device=device))
    return craft_signing_set([model], signing_set, keys, replace(LONG, engine=engine), seed=0).alignment


@pytest.mark.parametrize("name", ["cnn", "timm/resnet18", "timm/convnext_atto"])
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_float32_reaches_what_the_cpu_reaches(name, engine):
    assert reached("cuda", name, engine) == pytest.approx(reached("cpu", name, engine), abs=0.02)


@pytest.mark.parametrize("compiled", [False, True])
def test_bfloat16_and_compiled_kernels_stay_near(compiled):
    expected = reached("cuda", "timm/convnext_atto", "one_sided")
    assert reached("cuda", "timm/convnext_atto", "one_sided", torch.bfloat16, compiled) == pytest.approx(
        expected, abs=0.05
    )


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_no_step_waits_for_the_device(engine):
    """Torch raises where the host would wait."""
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=drawn, dtype=torch.uint8).cuda()
    codec = JpegCodec(torch.full((20, 3, 8, 8), 5), (2, 2), torch.full((20, 2), 32)).to("cuda")
    mixing = MixAugment(10).bind(images[:4], torch.arange(4, device="cuda"))
    label, ids = torch.tensor(3, device="cuda"), torch.arange(20, device="cuda")
    signing_set = SigningSet(images, label.expand(20), ids, codec=codec, mixing=mixing)
    strong = Compose((RandomResizedCrop(32), ThreeAugment(), ColourJitter(0.3)))
    is_first_order = ENGINES[engine].is_first_order
    model = build_model(ModelSpec("timm/resnet18", 10, 3, 32), seed=0).eval().cuda()
    model = Precision(model, torch.float32, channels_last=True, is_first_order=is_first_order)
    optimisation = replace(LONG, num_steps=4, num_restarts=1, augmentation=strong, engine=ENGINES[engine])
    steps = []

    def on_step():
        steps.append(1)
        torch.cuda.set_sync_debug_mode("error" if len(steps) < 4 else "default")

    try:
        keys = key_gradients([model], images[0], label)
        craft_signing_set([model], signing_set, keys, optimisation, seed=0, on_step=on_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == 4
