"""Perceptual distances between clean and signed images: LPIPS and SSIM, a term of the objective, and a quality report.

Pixels are floats in [0, 1], stored images are uint8. The weights of LPIPS come as bytes or as a state dict: the caller
reads storage.

Why not torchmetrics: its SSIM averages over padded borders too, which moved CIFAR-100 images by up to 0.13 at 16/255 (3e-5 when
they are cropped); it takes no window below 11 px, which digits need; it subtracts large squares in fp32 (7e-4 on bright flat
images); its gradient takes 4.4 times as long at 224 px. Its LPIPS fetches weights from the network, enlarges no small image
and cannot keep the features of the clean images between steps.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, max_pool2d, relu

from taggants.errors import InputError
from taggants.perturbation.bounds import psnr_db

PerceptualDistance = Literal["lpips", "ssim"]
"""The distances that a configuration can name; for SSIM the distance is 1 - SSIM."""

LPIPS_MIN_SIDE = 64
"""Pixels on the shorter side that LPIPS sees at least. AlexNet's strides leave nothing of an image below 31 px; LPIPS was
calibrated on patches of 64 px (Zhang et al. 2018, section 2), so smaller images are enlarged to that."""

_OFFICIAL_NAMES = {
    **{f"conv{i}": f"net.slice{i + 1}.{index}" for i, index in enumerate((0, 3, 6, 8, 10))},
    **{f"lin{i}": f"lin{i}.model.1" for i in range(5)},
}
"""Our name of a layer -> its name in the packages lpips and torchmetrics."""


class Lpips(nn.Module):
    """Learned perceptual image patch similarity, v0.1 on AlexNet (Zhang, Isola, Efros, Shechtman, Wang, CVPR 2018).

    d(x, y) = sum_l mean_positions sum_c w_lc (f_lc(x) - f_lc(y))^2, where f_l are the activations after the five ReLUs,
    of unit length over channels at each position, and w_l >= 0 were fitted to human judgements (section 3, eq. 1).

    Images with a shorter side below 64 px are enlarged to it, bilinearly and with their aspect kept. The weights are frozen,
    in fp32; after `.to(torch.bfloat16)` the convolutions run in bf16 and the rest in fp32. On eight ImageNet images that
    changed the distance of noise of 1 level by 12% and of 16 levels by 0.2%, and the sign of 8% and 3% of the gradient.

    Size of the cached features of one image: 484,992 values at 224 px (1.94 MB in fp32, 248 MB for 128 images), 31,872 at
    64 px and below (127 kB); half of that in bf16.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Args:
            weights: conv{0..4}.{weight,bias} and lin{0..4}.weight, or the state dict of lpips.LPIPS(net="alex") or of
                torchmetrics' LPIPS network, whose names are translated; entries beyond these are ignored.

        Raises:
            InputError: a tensor is missing or of another shape.
        """
        super().__init__()
        # On the meta device nothing is drawn: no random start that the weights replace, no use of the global generator.
        with torch.device("meta"):
            self.conv0 = nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2)
            self.conv1 = nn.Conv2d(64, 192, kernel_size=5, padding=2)
            self.conv2 = nn.Conv2d(192, 384, kernel_size=3, padding=1)
            self.conv3 = nn.Conv2d(384, 256, kernel_size=3, padding=1)
            self.conv4 = nn.Conv2d(256, 256, kernel_size=3, padding=1)
            for layer, num_channels in enumerate((64, 192, 384, 256, 256)):
                self.add_module(f"lin{layer}", nn.Conv2d(num_channels, 1, kernel_size=1, bias=False))
        found = {name: weights.get(name, weights.get(_official_name(name))) for name in self.state_dict()}
        for name, expected in self.state_dict().items():
            tensor = found[name]
            if not isinstance(tensor, Tensor) or tensor.shape != expected.shape:
                shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else "absent"
                raise InputError(
                    f"LPIPS weights: {name} is {shape} and must be a tensor {tuple(expected.shape)}; give those of LPIPS "
                    'v0.1 on AlexNet, for example the state dict of lpips.LPIPS(net="alex")'
                )
        self.load_state_dict(
            {name: tensor.to(torch.float32) for name, tensor in found.items() if tensor is not None}, assign=True
        )
        self.requires_grad_(False)
        # The mean and deviation of ImageNet for pixels in [-1, 1], as rounded by the official code.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Returns the normalised activations: five tensors [N, C_l, H_l, W_l] in the dtype of the weights.

        Args:
            images: float [N, C, H, W] in [0, 1], C = 3, or 1, which counts as three equal channels.

        Raises:
            InputError: any other number of channels.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(f"LPIPS takes images [N, 1 or 3, H, W], not {list(images.shape)}; give grey or RGB images")
        sides = images.shape[-2:]
        dtype = self.conv0.weight.dtype
        pixels = images.to(torch.promote_types(dtype, torch.float32))
        if min(sides) < LPIPS_MIN_SIDE:
            enlarged = [round(side * LPIPS_MIN_SIDE / min(sides)) for side in sides]
            pixels = interpolate(pixels, size=enlarged, mode="bilinear", align_corners=False)
        # One channel is broadcast to three.
        activations = ((2 * pixels - 1 - self.shift) / self.scale).to(dtype)
        features = []
        for layer, conv in enumerate((self.conv0, self.conv1, self.conv2, self.conv3, self.conv4)):
            if layer in (1, 2):
                activations = max_pool2d(activations, kernel_size=3, stride=2)
            activations = relu(conv(activations))
            features.append(_unit_length(activations))
        return features

    def distance(self, features_clean: list[Tensor], images: Tensor) -> Tensor:
        """Returns d of each image to the one whose `features` are given: [N], fp32 (float64 for float64 weights), >= 0."""
        total = torch.zeros((), device=images.device)
        for layer, (clean, signed) in enumerate(zip(features_clean, self.features(images), strict=True)):
            weight = self.get_parameter(f"lin{layer}.weight")
            squares = (_at_least_fp32(signed) - _at_least_fp32(clean)).square()
            total = total + conv2d(squares, _at_least_fp32(weight)).mean(dim=(1, 2, 3))
        return total

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Returns d of each pair of images, [N]; arguments as in `features`."""
        return self.distance(self.features(first), second)


def lpips_from_bytes(data: bytes) -> Lpips:
    """Returns the network of a file that torch.save wrote of a state dict (see `Lpips`), on the CPU in fp32.

    Such a file is made, with the package lpips, by torch.save(lpips.LPIPS(net="alex").state_dict(), path).

    Raises:
        InputError: the bytes are no such file.
    """
    try:
        weights = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no set of errors for a file that is not its own
        raise InputError(
            f"LPIPS weights: {len(data):,} bytes are no file of tensors that torch.load(weights_only=True) reads; "
            "write it by torch.save of a state dict"
        ) from error
    if not isinstance(weights, Mapping):
        raise InputError(f"LPIPS weights: the file holds a {type(weights).__name__}, not a state dict; save that")
    return Lpips(weights)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Returns the structural similarity of each pair of images, in [-1, 1].

    The mean of eq. 13 of Wang, Bovik, Sheikh, Simoncelli (IEEE TIP 2004) over channels and over the positions where the
    window lies inside the image; Gaussian window of 11 x 11, sigma 1.5, K1 = 0.01, K2 = 0.03, no downsampling. An image
    with a side below 11 px gets the largest odd square window that fits, with the same sigma (8 px: 7 x 7).

    Args:
        first, second: float [N, C, H, W] in [0, 1], same shape.

    Returns: [N], fp32 (float64 for float64 images); differentiable.
    """
    first, second = _at_least_fp32(first), _at_least_fp32(second)
    size = min(11, *((side - 1) // 2 * 2 + 1 for side in first.shape[-2:]))
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    window = torch.exp(-offsets.square() / (2 * 1.5**2))
    num_channels = first.shape[1]
    down = (window / window.sum()).to(first).view(1, 1, -1, 1).repeat(num_channels, 1, 1, 1)
    across = down.transpose(2, 3)

    def local_mean(values: Tensor) -> Tensor:
        return conv2d(conv2d(values, down, groups=num_channels), across, groups=num_channels)

    # Centred first: E[x^2] - E[x]^2 of a bright flat image would lose in fp32 what c2 is compared with.
    centre = first.detach().mean(dim=(2, 3), keepdim=True)
    first, second = first - centre, second - centre
    mean_first, mean_second = local_mean(first), local_mean(second)
    variances = local_mean(first.square()) - mean_first.square() + local_mean(second.square()) - mean_second.square()
    covariance = local_mean(first * second) - mean_first * mean_second
    mean_first, mean_second = mean_first + centre, mean_second + centre
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_first * mean_second + c1) / (mean_first.square() + mean_second.square() + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


class PerceptualTerm:
    """weight * mean over a set of clean images of their distance to signed ones: a term of an objective to MINIMISE.

    Data Taggants minimises 1 - cosine + 0.01 * LPIPS (Bouaziz et al. 2025, release). The distance is taken at the size of
    the images, without augmentation. It is a mean over the WHOLE set, so gradients of slices of it are those of one batch.
    """

    def __init__(
        self,
        name: PerceptualDistance,
        weight: float,
        clean: Tensor,
        network: Lpips | None = None,
        *,
        cache_features: bool = True,
        microbatch: int = 32,
    ) -> None:
        """Args:
            name: "lpips" or "ssim". weight: at least 0.
            clean: [N, C, H, W], uint8 or float in [0, 1]; kept, on the device where images will be.
            network: on that device too; needed by "lpips" alone.
            cache_features: keep the features of the clean images (their size: see `Lpips`) instead of computing them anew
                for each gradient, which then costs a forward pass more; the gradient is the same.
            microbatch: clean images per pass while the cache is filled.

        Raises:
            InputError: unknown name, negative or infinite weight, "lpips" without a network.
        """
        if name not in get_args(PerceptualDistance):
            raise InputError(f"perceptual distance {name!r} is unknown; choose one of {get_args(PerceptualDistance)}")
        if not (math.isfinite(weight) and weight >= 0):
            raise InputError(f"perceptual weight {weight} must be finite and at least 0; for example 0.01")
        if name == "lpips" and network is None:
            raise InputError('perceptual distance "lpips" needs the weights of its network; give them or choose "ssim"')
        self.name = name
        self.weight = weight
        self._clean = clean
        self._features: list[Tensor] | None = None
        self._distance: Callable[[Tensor, slice], Tensor] = self._one_minus_ssim
        if network is not None and name == "lpips":
            self._network = network
            self._distance = self._lpips
            if cache_features:
                starts = range(0, len(clean), microbatch)
                parts = [self._clean_features(slice(start, start + microbatch)) for start in starts]
                self._features = [torch.cat(layers) for layers in zip(*parts, strict=True)]

    def distance(self, images: Tensor, rows: slice) -> Tensor:
        """Returns the distance of each image to its clean one, [n], without the weight; arguments as in `gradient`."""
        assert images.shape == self._clean[rows].shape, "images are those of the rows"
        return self._distance(images, rows)

    def gradient(self, images: Tensor, rows: slice) -> Tensor:
        """Returns weight * d(mean over the whole set of distance) / d images, like images.

        Args:
            images: float [n, C, H, W] in [0, 1], the signed images of `rows`; one batch: n bounds the memory.
            rows: where these images are in the set.
        """
        images = images.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.distance(images, rows).sum(), [images])
        return gradient * (self.weight / len(self._clean))

    def _one_minus_ssim(self, images: Tensor, rows: slice) -> Tensor:
        return 1 - ssim(_to_pixels(self._clean[rows]), images)

    def _lpips(self, images: Tensor, rows: slice) -> Tensor:
        cached = self._features
        clean = self._clean_features(rows) if cached is None else [layer[rows] for layer in cached]
        return self._network.distance(clean, images)

    @torch.no_grad()
    def _clean_features(self, rows: slice) -> list[Tensor]:
        return self._network.features(_to_pixels(self._clean[rows]))


@dataclass(frozen=True)
class ImageQuality:
    """psnr_db: over all pixels of all images, infinity when equal. ssim: mean over images, in [-1, 1]. lpips: mean over
    images, >= 0; None when not measured."""

    psnr_db: float
    ssim: float
    lpips: float | None


@torch.no_grad()
def image_quality(
    original: Tensor | Iterable[Tensor],
    signed: Tensor | Iterable[Tensor],
    lpips: Lpips | None = None,
    *,
    microbatch: int = 32,
) -> ImageQuality:
    """Returns the quality of final 8-bit images.

    Args:
        original, signed: uint8 [N, C, H, W], or as many images [C, H, W], of any sizes; may be generators, as no more than a
            microbatch is held.
        lpips: on the device of the images; None leaves LPIPS out.
        microbatch: the most images per pass; only neighbours of equal size share one.

    Raises:
        InputError: no images, unequal numbers or shapes, or not uint8.
    """
    squared_error, num_pixels, ssims, distances = 0, 0, list[Tensor](), list[Tensor]()
    for first, second in _batches_of_one_shape(original, signed, microbatch):
        squared_error += int((first.int() - second.int()).square().sum(dtype=torch.int64))
        num_pixels += first.numel()
        first, second = _to_pixels(first), _to_pixels(second)
        ssims.append(ssim(first, second))
        if lpips is not None:
            distances.append(lpips(first, second))
    if not ssims:
        raise InputError("image quality of 0 images is undefined; give at least 1")
    return ImageQuality(
        psnr_db=psnr_db(squared_error, num_pixels),
        ssim=float(torch.cat(ssims).double().mean()),
        lpips=float(torch.cat(distances).double().mean()) if lpips is not None else None,
    )


def _batches_of_one_shape(
    original: Iterable[Tensor], signed: Iterable[Tensor], microbatch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of uint8 [n, C, H, W], n <= microbatch, in order."""
    pairs = itertools.zip_longest(original, signed)
    for _, alike in itertools.groupby(pairs, key=_shape_of_pair):
        while batch := list(itertools.islice(alike, microbatch)):
            yield torch.stack([first for first, _ in batch]), torch.stack([second for _, second in batch])


def _shape_of_pair(pair: tuple[Tensor | None, Tensor | None]) -> torch.Size:
    first, second = pair
    if first is None or second is None:
        raise InputError("image quality takes as many signed images as originals, but one side ended early")
    if first.shape != second.shape or first.ndim != 3:
        raise InputError(f"image quality takes pairs [C, H, W], not {list(first.shape)} with {list(second.shape)}")
    if first.dtype != torch.uint8 or second.dtype != torch.uint8:
        raise InputError(f"image quality takes uint8 images, not {first.dtype} with {second.dtype}; round them first")
    return first.shape


def _official_name(name: str) -> str:
    layer, kind = name.split(".")
    return f"{_OFFICIAL_NAMES[layer]}.{kind}"


def _unit_length(activations: Tensor) -> Tensor:
    """Unit length over channels. The small number keeps the derivative finite where no channel is active."""
    wide = _at_least_fp32(activations)
    return (wide / torch.sqrt(wide.square().sum(dim=1, keepdim=True) + 1e-8)).to(activations.dtype)


def _at_least_fp32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _to_pixels(images: Tensor) -> Tensor:
    """Float images in [0, 1] of uint8 or float ones."""
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images
