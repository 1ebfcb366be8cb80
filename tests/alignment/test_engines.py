from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn
from torch.func import functional_call, grad, jvp
from torch.nn.functional import cosine_similarity, cross_entropy

from taggants.alignment import ENGINES, gate_kinks, loss_gradient, loss_gradient_and_base
from taggants.alignment.engines import STEP_WITH_KINKS, _moved
from tests.tiny_models import smooth_net

EXACT = ("double_backward", "jvp")
FINITE_DIFFERENCES = ("central", "one_sided")


def small_network(name: str) -> nn.Module:
    """Of each family, small enough for double precision on a CPU."""
    sizes = {
        "vit": ("vit_tiny_patch16_224", {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}),
        "convnext": ("convnext_atto", {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1)}),
        "resnet": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}),
    }
    model, options = sizes[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(model, pretrained=False, num_classes=5, **options)
    return network.double().eval()


def example(size: int, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 3, size, size, generator=generator, dtype=torch.float64)
    return images, torch.tensor([0, 3, 4])


def random_direction(model: nn.Module):
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.detach().std().nan_to_num(1)
        for p in model.parameters()
    ]


def oracle(model, images, labels, direction):
    """Reverse over reverse through torch.func: shares no code with the engines."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    along = dict(zip(weights, direction, strict=True))

    def inner_product(pixels):
        def loss(parameters):
            return cross_entropy(functional_call(model, parameters, (pixels,)), labels, reduction="sum")

        gradient = grad(loss)(weights)
        return sum((gradient[name] * along[name]).sum() for name in weights)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return grad(inner_product)(images)


def by_engine(name, model, images, labels, direction):
    engine = ENGINES[name]
    base = loss_gradient_and_base(model, images, labels)[1] if engine.needs_base else None
    return engine.bind(model, direction)(images, labels, base)


def cosine(first, second):
    return float(cosine_similarity(first.flatten(), second.flatten(), dim=0))


@pytest.mark.parametrize("family", ["vit", "convnext", "resnet"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_engines_equal_the_oracle(name, family):
    model = small_network(family)
    images, labels = example(16 if family == "vit" else 32)
    direction = random_direction(model)
    expected = oracle(model, images, labels, direction)
    assert expected.abs().max() > 0
    torch.testing.assert_close(by_engine(name, model, images, labels, direction), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", ["vit", "convnext"])
@pytest.mark.parametrize("name", FINITE_DIFFERENCES)
def test_finite_differences_agree_with_the_oracle_on_smooth_networks(name, family):
    model = small_network(family)
    images, labels = example(16 if family == "vit" else 32)
    direction = random_direction(model)
    expected, found = oracle(model, images, labels, direction), by_engine(name, model, images, labels, direction)
    assert cosine(expected, found) > 0.999
    assert (expected.sign() == found.sign()).double().mean() > 0.98


@pytest.mark.parametrize("name", FINITE_DIFFERENCES)
def test_finite_differences_agree_with_the_oracle_on_relu_networks_behind_gates(name):
    model, gated = small_network("resnet"), small_network("resnet")  # with a max-pooling
    gate_kinks(gated)
    images, labels = example(32)
    direction = random_direction(model)
    expected = oracle(model, images, labels, direction)
    found, kinked = (by_engine(name, network, images, labels, direction) for network in (gated, model))
    assert cosine(expected, found) > 0.999
    assert (expected.sign() == found.sign()).double().mean() > 0.98
    assert cosine(expected, kinked) < 0.99, "the gates are what does it"


@pytest.mark.parametrize("name", FINITE_DIFFERENCES)
def test_finite_differences_on_relu_networks_are_the_change_of_the_pixel_gradient_over_a_whole_step(name):
    """They see the kinks that autograd takes as flat; what must hold is that they are what they say, for any step."""
    model = small_network("resnet")
    images, labels = example(32)
    direction = random_direction(model)
    found = by_engine(name, model, images, labels, direction)
    norms = [torch.cat([t.flatten() for t in tensors]).norm() for tensors in (list(model.parameters()), direction)]
    h = STEP_WITH_KINKS * norms[0] / norms[1]
    ends = []
    for sign in (1.0, -1.0 if name == "central" else 0.0):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for parameter, v in zip(moved.parameters(), direction, strict=True):
                parameter += sign * h * v
        leaf = images.clone().requires_grad_(True)
        ends.append(torch.autograd.grad(cross_entropy(moved(leaf), labels, reduction="sum"), [leaf])[0])
    expected = (ends[0] - ends[1]) / (h * (2 if name == "central" else 1))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_engines_converge_to_finite_differences_of_the_inner_product(name):
    """An oracle without second derivatives: <v, grad_theta L> at pixels moved one by one."""
    net = smooth_net()
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(5, 1, 6, 6, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 1])
    direction = random_direction(net)

    def inner_product(pixels):
        return float(sum((g * v).sum() for g, v in zip(loss_gradient(net, pixels, labels), direction, strict=True)))

    pixels = by_engine(name, net, images, labels, direction)
    step, tolerance = 1e-5, 1e-6 if name in EXACT else 1e-2
    for index in [(0, 0, 0, 0), (1, 0, 3, 2), (4, 0, 5, 5)]:
        up, down = images.clone(), images.clone()
        up[index] += step
        down[index] -= step
        expected = (inner_product(up) - inner_product(down)) / (2 * step)
        assert float(pixels[index]) == pytest.approx(expected, rel=tolerance, abs=tolerance * float(pixels.abs().max()))


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_vanished_direction_gives_a_vanished_gradient(name):
    net = smooth_net()
    images, labels = torch.rand(2, 1, 6, 6, dtype=torch.float64), torch.tensor([0, 1])
    nothing = [torch.zeros_like(p) for p in net.parameters()]
    assert by_engine(name, net, images, labels, nothing).abs().max() == 0


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_engines_leave_the_weights_alone(name):
    model = small_network("resnet")
    before = [p.detach().clone() for p in model.parameters()]
    images, labels = example(32)
    by_engine(name, model, images, labels, random_direction(model))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_reverse_over_forward_is_still_wrong_through_layer_norm():
    """pytorch #196700, as of torch 2.14.1: why `jvp` is forward over reverse. When this fails, torch has fixed it."""
    model = small_network("vit")
    images, labels = example(16)
    direction = random_direction(model)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    tangents = dict(zip(weights, direction, strict=True))

    def along(pixels):
        def loss(parameters):
            return cross_entropy(functional_call(model, parameters, (pixels,)), labels, reduction="sum")

        return jvp(loss, (weights,), (tangents,))[1]

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        wrong = grad(along)(images)
    expected = oracle(model, images, labels, direction)
    assert (wrong - expected).norm() / expected.norm() > 0.01
    right = by_engine("jvp", model, images, labels, direction)
    assert (right - expected).norm() / expected.norm() < 1e-9


def test_moved_weights_keep_their_memory_layout():
    """Another layout is another kernel, and other rounding."""
    weight = torch.randn(4, 2, 3, 3).to(memory_format=torch.channels_last)
    direction = torch.randn(4, 2, 3, 3)
    moved = _moved({"weight": weight}, [direction], torch.tensor(0.5))["weight"]
    assert moved.stride() == weight.stride() != direction.stride()
    torch.testing.assert_close(moved, weight + 0.5 * direction, rtol=0, atol=0)
