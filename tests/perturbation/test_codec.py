from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from taggants.perturbation import to_uint8
from taggants.perturbation.codec import Codec, GroupedCodec, JpegCodec, LosslessCodec

# Pillow's names of the sampling factors (horizontal, vertical) of the luma.
SUBSAMPLING = {(1, 1): 0, (2, 1): 1, (2, 2): 2}
# BT.601 in full range (JFIF 1.02), to as many digits as it gives.
RGB_TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
YCBCR_TO_RGB = np.array([[1, 0, 1.402], [1, -0.34414, -0.71414], [1, 1.772, 0]])


def picture(shape: tuple[int, int, int], seed: int, *, is_noise: bool) -> np.ndarray:
    """uint8 [C, H, W]: noise over the whole range, or a smooth image that is cut off at black and white."""
    rng = np.random.default_rng(seed)
    if is_noise:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    waves = np.cumsum(np.cumsum(rng.normal(0, 1, shape), axis=1), axis=2)
    return np.clip(rng.integers(0, 256, (shape[0], 1, 1)) + waves, 0, 255).astype(np.uint8)


def pillow_round_trip(image: np.ndarray, tables: np.ndarray, sampling: tuple[int, int]) -> np.ndarray:
    sink = io.BytesIO()
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    steps = [table.reshape(-1).tolist() for table in tables]
    Image.fromarray(pixels).save(sink, "JPEG", qtables=steps, subsampling=SUBSAMPLING[sampling])
    with Image.open(sink) as decoded:
        return np.array(decoded).reshape(*image.shape[1:], -1).transpose(2, 0, 1)


def on_canvas(images: list[np.ndarray], height: int, width: int) -> Tensor:
    """float [n, C, height, width]; beyond an image there is noise, which a codec has to ignore."""
    canvas = torch.rand(len(images), len(images[0]), height, width, generator=torch.Generator().manual_seed(1))
    for place, image in zip(canvas, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = torch.from_numpy(image.copy()) / 255
    return canvas


def sizes_of(images: list[np.ndarray]) -> Tensor:
    return torch.tensor([image.shape[1:] for image in images])


@settings(max_examples=300)
@given(
    sampling=st.sampled_from(sorted(SUBSAMPLING)),
    height=st.integers(1, 40),
    width=st.integers(5, 40),
    largest_step=st.sampled_from([1, 3, 20, 100, 255]),
    is_noise=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_colour_agrees_with_pillow_bit_for_bit(
    sampling: tuple[int, int], height: int, width: int, largest_step: int, is_noise: bool, seed: int
) -> None:
    image = picture((3, height, width), seed, is_noise=is_noise)
    tables = np.random.default_rng(seed).integers(1, largest_step + 1, (3, 8, 8))
    codec = JpegCodec(torch.from_numpy(tables)[None], sampling, torch.tensor([[height, width]]))
    seen = codec(torch.from_numpy(image)[None] / 255, slice(0, 1))
    assert to_uint8(seen)[0].tolist() == pillow_round_trip(image, tables, sampling).tolist()


@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    largest_step=st.sampled_from([1, 20, 255]),
    is_noise=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_grey_agrees_with_pillow_bit_for_bit(
    height: int, width: int, largest_step: int, is_noise: bool, seed: int
) -> None:
    image = picture((1, height, width), seed, is_noise=is_noise)
    tables = np.random.default_rng(seed).integers(1, largest_step + 1, (1, 8, 8))
    codec = JpegCodec(torch.from_numpy(tables)[None], (1, 1), torch.tensor([[height, width]]))
    decoded = pillow_round_trip(image, tables, (1, 1))
    for num_channels in (1, 3):  # as it is stored, and read as three channels
        pixels = torch.from_numpy(image)[None].expand(1, num_channels, -1, -1) / 255
        seen = to_uint8(codec(pixels, slice(0, 1)))[0]
        assert seen.tolist() == np.repeat(decoded, num_channels, axis=0).tolist()


@pytest.mark.parametrize("sampling", SUBSAMPLING)
def test_images_of_several_sizes_share_a_canvas(sampling: tuple[int, int]) -> None:
    shapes = [(3, 17, 23), (3, 31, 9), (3, 16, 32), (3, 31, 33), (3, 1, 5)]
    images = [picture(shape, i, is_noise=i % 2 == 0) for i, shape in enumerate(shapes)]
    tables = np.random.default_rng(0).integers(1, 40, (5, 3, 8, 8))
    codec = JpegCodec(torch.from_numpy(tables), sampling, sizes_of(images))
    canvas = on_canvas(images, 31, 33)
    expected = [pillow_round_trip(i, t, sampling) for i, t in zip(images, tables, strict=True)]
    for rows in (slice(0, 5), slice(1, 3), slice(4, 9)):
        seen = to_uint8(codec(canvas[rows], rows))
        for got, image in zip(seen, expected[rows], strict=True):
            height, width = image.shape[1:]
            assert got[:, :height, :width].tolist() == image.tolist()
            # Beyond the image its border goes on.
            padded = np.pad(image, [(0, 0), (0, 31 - height), (0, 33 - width)], mode="edge")
            assert got.tolist() == padded.tolist()


def blocks_through_dct(plane: np.ndarray) -> np.ndarray:
    """The two-dimensional DCT and its inverse, block by block over a plane continued at its border."""
    height, width = plane.shape
    padded = np.pad(plane, [(0, -height % 8), (0, -width % 8)], mode="edge")
    for top in range(0, len(padded), 8):
        for left in range(0, padded.shape[1], 8):
            block = padded[top : top + 8, left : left + 8]
            padded[top : top + 8, left : left + 8] = scipy.fft.idctn(scipy.fft.dctn(block, norm="ortho"), norm="ortho")
    return padded[:height, :width]


def without_roundings(image: np.ndarray, sampling: tuple[int, int]) -> np.ndarray:
    """JPEG pixel by pixel in float64 with nothing rounded and no quantisation: [3, H, W] to [3, H, W]."""
    across, down = sampling
    _, height, width = image.shape
    ycbcr = np.einsum("kc,chw->khw", RGB_TO_YCBCR, image)
    planes = [blocks_through_dct(ycbcr[0])]
    for plane in ycbcr[1:]:
        small = np.empty((-(-height // down), -(-width // across)))
        for i, j in np.ndindex(small.shape):
            rows = [min(down * i + k, height - 1) for k in range(down)]
            columns = [min(across * j + k, width - 1) for k in range(across)]
            small[i, j] = np.mean([plane[row, column] for row in rows for column in columns])
        small = blocks_through_dct(small)
        large = np.empty((height, width))
        for i, j in np.ndindex(large.shape):
            large[i, j] = sum(
                row_weight * column_weight * small[row, column]
                for row, row_weight in neighbours(i, down, len(small))
                for column, column_weight in neighbours(j, across, small.shape[1])
            )
        planes.append(large)
    return np.einsum("ck,khw->chw", YCBCR_TO_RGB, np.stack(planes))


def neighbours(place: int, factor: int, length: int) -> list[tuple[int, float]]:
    if factor == 1:
        return [(place, 1.0)]
    near = place // 2
    far = near + (1 if place % 2 else -1)
    return [(near, 0.75), (min(max(far, 0), length - 1), 0.25)]


@pytest.mark.parametrize("sampling", SUBSAMPLING)
@pytest.mark.parametrize("size", [(16, 16), (13, 11)])
def test_the_derivative_is_that_of_the_steps_without_roundings(
    sampling: tuple[int, int], size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(5)
    image = rng.uniform(0.2, 0.8, (3, *size))
    weights = rng.normal(size=(3, *size))
    codec = JpegCodec(torch.full((1, 3, 8, 8), 30), sampling, torch.tensor([size]))
    pixels = torch.from_numpy(image)[None].requires_grad_()
    seen = codec(pixels, slice(0, 1))
    (gradient,) = torch.autograd.grad((seen[0] * torch.from_numpy(weights)).sum(), [pixels])
    for _ in range(5):
        direction = rng.normal(size=image.shape)
        up, down = (without_roundings(image + step * direction, sampling) for step in (0.5, -0.5))  # it is linear
        # The constants of the standard have four digits, the codec's 16 bits.
        assert float((gradient[0].numpy() * direction).sum()) == pytest.approx(
            float(((up - down) * weights).sum()), abs=0.02
        )


def test_the_derivative_is_finite_where_the_value_is_clipped() -> None:
    codec = JpegCodec(torch.full((1, 3, 8, 8), 255), (2, 2), torch.tensor([[16, 16]]))
    pixels = torch.from_numpy(picture((3, 16, 16), 0, is_noise=True))[None].gt(127).float().requires_grad_()
    (gradient,) = torch.autograd.grad(codec(pixels, slice(0, 1)).sum(), [pixels])
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient, torch.ones_like(gradient))  # a grey change goes through as it is


def test_what_lies_beyond_an_image_has_no_derivative_of_its_own() -> None:
    # The border goes on, so the pixels beyond add their derivative to it.
    for codec in (
        LosslessCodec(torch.tensor([[4, 5]])),
        JpegCodec(torch.ones(1, 3, 8, 8, dtype=torch.int64), (1, 1), torch.tensor([[4, 5]])),
    ):
        pixels = torch.rand(1, 3, 6, 8, requires_grad=True)
        (gradient,) = torch.autograd.grad(codec(pixels, slice(0, 1)).sum(), [pixels])
        expected = torch.zeros(6, 8)
        expected[:4, :5] = 1
        expected[3, :5], expected[:4, 4], expected[3, 4] = 3, 4, 12
        torch.testing.assert_close(gradient[0], expected.expand(3, 6, 8))


def test_a_grey_file_read_as_three_channels_stores_their_mean() -> None:
    codec = JpegCodec(torch.full((1, 1, 8, 8), 7), (1, 1), torch.tensor([[10, 12]]))
    pixels = torch.rand(1, 3, 10, 12, requires_grad=True)
    stored = codec.to_stored(pixels, slice(0, 1))
    assert stored.shape == pixels.shape
    assert torch.equal(stored[0, 0], to_uint8(pixels.mean(dim=1))[0])
    assert torch.equal(stored, stored[:, :1].expand(-1, 3, -1, -1))
    seen = codec(pixels, slice(0, 1))
    assert (
        to_uint8(seen)[0, :1].tolist()
        == pillow_round_trip(stored[0, :1].numpy(), codec.tables[0].numpy(), (1, 1)).tolist()
    )
    weights = torch.rand(3, 10, 12)
    (gradient,) = torch.autograd.grad((seen[0] * weights).sum(), [pixels])
    # Equal channels, so steps along the gradient keep them equal.
    torch.testing.assert_close(gradient[0], weights.mean(dim=0).expand(3, 10, 12))


def test_lossless_files_only_round() -> None:
    pixels = torch.rand(2, 3, 4, 5, requires_grad=True)
    codec = LosslessCodec()
    seen = codec(pixels, slice(0, 2))
    torch.testing.assert_close(seen, torch.round(pixels * 255) / 255)
    assert torch.equal(to_uint8(seen), codec.to_stored(pixels, slice(0, 2)))
    (gradient,) = torch.autograd.grad(seen.sum(), [pixels])
    assert torch.equal(gradient, torch.ones_like(pixels))


def mixed_set() -> tuple[Codec, list[Codec], Tensor]:
    """A codec of seven images, that of each image alone, and the images on one canvas."""
    shapes = [(12, 20), (16, 16), (9, 9), (12, 20), (7, 13), (16, 20), (16, 20)]
    sizes = torch.tensor(shapes)
    tables = torch.from_numpy(np.random.default_rng(3).integers(1, 50, (7, 3, 8, 8)))
    kinds: list[tuple[int, ...] | str] = [(2, 2), "PNG", (1, 1), (2, 2), "grey", "PNG", (2, 1)]

    def codec(places: list[int]) -> Codec:
        kind = kinds[places[0]]
        if kind == "PNG":
            return LosslessCodec(sizes[places])
        if kind == "grey":
            return JpegCodec(tables[places, :1], (1, 1), sizes[places])
        return JpegCodec(tables[places], (int(kind[0]), int(kind[1])), sizes[places])

    groups = [[0, 3], [1, 5], [2], [4], [6]]
    grouped = GroupedCodec(tuple(codec(group) for group in groups), tuple(torch.tensor(group) for group in groups))
    canvas = torch.rand(7, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    return grouped, [codec([i]) for i in range(7)], canvas


@pytest.mark.parametrize("rows", [slice(0, 7), slice(0, 1), slice(1, 3), slice(2, 6), slice(4, 16)])
def test_a_set_stored_in_several_ways_is_that_of_its_images(rows: slice) -> None:
    codec, alone, canvas = mixed_set()
    pixels = canvas[rows].clone().requires_grad_()
    seen = codec(pixels, rows)
    one_by_one = torch.cat([alone[i](canvas[i : i + 1], slice(0, 1)) for i in range(7)[rows]])
    assert torch.equal(seen, one_by_one)
    stored = torch.cat([alone[i].to_stored(canvas[i : i + 1], slice(0, 1)) for i in range(7)[rows]])
    assert torch.equal(codec.to_stored(pixels, rows), stored)
    weights = torch.rand(seen.shape)
    (gradient,) = torch.autograd.grad((seen * weights).sum(), [pixels])
    leaves = canvas.clone().requires_grad_()
    one_by_one = torch.cat([alone[i](leaves[i : i + 1], slice(0, 1)) for i in range(7)[rows]])
    (expected,) = torch.autograd.grad((one_by_one * weights).sum(), [leaves])
    torch.testing.assert_close(gradient, expected[rows])


def test_what_is_seen_follows_from_what_is_stored() -> None:
    codec, _, canvas = mixed_set()
    stored = codec.to_stored(canvas, slice(0, 7))
    assert torch.equal(to_uint8(codec(stored / 255, slice(0, 7))), to_uint8(codec(canvas, slice(0, 7))))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_device_gives_the_same_bits() -> None:
    codec, _, canvas = mixed_set()
    seen = codec.to("cuda")(canvas.to("cuda"), slice(0, 7))
    assert torch.equal(to_uint8(seen).cpu(), to_uint8(codec(canvas, slice(0, 7))))
