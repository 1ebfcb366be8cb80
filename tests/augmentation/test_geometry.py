from __future__ import annotations

import hashlib
import io
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import transforms
from torchvision.transforms import functional

from taggants.augmentation import CropAndFlip, RandomResizedCrop, ResizeAndCentreCrop
from taggants.errors import InputError
from tests.augmentation.test_draws import word_in_plain_integers

DRAW = {"seed": 3, "step": 2, "view": 1}


def crop_and_flip_one(image, image_id, padding, flip, seed, step, view):
    """Pads, mirrors and cuts one numpy image [C, H, W]."""
    size = image.shape[1]

    def draw(stream, bound):
        return word_in_plain_integers(image_id, seed, step, view, stream) * bound >> 32

    if flip and draw(2, 2) == 1:
        # the mirror comes after the cut in the tensor version's index arithmetic: position -> mirrored -> shifted
        shift = draw(1, 2 * padding + 1)
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
        top = draw(0, 2 * padding + 1)
        return padded[:, top : top + size, shift : shift + size][:, :, ::-1]
    top, left = draw(0, 2 * padding + 1), draw(1, 2 * padding + 1)
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
    return padded[:, top : top + size, left : left + size]


@settings(deadline=None, max_examples=30)
@given(padding=st.integers(0, 4), flip=st.booleans(), seed=st.integers(0, 2**32 - 1), size=st.integers(5, 9))
def test_crop_and_flip_equals_numpy_padding_and_slicing(padding, flip, seed, size):
    images = torch.rand(6, 2, size, size, generator=torch.Generator().manual_seed(seed))
    ids = torch.tensor([3, 1, 4, 15, 9, 2**33])
    augmented = CropAndFlip(padding, flip)(images, ids, seed=seed, step=5, view=1)
    for image, image_id, result in zip(images.numpy(), ids.tolist(), augmented.numpy(), strict=True):
        np.testing.assert_array_equal(result, crop_and_flip_one(image, image_id, padding, flip, seed, 5, 1))


@pytest.mark.parametrize(
    ("augment", "sha256"),
    [
        (CropAndFlip(4, True), "ff0a2026df2fc3f081235d44f62d6d7db0029aaf86c513dd51dd654a3b85f794"),
        (CropAndFlip(2, False), "583cc734f131e35db42efa877900cfc5062b3b6367942e9439fc38615caa03eb"),
    ],
)
def test_bytes_of_crop_and_flip_stay_as_in_earlier_runs(augment, sha256):
    images = (torch.arange(6 * 2 * 7 * 9) * 37 % 256).reshape(6, 2, 7, 9).float() / 255
    ids = torch.tensor([3, 1, 4, 15, 9, 2**33])
    augmented = augment(images, ids, seed=2**40 + 5, step=11, view=1)
    levels = (augmented * 255).round().to(torch.uint8)
    assert hashlib.sha256(levels.numpy().tobytes()).hexdigest() == sha256


def test_draws_do_not_depend_on_batch_or_order_or_the_global_generator():
    images, ids = torch.rand(6, 1, 8, 8), torch.tensor([5, 3, 8, 1, 0, 2])
    augment = CropAndFlip(2, True)
    whole = augment(images, ids, seed=7, step=3, view=0)
    torch.manual_seed(99)
    parts = torch.cat([augment(images[i : i + 1], ids[i : i + 1], seed=7, step=3, view=0) for i in range(6)])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, augment(images, ids, seed=7, step=4, view=0))


def test_padding_as_large_as_the_image_is_refused():
    with pytest.raises(InputError, match="crop padding 8 must be below the image size 8"):
        CropAndFlip(8, False)(torch.rand(1, 1, 8, 8), torch.tensor([0]), seed=0, step=0, view=0)


def test_padding_of_images_of_several_sizes_is_refused():
    with pytest.raises(InputError, match="resize them first"):
        CropAndFlip(2, False)(
            torch.rand(1, 1, 8, 8), torch.tensor([0]), seed=0, step=0, view=0, sizes=torch.tensor([[8, 8]])
        )


def smooth_picture(height, width, seed):
    """A uint8 picture with detail at all scales, [H, W, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def on_canvas(pictures):
    """uint8 [H, W, 3] each -> float canvas [N, 3, Hmax, Wmax] in [0, 1] and sizes [N, 2]."""
    sizes = torch.tensor([picture.shape[:2] for picture in pictures])
    canvas = torch.full((len(pictures), 3, *sizes.amax(dim=0).tolist()), 0.7)
    for place, picture in zip(canvas, pictures, strict=True):
        place[:, : picture.shape[0], : picture.shape[1]] = torch.from_numpy(picture.transpose(2, 0, 1).copy()) / 255
    return canvas, sizes


def native_size_pictures():
    shapes = [(50, 33), (20, 61), (40, 40), (7, 90), (90, 7)]  # the last two leave no window but the central one
    return [smooth_picture(*shape, seed) for seed, shape in enumerate(shapes)]


def test_crops_equal_torchvisions_of_pillow_images_within_a_level():
    pictures = native_size_pictures() * 4
    canvas, sizes = on_canvas(pictures)
    ids = torch.arange(len(pictures))
    augment = RandomResizedCrop(24)
    crops = augment(canvas, ids, **DRAW, sizes=sizes)
    drawn = augment.windows(sizes[:, 0], sizes[:, 1], ids, **DRAW)
    assert 0 < drawn.flip.sum() < len(pictures)
    for i, (picture, crop) in enumerate(zip(pictures, crops, strict=True)):
        window = [int(field[i]) for field in (drawn.top, drawn.left, drawn.height, drawn.width)]
        expected = functional.resized_crop(Image.fromarray(picture), *window, [24, 24])
        if drawn.flip[i]:
            expected = functional.hflip(expected)
        error = crop.numpy().transpose(1, 2, 0) * 255 - np.asarray(expected, dtype=np.float64)
        assert np.abs(error).max() <= 1 + 1e-4


@pytest.mark.parametrize(("image_size", "crop_fraction"), [(28, 0.875), (24, 1.0), (19, 0.9)])
def test_evaluation_transform_equals_torchvisions_within_a_level(image_size, crop_fraction):
    pictures = native_size_pictures()
    canvas, sizes = on_canvas(pictures)
    results = ResizeAndCentreCrop(image_size, crop_fraction)(canvas, torch.arange(5), **DRAW, sizes=sizes)
    reference = transforms.Compose(
        [transforms.Resize(int(image_size / crop_fraction)), transforms.CenterCrop(image_size)]
    )
    for picture, result in zip(pictures, results, strict=True):
        expected = np.asarray(reference(Image.fromarray(picture)), dtype=np.float64)
        assert np.abs(result.numpy().transpose(1, 2, 0) * 255 - expected).max() <= 1 + 1e-4


def test_crops_of_photographs_equal_torchvisions(real_data):
    with tarfile.open(real_data / "imagenet_sample.tar") as tar:
        photographs = [member for member in tar.getmembers() if member.isfile() and "JPEG" in member.name][:3]
        pictures = [
            np.asarray(Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")) for member in photographs
        ]
    canvas, sizes = on_canvas(pictures)
    ids = torch.arange(3)
    for augment in (RandomResizedCrop(64), ResizeAndCentreCrop(64)):
        results = augment(canvas, ids, **DRAW, sizes=sizes)
        for i, (picture, result) in enumerate(zip(pictures, results, strict=True)):
            image = Image.fromarray(picture)
            if isinstance(augment, RandomResizedCrop):
                drawn = augment.windows(sizes[:, 0], sizes[:, 1], ids, **DRAW)
                window = [int(field[i]) for field in (drawn.top, drawn.left, drawn.height, drawn.width)]
                expected = functional.resized_crop(image, *window, [64, 64])
                expected = functional.hflip(expected) if drawn.flip[i] else expected
            else:
                expected = functional.center_crop(functional.resize(image, 73), [64, 64])
            error = result.numpy().transpose(1, 2, 0) * 255 - np.asarray(expected, dtype=np.float64)
            assert np.abs(error).max() <= 1 + 1e-4


@pytest.mark.parametrize(("height", "width"), [(40, 60), (30, 90), (7, 90), (90, 7)])
def test_windows_are_distributed_as_torchvisions(height, width):
    count, scale, ratio = 3000, (0.35, 1.0), (3 / 4, 4 / 3)
    ones = torch.ones(count, dtype=torch.int64)
    drawn = RandomResizedCrop(8).windows(height * ones, width * ones, torch.arange(count), **DRAW)
    ours = torch.stack([drawn.top, drawn.left, drawn.height, drawn.width]).numpy()
    assert ours.min() >= 0
    assert (ours[0] + ours[2]).max() <= height
    assert (ours[1] + ours[3]).max() <= width
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.empty(1, height, width)
        theirs = np.array([transforms.RandomResizedCrop.get_params(image, scale, ratio) for _ in range(count)]).T
    for mine, reference in zip([*ours, ours[2] * ours[3]], [*theirs, theirs[2] * theirs[3]], strict=True):
        assert ks_2samp(mine, reference, method="asymp").pvalue > 1e-3
    assert abs(drawn.flip.double().mean() - 0.5) < 0.03
    unflipped = RandomResizedCrop(8, flip=False).windows(height * ones, width * ones, torch.arange(count), **DRAW)
    assert not unflipped.flip.any()


def test_area_and_log_ratio_are_uniform_where_every_first_try_fits():
    ones = torch.ones(20_000, dtype=torch.int64)
    drawn = RandomResizedCrop(8, scale=(0.1, 0.5)).windows(800 * ones, 800 * ones, torch.arange(20_000), **DRAW)
    share = drawn.height * drawn.width / 800**2
    log_ratio = torch.log(drawn.width / drawn.height) / np.log(4 / 3)
    assert abs(share.mean() - 0.3) < 0.004  # 5 standard errors
    assert abs(share.std() - 0.4 / 12**0.5) < 0.004
    assert abs(log_ratio.mean()) < 0.02
    assert abs(log_ratio.std() - 2 / 12**0.5) < 0.02


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomResizedCrop(0), "image size 0"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 1.5)), "crop scale"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 0.4)), "crop scale"),
        (lambda: RandomResizedCrop(8, ratio=(0.0, 1.0)), "crop ratio"),
        (lambda: ResizeAndCentreCrop(8, 1.2), "crop fraction 1.2"),
    ],
)
def test_impossible_crops_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
