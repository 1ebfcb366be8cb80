from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from taggants.alignment.convolutions import DepthwiseConv2d, FewPixelsConv2d, TilingConv2d, speed_up_convolutions
from taggants.models import Precision


def gradients(module, images):
    leaf = images.clone().requires_grad_(True)
    out = module(leaf)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return out, *torch.autograd.grad((out * weights).sum(), [leaf, *module.parameters()])


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 9), (16, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_depthwise_gradients_are_those_of_the_library(kernel, size, bias):
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 6, kernel, padding=kernel // 2, groups=6, bias=bias).double()
    fast = copy.deepcopy(convolution)
    speed_up_convolutions(fast)
    assert isinstance(fast, DepthwiseConv2d)
    images = torch.randn(3, 6, *size, dtype=torch.float64)
    for got, expected in zip(gradients(fast, images), gradients(convolution, images), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kernel", [1, 2, 4])
@pytest.mark.parametrize("size", [(4, 4), (5, 11), (8, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_tiling_convolutions_are_those_of_the_library(kernel, size, bias):
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 5, kernel, stride=kernel, bias=bias).double()
    fast = copy.deepcopy(convolution)
    speed_up_convolutions(fast)
    assert isinstance(fast, TilingConv2d)
    images = torch.randn(3, 3, *size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    for got, expected in zip(gradients(fast, images), gradients(convolution, images), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 1, 1), (3, 2, 1), (5, 1, 2), (7, 2, 3), (3, 1, 0), (1, 2, 0), (2, 1, 1), (2, 3, 0), (1, 2, 1), (2, 3, 2)],
)
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 2), (4, 4), (6, 5), (9, 9)])
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_that_leave_few_pixels_are_those_of_the_library(kernel, stride, padding, size, bias):
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 5, kernel, stride=stride, padding=padding, bias=bias).double()
    fast = copy.deepcopy(convolution).to(memory_format=torch.channels_last if bias else torch.contiguous_format)
    speed_up_convolutions(fast)
    assert isinstance(fast, FewPixelsConv2d)
    images = torch.randn(4, 3, *size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    if min(size) + 2 * padding < kernel:
        with pytest.raises(RuntimeError):
            fast(images)
        return
    for got, expected in zip(gradients(fast, images), gradients(convolution, images), strict=True):
        torch.testing.assert_close(got, expected)


def test_few_pixels_are_left_where_the_product_is_used(monkeypatch):
    """Else the test above might compare the library with itself."""
    used = []
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *given: used.append(1) or linear(*given))
    fast = nn.Conv2d(3, 5, 3, stride=2, padding=1).to(memory_format=torch.channels_last)
    speed_up_convolutions(fast)
    for size, is_used in ((1, True), (2, True), (4, True), (5, False), (8, False)):
        used.clear()
        fast(torch.randn(2, 3, size, size).contiguous(memory_format=torch.channels_last))
        assert bool(used) == is_used


def test_only_convolutions_of_that_kind_change():
    others = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=(1, 0)),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, stride=2, groups=4),
        nn.Conv2d(4, 4, 3, padding=0, groups=4),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 4, 2, stride=2, groups=2),
        nn.Conv2d(4, 4, 2, stride=2, dilation=2),
        nn.Conv2d(4, 4, (2, 1), stride=(2, 1)),
    )
    speed_up_convolutions(others)
    assert all(type(module) is nn.Conv2d for module in others)


def test_what_gains_nothing_takes_the_library_s_way():
    convolution = nn.Conv2d(2, 2, 3, padding=1, groups=2)
    speed_up_convolutions(convolution)
    assert "Depthwise" in type(convolution(torch.randn(1, 2, 16, 16)).grad_fn).__name__
    assert "Depthwise" not in type(convolution(torch.randn(1, 2, 17, 16)).grad_fn).__name__
    pointwise = nn.Conv2d(2, 3, 1)
    speed_up_convolutions(pointwise)
    images = torch.randn(2, 2, 8, 8)
    assert "Convolution" in type(pointwise(images).grad_fn).__name__
    images = images.contiguous(memory_format=torch.channels_last)
    assert "Convolution" not in type(pointwise(images).grad_fn).__name__
    larger = torch.randn(2, 2, 9, 8).contiguous(memory_format=torch.channels_last)
    assert "Convolution" in type(pointwise(larger).grad_fn).__name__
    convolution.requires_grad_(False)
    assert not convolution(torch.randn(1, 2, 4, 4)).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "size"), [("convnext_atto", 64), ("resnet10t", 32)])
def test_networks_keep_their_gradients(name, size, dtype):
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=5).eval()
    images, labels = torch.rand(4, 3, size, size), torch.tensor([0, 1, 2, 3])
    found = []
    for is_first_order in (False, True):
        precise = Precision(copy.deepcopy(model), dtype, channels_last=True, is_first_order=is_first_order)
        loss = nn.functional.cross_entropy(precise(images), labels, reduction="sum")
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(precise.parameters()))]))
    assert nn.functional.cosine_similarity(*found, dim=0) > (0.999999 if dtype == torch.float32 else 0.999)
