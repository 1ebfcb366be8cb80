from __future__ import annotations

import io
import itertools
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import alexnet

from taggants.errors import InputError
from taggants.perturbation.perceptual import ImageQuality, Lpips, PerceptualTerm, image_quality, lpips_from_bytes, ssim

CONVS = {0: 0, 1: 3, 2: 6, 3: 8, 4: 10}
"""Our number of a convolution -> its index in torchvision's AlexNet."""


def noisy(images: Tensor, levels: int, seed: int = 0) -> Tensor:
    """uint8 images moved by noise uniform over -levels..levels."""
    noise = torch.randint(-levels, levels + 1, images.shape, generator=torch.Generator().manual_seed(seed))
    return (images.int() + noise).clamp(0, 255).to(torch.uint8)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """uint8 images."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def random_weights() -> dict[str, Tensor]:
    with torch.device("meta"):
        layers = alexnet().features
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}
    for ours, theirs in CONVS.items():
        shape = layers[theirs].weight.shape
        spread = math.sqrt(2 / math.prod(shape[1:]))
        weights[f"conv{ours}.weight"] = spread * torch.randn(shape, generator=generator)
        weights[f"conv{ours}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
        weights[f"lin{ours}.weight"] = torch.rand(1, shape[0], 1, 1, generator=generator)
    return weights


@pytest.fixture(scope="module")
def real_lpips(real_data: Path) -> Lpips:
    return lpips_from_bytes((real_data / "lpips" / "lpips_alex_v0.1_fp16.pt").read_bytes())


@pytest.fixture(scope="module")
def real_images(real_data: Path) -> list[Tensor]:
    """Six ImageNet images at their own sizes, uint8 [3, H, W]."""
    images = []
    with tarfile.open(real_data / "imagenet_sample.tar") as archive:
        for member in archive:
            if not member.isfile() or member.size > 60_000:
                continue
            with Image.open(io.BytesIO(archive.extractfile(member).read())) as image:
                images.append(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous())
            if len(images) == 6:
                return images
    raise AssertionError("the sample holds fewer than six small images")


def reference_lpips(weights: dict[str, Tensor], first: Tensor, second: Tensor) -> list[float]:
    """Zhang et al. 2018 on torchvision's AlexNet, position by position in float64; images of at least 64 px."""
    with torch.device("meta"):
        network = alexnet().features
    named = {f"{CONVS[i]}.{kind}": weights[f"conv{i}.{kind}"].double() for i in CONVS for kind in ("weight", "bias")}
    network.load_state_dict(named, assign=True)
    mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])

    def activations(image: Tensor) -> list[Tensor]:
        x = torch.stack([(2 * image[c] - 1 - mean[c]) / deviation[c] for c in range(3)])[None]
        found = []
        for layer in network:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x[0].clone())  # the next layers work in place
        return found

    distances = []
    for one, other in zip(first.double(), second.double(), strict=True):
        total = 0.0
        for i, (a, b) in enumerate(zip(activations(one), activations(other), strict=True)):
            lin = weights[f"lin{i}.weight"].double().flatten()
            at_positions = []
            for row in range(a.shape[1]):
                for column in range(a.shape[2]):
                    u, v = a[:, row, column], b[:, row, column]
                    difference = u / (u.norm() + 1e-10) - v / (v.norm() + 1e-10)
                    at_positions.append(float((lin * difference**2).sum()))
            total += sum(at_positions) / len(at_positions)
        distances.append(total)
    return distances


@torch.no_grad()
def test_lpips_is_the_published_formula(random_weights):
    first, second = drawn(2, 3, 64, 80).double() / 255, noisy(drawn(2, 3, 64, 80), 20).double() / 255
    expected = reference_lpips(random_weights, first, second)
    assert Lpips(random_weights).double()(first, second).tolist() == pytest.approx(expected, rel=1e-6)
    assert Lpips(random_weights)(first.float(), second.float()).tolist() == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_real_lpips_is_the_published_formula(real_lpips, real_images):
    clean = torch.stack([image[:, :96, :96] for image in real_images[:2]])
    first, second = clean / 255, noisy(clean, 8) / 255
    expected = reference_lpips(real_lpips.state_dict(), first, second)
    assert real_lpips(first, second).tolist() == pytest.approx(expected, rel=1e-4)


def test_lpips_gradient_is_that_of_finite_differences(random_weights):
    network = Lpips(random_weights).double()
    clean, images = drawn(1, 3, 16, 20).double() / 255, noisy(drawn(1, 3, 16, 20), 30).double() / 255
    term = PerceptualTerm("lpips", 1.0, clean, network)
    gradient = term.gradient(images, slice(0, 1))
    for seed in range(3):
        direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ahead, behind = (network(clean, images + h * direction) for h in (1e-7, -1e-7))
        assert float((gradient * direction).sum()) == pytest.approx(float((ahead - behind) / 2e-7), rel=1e-4)


@torch.no_grad()
def test_real_distance_grows_with_noise_is_symmetric_and_vanishes_only_at_identity(real_lpips, real_images):
    for image in (real_images[0][None], real_images[1][None, :, :32, :32]):
        clean = image / 255
        by_levels = [float(real_lpips(clean, noisy(image, levels) / 255)) for levels in (0, 2, 8, 32)]
        assert by_levels[0] == 0
        assert all(less < more for less, more in itertools.pairwise(by_levels))
        assert float(real_lpips(noisy(image, 8) / 255, clean)) == pytest.approx(by_levels[2], rel=1e-6)
        structural = [float(1 - ssim(clean, noisy(image, levels) / 255)) for levels in (0, 2, 8, 32)]
        assert structural[0] == pytest.approx(0, abs=1e-6)
        assert all(less < more for less, more in itertools.pairwise(structural))


@torch.no_grad()
def test_real_lpips_in_bf16_agrees_coarsely(real_lpips, real_images):
    clean = torch.stack([image[:, :96, :96] for image in real_images[:2]])
    narrow = lpips_from_bytes(_saved(real_lpips.state_dict())).to(torch.bfloat16)
    assert {layer.dtype for layer in narrow.features(clean / 255)} == {torch.bfloat16}
    assert float(narrow(clean / 255, clean / 255).max()) == 0
    distance = narrow(clean / 255, noisy(clean, 16) / 255)
    assert distance.dtype == torch.float32
    torch.testing.assert_close(distance, real_lpips(clean / 255, noisy(clean, 16) / 255), rtol=0.05, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (28, 40)])
def test_small_images_are_enlarged_with_their_aspect_kept(random_weights, height, width):
    network = Lpips(random_weights)
    images = drawn(2, 3, height, width) / 255
    enlarged = nn.Upsample(size=(64, 64 * width // height), mode="bilinear", align_corners=False)(images)
    for small, large in zip(network.features(images), network.features(enlarged), strict=True):
        torch.testing.assert_close(small, large)


@torch.no_grad()
def test_grey_counts_as_three_equal_channels(random_weights):
    network = Lpips(random_weights)
    grey, other = drawn(2, 1, 32, 32) / 255, drawn(2, 1, 32, 32, seed=1) / 255
    expected = network(grey.repeat(1, 3, 1, 1), other.repeat(1, 3, 1, 1))
    torch.testing.assert_close(network(grey, other), expected)


def test_where_no_channel_is_active_distance_and_gradient_are_zero_not_nan(random_weights):
    dead = random_weights | {"conv0.bias": torch.full((64,), -1e3), "conv1.bias": torch.full((192,), -1.0)}
    term = PerceptualTerm("lpips", 1.0, drawn(1, 3, 64, 64), Lpips(dead))
    images = drawn(1, 3, 64, 64, seed=1) / 255
    assert float(term.distance(images, slice(0, 1))) == 0
    assert torch.equal(term.gradient(images, slice(0, 1)), torch.zeros_like(images))


def test_lpips_is_frozen_and_leaves_the_global_generator_alone(random_weights):
    before = torch.random.get_rng_state()
    network = Lpips(random_weights)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(("side", "num_values"), [(224, 484_992), (64, 31_872), (8, 31_872)])
def test_size_of_the_cached_features_is_the_documented_one(random_weights, side, num_values):
    features = Lpips(random_weights).features(torch.zeros(1, 3, side, side))
    assert sum(layer.numel() for layer in features) == num_values


def _saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@torch.no_grad()
def test_the_names_of_the_package_lpips_are_read_too(random_weights):
    slices = {0: "slice1.0", 1: "slice2.3", 2: "slice3.6", 3: "slice4.8", 4: "slice5.10"}
    official = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
    for i, name in slices.items():
        official[f"net.{name}.weight"] = random_weights[f"conv{i}.weight"].half()
        official[f"net.{name}.bias"] = random_weights[f"conv{i}.bias"].half()
        official[f"lin{i}.model.1.weight"] = random_weights[f"lin{i}.weight"].half()
    read = lpips_from_bytes(_saved(official)).state_dict()
    assert read.keys() == random_weights.keys()
    for name, tensor in read.items():
        assert torch.equal(tensor, random_weights[name].half().float())


def test_a_wrong_file_of_weights_is_refused(random_weights):
    with pytest.raises(InputError, match="9 bytes are no file of tensors"):
        lpips_from_bytes(b"not torch")
    with pytest.raises(InputError, match="no file of tensors"):
        lpips_from_bytes(_saved(random_weights)[:10_000])
    with pytest.raises(InputError, match="the file holds a list"):
        lpips_from_bytes(_saved([1, 2]))
    incomplete = {name: tensor for name, tensor in random_weights.items() if name != "lin3.weight"}
    with pytest.raises(InputError, match=r"lin3\.weight is absent"):
        lpips_from_bytes(_saved(incomplete))
    with pytest.raises(InputError, match=r"conv0\.bias is \(96,\) and must be a tensor \(64,\)"):
        Lpips(random_weights | {"conv0.bias": torch.zeros(96)})


def test_two_channels_are_refused(random_weights):
    with pytest.raises(InputError, match=r"not \[1, 2, 64, 64\]"):
        Lpips(random_weights).features(torch.zeros(1, 2, 64, 64))


def slow_ssim(first: Tensor, second: Tensor, size: int) -> float:
    """Wang et al. 2004, eq. 13 to 17, window by window for one image [C, H, W], by weighted sums about the means."""
    middle = size // 2
    window = np.array(
        [[math.exp(-((r - middle) ** 2 + (c - middle) ** 2) / (2 * 1.5**2)) for c in range(size)] for r in range(size)]
    )
    window /= window.sum()
    values = []
    for x, y in zip(first.double().numpy(), second.double().numpy(), strict=True):
        for row in range(x.shape[0] - size + 1):
            for column in range(x.shape[1] - size + 1):
                u, v = (plane[row : row + size, column : column + size] for plane in (x, y))
                mean_u, mean_v = (window * u).sum(), (window * v).sum()
                var_u, var_v = (window * (u - mean_u) ** 2).sum(), (window * (v - mean_v) ** 2).sum()
                cov = (window * (u - mean_u) * (v - mean_v)).sum()
                c1, c2 = 0.01**2, 0.03**2
                similarity = (2 * mean_u * mean_v + c1) * (2 * cov + c2)
                values.append(similarity / ((mean_u**2 + mean_v**2 + c1) * (var_u + var_v + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(14, 13, 11), (11, 12, 11), (10, 20, 9), (8, 8, 7), (3, 5, 3), (2, 9, 1)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_the_published_formula(height, width, size, channels):
    first = drawn(2, channels, height, width)
    second = noisy(first, 60)
    expected = [slow_ssim(a / 255, b / 255, size) for a, b in zip(first, second, strict=True)]
    assert ssim(first / 255, second / 255).tolist() == pytest.approx(expected, abs=1e-6)


def test_ssim_of_bright_flat_images_keeps_its_digits_in_fp32():
    flat = torch.ones(1, 1, 16, 16)
    expected = (2 * 254 / 255 + 1e-4) / (1 + (254 / 255) ** 2 + 1e-4)
    assert float(ssim(flat, flat * 254 / 255)) == pytest.approx(expected, abs=1e-6)


def test_ssim_is_that_of_piq(real_images):
    piq = pytest.importorskip("piq")
    for image in real_images:
        patch = image[None, :, :96, :80]
        first, second = patch / 255, noisy(patch, 16) / 255
        expected = piq.ssim(first.double(), second.double(), reduction="none", downsample=False)
        torch.testing.assert_close(ssim(first.double(), second.double()), expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(ssim(first, second).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [8, 12])
def test_ssim_gradient_is_that_of_finite_differences(side):
    first, second = (drawn(1, 2, side, side, seed=seed).double().div(255).requires_grad_(True) for seed in (0, 1))
    assert torch.autograd.gradcheck(ssim, (first, second))


@pytest.fixture(params=["lpips", "ssim"])
def name(request):
    return request.param


def test_term_is_the_gradient_of_the_weighted_mean_whatever_the_microbatch(name, random_weights):
    network = Lpips(random_weights)
    clean = drawn(5, 3, 32, 32)
    images = noisy(clean, 16) / 255
    whole = images.clone().requires_grad_(True)
    distances = network(clean / 255, whole) if name == "lpips" else 1 - ssim(clean / 255, whole)
    (expected,) = torch.autograd.grad(0.01 * distances.mean(), [whole])
    for clean_given, cache_features in ((clean, True), (clean, False), (clean / 255, True)):
        term = PerceptualTerm(name, 0.01, clean_given, network, cache_features=cache_features, microbatch=3)
        for microbatch in (1, 2, 5, 8):
            slices = [slice(start, start + microbatch) for start in range(0, 5, microbatch)]
            gradient = torch.cat([term.gradient(images[rows], rows) for rows in slices])
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    torch.testing.assert_close(term.distance(images[1:3], slice(1, 3)), distances[1:3].detach())


def test_term_vanishes_at_the_clean_images_and_a_step_against_it_brings_them_nearer(name, random_weights):
    clean = drawn(2, 3, 32, 32)
    term = PerceptualTerm(name, 1.0, clean, Lpips(random_weights))
    rows = slice(0, 2)
    assert float(term.gradient(clean / 255, rows).abs().max()) < 1e-6
    images = noisy(clean, 16) / 255
    nearer = images - 0.2 / 255 * term.gradient(images, rows).sign()
    assert bool((term.distance(nearer, rows) < term.distance(images, rows)).all())


def test_term_refuses_bad_arguments():
    clean = drawn(1, 3, 8, 8)
    with pytest.raises(InputError, match="'psnr' is unknown"):
        PerceptualTerm("psnr", 0.01, clean)
    with pytest.raises(InputError, match="needs the weights"):
        PerceptualTerm("lpips", 0.01, clean)
    for weight in (-0.01, math.nan, math.inf):
        with pytest.raises(InputError, match="must be finite and at least 0"):
            PerceptualTerm("ssim", weight, clean)


def psnr_by_hand(original: np.ndarray, signed: np.ndarray) -> float:
    return 10 * np.log10(255.0**2 / np.mean((original.astype(np.float64) - signed.astype(np.float64)) ** 2))


def test_quality_is_the_mean_over_images_and_psnr_is_over_pixels(random_weights):
    network = Lpips(random_weights)
    original = drawn(5, 3, 24, 24)
    signed = torch.cat([noisy(original[:3], 16), original[3:]])
    quality = image_quality(original, signed, network, microbatch=2)
    assert quality.psnr_db == pytest.approx(psnr_by_hand(original.numpy(), signed.numpy()), rel=1e-12)
    first, second = original / 255, signed / 255
    assert quality.ssim == pytest.approx(float(ssim(first, second).mean()), rel=1e-6)
    assert quality.lpips == pytest.approx(float(network(first, second).mean()), rel=1e-5)
    assert image_quality(original, signed).lpips is None


def test_quality_takes_images_of_different_sizes(random_weights):
    network = Lpips(random_weights)
    original = [drawn(3, *sides) for sides in ((24, 24), (24, 24), (30, 70), (24, 24), (9, 12))]
    signed = [noisy(image, 16, seed=seed) for seed, image in enumerate(original)]
    quality = image_quality((image for image in original), signed, network)
    single = [image_quality(a[None], b[None], network) for a, b in zip(original, signed, strict=True)]
    assert quality.ssim == pytest.approx(np.mean([one.ssim for one in single]), rel=1e-6)
    assert quality.lpips == pytest.approx(np.mean([one.lpips for one in single]), rel=1e-5)
    pixels, signed_pixels = (torch.cat([image.flatten() for image in side]).numpy() for side in (original, signed))
    assert quality.psnr_db == pytest.approx(psnr_by_hand(pixels, signed_pixels), rel=1e-12)


def test_quality_of_equal_images():
    original = drawn(2, 3, 16, 16)
    assert image_quality(original, original) == ImageQuality(psnr_db=math.inf, ssim=pytest.approx(1.0), lpips=None)


@pytest.mark.parametrize(
    ("original", "signed", "message"),
    [
        (drawn(2, 3, 8, 8), drawn(1, 3, 8, 8), "one side ended early"),
        (drawn(1, 3, 8, 8), drawn(1, 3, 8, 9), r"not \[3, 8, 8\] with \[3, 8, 9\]"),
        (drawn(1, 3, 8, 8), drawn(1, 3, 8, 8) / 255, "uint8 images, not torch.uint8 with torch.float32"),
        ([], [], "0 images"),
    ],
)
def test_quality_refuses_what_does_not_match(original, signed, message):
    with pytest.raises(InputError, match=message):
        image_quality(original, signed)
