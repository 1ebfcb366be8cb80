from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from timm.data.auto_augment import auto_augment_transform
from torchvision.transforms import functional

from taggants.augmentation import ColourJitter, ThreeAugment, random_words
from taggants.augmentation.colour import luma
from taggants.augmentation.resampling import blur_matrices, resample
from taggants.errors import InputError

DRAW = {"seed": 5, "step": 1, "view": 0}


def uint8_images(count=30, size=16, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def picture(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def levels(picture):
    return torch.from_numpy(np.asarray(picture, dtype=np.float32)).permute(2, 0, 1)


def kinds_of(ids):
    return random_words(ids, **DRAW, streams=range(48, 49))[0] * 3 >> 32


def test_three_augment_equals_pillows_operations():
    images, ids = uint8_images(), torch.arange(30)
    results = ThreeAugment()(images.float() / 255, ids, **DRAW) * 255
    kinds = kinds_of(ids)
    sigma = 0.1 + 1.9 * random_words(ids, **DRAW, streams=range(49, 50))[0] / 2**32
    assert set(kinds.tolist()) == {0, 1, 2}
    for i, kind in enumerate(kinds.tolist()):
        if kind == 0:
            expected, tolerance = levels(ImageEnhance.Color(picture(images[i])).enhance(0.0)), 0.51
        elif kind == 1:
            expected, tolerance = levels(ImageOps.solarize(picture(images[i]), 128)), 1e-3
        else:
            side = [17, 17]
            expected = functional.gaussian_blur(
                functional.pad(images[i : i + 1].float(), 8, padding_mode="edge"), side, [float(sigma[i])] * 2
            )[0, :, 8:-8, 8:-8]
            tolerance = 1e-2
        assert (results[i] - expected).abs().max() <= tolerance


def test_three_augment_has_the_effects_of_timms_policy():
    """timm's policy "3a" turns each picture into one of three; ours are the same two where no sigma is drawn."""
    image = uint8_images(count=1)
    policy = auto_augment_transform("3a", {})
    theirs = [levels(policy(picture(image[0]))) for _ in range(60)]
    ours = ThreeAugment()(image.expand(60, -1, -1, -1).float() / 255, torch.arange(60), **DRAW) * 255
    for kind in (0, 1):
        mine = ours[kinds_of(torch.arange(60)) == kind][0]
        assert min(float((mine - other).abs().max()) for other in theirs) <= 0.51


def test_each_kind_comes_in_a_third_of_the_draws_and_sigma_is_uniform():
    counts = torch.bincount(kinds_of(torch.arange(30_000)), minlength=3)
    assert (counts - 10_000).abs().max() < 330  # 4 standard deviations
    # A line of one pixel's height is blurred along itself only: its peak falls with sigma, and so tells it.
    line = torch.zeros(1, 1, 1, 17)
    line[..., 8] = 1
    ids = torch.arange(6000)
    peaks = ThreeAugment()(line.expand(6000, -1, -1, -1), ids, **DRAW)[..., 8].flatten()[kinds_of(ids) == 2]
    quartiles = 0.1 + 1.9 * torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    columns = blur_matrices(quartiles, torch.tensor([17] * 3), size_in=17, radius=8)
    shares = (peaks < resample(line.expand(3, -1, -1, -1), torch.ones(3, 1, 1), columns)[..., 8].view(3, 1)).float()
    torch.testing.assert_close(shares.mean(dim=1), torch.tensor([0.75, 0.5, 0.25]), atol=0.045, rtol=0)


def test_images_of_their_own_sizes_are_augmented_as_if_alone():
    sizes = torch.tensor([[16, 9], [5, 16], [12, 12]] * 4)
    images = uint8_images(count=12).float() / 255
    ids = torch.arange(12)
    for augment in (ThreeAugment(), ColourJitter(0.8)):
        whole = augment(images, ids, **DRAW, sizes=sizes)
        for i, (height, width) in enumerate(sizes.tolist()):
            alone = augment(images[i : i + 1, :, :height, :width], ids[i : i + 1], **DRAW)
            torch.testing.assert_close(whole[i : i + 1, :, :height, :width], alone, atol=2e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_jitter_equals_torchvision_in_a_fixed_order(channels):
    images, ids = uint8_images(channels=channels, seed=1).float() / 255, torch.arange(30)
    jitter = ColourJitter(0.6)
    results = jitter(images, ids, **DRAW)
    for image, result, factors in zip(images, results, jitter.factors(ids, **DRAW).T.tolist(), strict=True):
        expected = functional.adjust_brightness(image, factors[0])
        expected = functional.adjust_contrast(expected, factors[1])
        expected = functional.adjust_saturation(expected, factors[2])
        torch.testing.assert_close(result, expected, atol=2e-4, rtol=0)  # their luma weights sum to 0.9999


def test_factors_of_colour_jitter_are_uniform_and_unrelated():
    factors = ColourJitter(0.3).factors(torch.arange(20_000), **DRAW)
    assert factors.min() >= 0.7
    assert factors.max() <= 1.3
    assert (factors.mean(dim=1) - 1).abs().max() < 0.006
    assert (factors.std(dim=1) - 0.6 / 12**0.5).abs().max() < 0.003
    assert (torch.corrcoef(factors) - torch.eye(3)).abs().max() < 0.03


def test_greyscale_of_one_channel_is_the_identity_and_other_channels_are_refused():
    image = torch.rand(1, 1, 4, 4)
    assert torch.equal(luma(image), image)
    with pytest.raises(InputError, match="1 or 3 channels, not 4"):
        ThreeAugment()(torch.rand(1, 4, 4, 4), torch.tensor([0]), **DRAW)


def test_jitter_that_could_turn_negative_is_refused():
    with pytest.raises(InputError, match=r"colour jitter 1\.5"):
        ColourJitter(1.5)
