from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from taggants.alignment import ENGINES, key_gradient
from taggants.augmentation import CropAndFlip
from taggants.crafting.signing_set import Optimisation, alignment_and_pixel_gradient, craft_signing_set
from taggants.models import ModelSpec, build_model
from tests.tiny_models import smooth_net

OPTIMISATION = Optimisation(
    levels=32,
    num_steps=12,
    step_size=0.3,
    milestones=(6,),
    decay=0.3,
    momentum=0.9,
    num_restarts=1,
    num_views=2,
    microbatch=64,
    initial_noise=0.5,
    augmentation=CropAndFlip(1, True),
    engine=ENGINES["double_backward"],
)


@pytest.fixture
def signing_set():
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(0, 256, (5, 1, 6, 6), generator=generator, dtype=torch.uint8)
    key_image = torch.randint(0, 256, (1, 6, 6), generator=generator, dtype=torch.uint8)
    return images, torch.full((5,), 1), torch.tensor([10, 4, 7, 99, 3]), key_image, torch.tensor(1)


def test_cosine_and_pixel_gradient_equal_one_graph_over_the_whole_set(signing_set):
    """The oracle keeps one graph over all images and views and differentiates the cosine itself."""
    images, labels, ids, key_image, key_label = signing_set
    net = smooth_net()
    clean = images.double() / 255
    key = key_gradient(net, key_image.double() / 255, key_label)
    # Steps of 1/255 so that rounding is exact and the straight-through estimate is the true derivative.
    delta = torch.randint(-9, 10, clean.shape, generator=torch.Generator().manual_seed(0)).double() / 255
    delta = (clean + delta).clamp(0, 1) - clean
    cosine, gradient = alignment_and_pixel_gradient(net, clean, delta, labels, ids, key, OPTIMISATION, seed=5, step=3)

    leaf = delta.clone().requires_grad_(True)
    loss = sum(
        cross_entropy(
            net(OPTIMISATION.augmentation(clean + leaf, ids, seed=5, step=3, view=v)), labels, reduction="sum"
        )
        for v in range(2)
    )
    signing = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
    expected = cosine_similarity(
        torch.cat([t.flatten() for t in key]), torch.cat([p.flatten() for p in signing]), dim=0
    )
    (expected_gradient,) = torch.autograd.grad(expected, [leaf])
    torch.testing.assert_close(cosine, expected.detach())
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("microbatch", [1, 2, 3, 5])
def test_microbatch_changes_nothing_but_rounding(signing_set, microbatch):
    images, labels, ids, key_image, key_label = signing_set
    net = smooth_net()
    clean = images.double() / 255
    key = key_gradient(net, key_image.double() / 255, key_label)
    delta = torch.zeros_like(clean)
    whole = alignment_and_pixel_gradient(net, clean, delta, labels, ids, key, OPTIMISATION, seed=1, step=0)
    parts = alignment_and_pixel_gradient(
        net, clean, delta, labels, ids, key, replace(OPTIMISATION, microbatch=microbatch), seed=1, step=0
    )
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-15)


def test_crafting_raises_alignment_within_the_ball_and_repeats_itself():
    net = build_model(ModelSpec("cnn", num_classes=10, channels=1, image_size=8), seed=0).eval()
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (5, 1, 8, 8), generator=generator, dtype=torch.uint8) // 2
    key_image = torch.randint(0, 256, (1, 8, 8), generator=generator, dtype=torch.uint8)
    inputs = (images, torch.full((5,), 1), torch.tensor([10, 4, 7, 99, 3]), key_image, torch.tensor(1))
    optimisation = replace(OPTIMISATION, num_steps=60, milestones=(20, 40), augmentation=CropAndFlip(0, False))
    crafted = craft_signing_set([net], *inputs, optimisation, seed=0)
    assert 1 - crafted.alignment < 0.7 * (1 - crafted.alignment_before)
    assert 0 < (crafted.images.int() - images.int()).abs().max() <= OPTIMISATION.levels
    assert len(crafted.history) == 60
    torch.manual_seed(123)
    again = craft_signing_set([net], *inputs, optimisation, seed=0)
    assert torch.equal(crafted.images, again.images)
    assert not torch.equal(crafted.images, craft_signing_set([net], *inputs, optimisation, seed=1).images)


def test_best_of_several_restarts_is_kept(signing_set):
    images, labels, ids, key_image, key_label = signing_set
    net = smooth_net().float()
    single = [
        craft_signing_set([net], images, labels, ids, key_image, key_label, OPTIMISATION, seed=s) for s in range(3)
    ]
    best = craft_signing_set(
        [net], images, labels, ids, key_image, key_label, replace(OPTIMISATION, num_restarts=3), seed=0
    )
    assert best.alignment == max(one.alignment for one in single)


def test_average_of_signs_equals_torch_adam_on_signs():
    generator = torch.Generator().manual_seed(0)
    signs = [torch.randn(20, generator=generator).sign() for _ in range(9)]
    leaf = torch.zeros(20, requires_grad=True)
    adam = torch.optim.Adam([leaf], lr=0.1, eps=0.0)
    ours, average = torch.zeros(20), torch.zeros(20)
    for step, sign in enumerate(signs):
        leaf.grad = sign.clone()
        adam.step()
        average = 0.9 * average + 0.1 * sign
        ours = ours - 0.1 * average / (1 - 0.9 ** (step + 1))
    torch.testing.assert_close(ours, leaf.detach())
