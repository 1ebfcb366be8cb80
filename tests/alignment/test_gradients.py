from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from taggants.alignment import alignment, alignment_direction, key_gradient, loss_gradient, loss_gradient_and_base
from tests.tiny_models import smooth_net


def flat(gradient):
    return torch.cat([part.flatten() for part in gradient])


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(5, 1, 6, 6, generator=generator, dtype=torch.float64)
    return images, torch.tensor([0, 1, 2, 1, 1]), torch.rand(1, 6, 6, generator=generator, dtype=torch.float64)


def test_loss_gradient_is_the_sum_of_single_sample_gradients(batch):
    images, labels, _ = batch
    net = smooth_net()
    expected = torch.zeros(sum(p.numel() for p in net.parameters()), dtype=torch.float64)
    for image, label in zip(images, labels, strict=True):
        net.zero_grad()
        cross_entropy(net(image[None]), label[None]).backward()
        expected += torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(flat(loss_gradient(net, images, labels)), expected)


def test_alignment_is_torchs_cosine_similarity(batch):
    images, labels, key_image = batch
    net = smooth_net()
    key, signing = key_gradient(net, key_image, torch.tensor(1)), loss_gradient(net, images, labels)
    torch.testing.assert_close(alignment(key, signing), cosine_similarity(flat(key), flat(signing), dim=0))


def test_alignment_of_a_vanished_gradient_is_zero_and_has_no_direction(batch):
    images, labels, key_image = batch
    net = smooth_net()
    key = key_gradient(net, key_image, torch.tensor(1))
    nothing = [torch.zeros_like(part) for part in key]
    assert alignment(key, nothing) == 0
    cosine, direction = alignment_direction(nothing, loss_gradient(net, images, labels))
    assert cosine == 0
    assert flat(direction).abs().max() == 0


def test_direction_is_the_derivative_of_the_cosine(batch):
    images, labels, key_image = batch
    net = smooth_net()
    key, signing = key_gradient(net, key_image, torch.tensor(1)), loss_gradient(net, images, labels)
    leaf = flat(signing).clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(cosine_similarity(flat(key), leaf, dim=0), [leaf])
    torch.testing.assert_close(flat(alignment_direction(key, signing)[1]), expected)


def test_base_is_the_pixel_gradient_and_comes_with_the_same_loss_gradient(batch):
    images, labels, _ = batch
    net = smooth_net()
    gradient, base = loss_gradient_and_base(net, images, labels)
    torch.testing.assert_close(flat(gradient), flat(loss_gradient(net, images, labels)))
    leaf = images.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(cross_entropy(net(leaf), labels, reduction="sum"), [leaf])
    torch.testing.assert_close(base.gradient, expected)
    assert base.pattern == ()
