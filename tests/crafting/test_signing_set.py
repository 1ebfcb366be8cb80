from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from taggants.alignment import ENGINES, key_gradient
from taggants.augmentation import CropAndFlip, MixAugment, RandomResizedCrop, ResizeAndCentreCrop
from taggants.crafting.signing_set import (
    SigningSet,
    craft_signing_set,
    key_gradients,
    objective_and_pixel_gradient,
)
from taggants.models import ModelSpec, build_model
from taggants.perturbation.codec import JpegCodec
from taggants.perturbation.perceptual import PerceptualTerm
from tests.crafting.optimisation import OPTIMISATION
from tests.tiny_models import smooth_net


def drawn(*shape, seed=4):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def grey_set(size=6, count=5, **fields):
    return SigningSet(drawn(count, 1, size, size), torch.full((count,), 1), torch.arange(count) * 7 + 3, **fields)


def craft(signing_set, optimisation=OPTIMISATION, *, seed=0, nets=None, **kwargs):
    nets = nets or [smooth_net().float()]
    keys = key_gradients(nets, drawn(1, 6, 6, seed=9), torch.tensor(1))
    return craft_signing_set(nets, signing_set, keys, optimisation, seed=seed, **kwargs)


def test_cosine_and_pixel_gradient_equal_one_graph_over_the_whole_set():
    """The oracle keeps one graph over all images and views and differentiates the cosine itself."""
    signing_set = grey_set(dtype=torch.float64)
    net, clean, ids = smooth_net(), signing_set.clean(slice(None)), signing_set.image_ids
    key = key_gradient(net, drawn(1, 6, 6, seed=9).double() / 255, torch.tensor(1))
    # Steps of 1/255 so that rounding is exact and the straight-through estimate is the true derivative.
    delta = torch.randint(-9, 10, clean.shape, generator=torch.Generator().manual_seed(0)).double() / 255
    delta = (clean + delta).clamp(0, 1) - clean
    cosine, gradient = objective_and_pixel_gradient(net, signing_set, delta, key, OPTIMISATION, seed=5, step=3)

    leaf = delta.clone().requires_grad_(True)
    loss = sum(
        cross_entropy(
            net(OPTIMISATION.augmentation(clean + leaf, ids, seed=5, step=3, view=v)),
            signing_set.labels,
            reduction="sum",
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
def test_microbatch_changes_nothing_but_rounding(microbatch):
    signing_set, net = grey_set(dtype=torch.float64), smooth_net()
    key = key_gradient(net, drawn(1, 6, 6, seed=9).double() / 255, torch.tensor(1))
    delta = torch.zeros_like(signing_set.clean(slice(None)))
    whole = objective_and_pixel_gradient(net, signing_set, delta, key, OPTIMISATION, seed=1, step=0)
    cut = replace(OPTIMISATION, microbatch=microbatch)
    parts = objective_and_pixel_gradient(net, signing_set, delta, key, cut, seed=1, step=0)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("engine", ["double_backward", "one_sided"])
def test_another_microbatch_reaches_the_same_alignment(engine):
    """Signs turn rounding into steps now and then; what the set reaches stays within 1e-3."""
    optimisation = replace(OPTIMISATION, num_steps=40, milestones=(20,), engine=ENGINES[engine])
    reached = [craft(grey_set(), replace(optimisation, microbatch=m)).alignment for m in (64, 4, 2)]
    assert max(reached) - min(reached) < 1e-3


def test_crafting_raises_alignment_within_the_ball_and_repeats_itself():
    net = build_model(ModelSpec("cnn", num_classes=10, channels=1, image_size=8), seed=0).eval()
    signing_set = replace(grey_set(8), images=drawn(5, 1, 8, 8, seed=5) // 2)
    keys = key_gradients([net], drawn(1, 8, 8, seed=6), torch.tensor(1))
    optimisation = replace(OPTIMISATION, num_steps=60, milestones=(20, 40), augmentation=CropAndFlip(0, False))
    crafted = craft_signing_set([net], signing_set, keys, optimisation, seed=0)
    assert 1 - crafted.alignment < 0.7 * (1 - crafted.alignment_before)
    assert 0 < (crafted.images.int() - signing_set.images.int()).abs().max() <= OPTIMISATION.levels
    assert torch.equal(crafted.images, crafted.read), "lossless: readers get what was stored"
    assert len(crafted.history) == 60
    torch.manual_seed(123)
    again = craft_signing_set([net], signing_set, keys, optimisation, seed=0)
    assert torch.equal(crafted.images, again.images)
    assert not torch.equal(crafted.images, craft_signing_set([net], signing_set, keys, optimisation, seed=1).images)


def test_best_of_several_restarts_is_kept():
    single = [craft(grey_set(), seed=s) for s in range(3)]
    best = craft(grey_set(), replace(OPTIMISATION, num_restarts=3, halving=False))
    assert best.alignment == max(one.alignment for one in single)


def test_halving_runs_half_the_restarts_on_each_time():
    steps = []
    optimisation = replace(OPTIMISATION, num_restarts=4)
    kept = craft(grey_set(), optimisation, on_step=lambda: steps.append(1))
    # 4 restarts to 12 / 4 steps, 2 to 12 / 2, 1 to the end.
    assert len(steps) == 4 * 3 + 2 * 3 + 1 * 6
    assert optimisation.most_steps == len(steps)
    assert len(kept.history) == 12
    single = [craft(grey_set(), seed=s).alignment for s in range(4)]
    assert kept.alignment in single, "a kept restart is one that ran alone would be"


def test_a_converged_run_shrinks_its_step_and_ends():
    steps = []
    never_enough = replace(OPTIMISATION, num_steps=60, milestones=(30,), convergence_window=3, convergence_gain=2.0)
    crafted = craft(grey_set(), never_enough, on_step=lambda: steps.append(1))
    # Two windows to the first comparison, which jumps to step 30; one more, which ends the run.
    assert len(steps) == len(crafted.history) == 9
    always_enough = replace(never_enough, convergence_gain=-2.0)
    assert len(craft(grey_set(), always_enough).history) == 60


def test_an_ensemble_takes_the_mean_and_a_cycle_takes_turns():
    torch.manual_seed(3)
    nets = [smooth_net().float(), smooth_net().float()]
    with torch.no_grad():
        for parameter in nets[1].parameters():
            parameter.mul_(1.3).add_(0.01)
    optimisation = replace(OPTIMISATION, num_steps=4)
    looped, cycled = (craft(grey_set(), replace(optimisation, cycle=c), nets=nets) for c in (False, True))
    alone = [craft(grey_set(), optimisation, nets=[net]) for net in nets]
    # Before the first step all see the same start.
    assert looped.history[0] == pytest.approx((alone[0].history[0] + alone[1].history[0]) / 2, abs=1e-6)
    assert cycled.history[0] == pytest.approx(alone[0].history[0], abs=1e-6)
    assert not torch.equal(looped.images, cycled.images)


def test_a_strong_perceptual_term_keeps_images_closer():
    def change(weight):
        signing_set = grey_set(12)
        term = PerceptualTerm("ssim", weight, signing_set.images) if weight else None
        net = build_model(ModelSpec("cnn", num_classes=3, channels=1, image_size=12), seed=0).eval()
        keys = key_gradients([net], drawn(1, 12, 12, seed=9), torch.tensor(1))
        crafted = craft_signing_set([net], signing_set, keys, OPTIMISATION, seed=0, perceptual=term)
        return (crafted.images.int() - signing_set.images.int()).float().square().mean()

    assert change(1000.0) < 0.7 * change(0.0)


def test_mixed_labels_reach_every_engine():
    mix = MixAugment(num_classes=3).bind(drawn(4, 1, 6, 6, seed=2), torch.tensor([0, 1, 2, 0]))
    signing_set, net = replace(grey_set(dtype=torch.float64), mixing=mix), smooth_net()
    key = key_gradient(net, drawn(1, 6, 6, seed=9).double() / 255, torch.tensor(1))
    delta = torch.zeros_like(signing_set.clean(slice(None)))
    reference = objective_and_pixel_gradient(net, signing_set, delta, key, OPTIMISATION, seed=1, step=0)
    for name, engine in ENGINES.items():
        got = objective_and_pixel_gradient(
            net, signing_set, delta, key, replace(OPTIMISATION, engine=engine), seed=1, step=0
        )
        assert cosine_similarity(got[1].flatten(), reference[1].flatten(), dim=0) > 0.999, name
    unmixed = objective_and_pixel_gradient(net, grey_set(dtype=torch.float64), delta, key, OPTIMISATION, seed=1, step=0)
    assert not torch.allclose(unmixed[1], reference[1])


def test_native_sizes_and_jpeg_go_through_the_loop():
    """Two sizes on one canvas: nothing outside an image changes what is crafted, and readers see the decoded JPEG."""
    sizes = torch.tensor([[16, 11], [13, 16], [16, 16]])
    inside = (torch.arange(16)[None, :, None] < sizes[:, :1, None]) & (
        torch.arange(16)[None, None] < sizes[:, 1:, None]
    )
    images = drawn(3, 3, 16, 16)
    tables = torch.full((3, 3, 8, 8), 6)
    net = build_model(ModelSpec("cnn", num_classes=3, channels=3, image_size=8), seed=0).eval()
    keys = key_gradients([net], drawn(3, 8, 8, seed=9), torch.tensor(1))
    optimisation = replace(
        OPTIMISATION, augmentation=RandomResizedCrop(8), evaluation=ResizeAndCentreCrop(8, crop_fraction=1.0)
    )

    def crafted_from(canvas):
        signing_set = SigningSet(
            canvas, torch.full((3,), 1), torch.arange(3), sizes=sizes, codec=JpegCodec(tables, (2, 2), sizes)
        )
        return craft_signing_set([net], signing_set, keys, optimisation, seed=0)

    crafted = crafted_from(torch.where(inside[:, None], images, 0))
    assert crafted.alignment > crafted.alignment_before
    assert ((crafted.images.int() - images.int()).abs() * inside[:, None]).max() <= OPTIMISATION.levels
    assert not torch.equal(crafted.images, crafted.read), "a reader of a JPEG sees other pixels"


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
