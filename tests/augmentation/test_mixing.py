from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest

from taggants.augmentation import MixAugment, random_words
from taggants.augmentation.mixing import MixWithCompanions, beta_quantile
from taggants.errors import InputError

DRAW = {"seed": 5, "step": 1, "view": 0}
NUM_CLASSES = 4


def companions(size=12, count=5):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return images, torch.arange(count) % NUM_CLASSES


def fraction(image_id, stream):
    return draw(image_id, stream, 1, bits=0) / 2**32


def draw(image_id, stream, bound, bits=32):
    return int(random_words(torch.tensor([image_id]), **DRAW, streams=range(stream, stream + 1))) * bound >> bits


def mix_one(image, label, image_id, others, other_labels, mix):
    """Mixes one numpy image, pixel by pixel, as timm's `rand_bbox` and `Mixup` do."""
    chosen = draw(image_id, 64, len(others))
    other = others[chosen] / 255
    mixed, share = image.copy(), 1.0
    size = image.shape[1]
    if fraction(image_id, 65) < mix.probability:
        if fraction(image_id, 66) < 0.5:  # CutMix
            share = beta.ppf(fraction(image_id, 67), mix.cutmix_alpha, mix.cutmix_alpha)
            cut = int(size * np.sqrt(1 - share))
            y, x = draw(image_id, 68, size), draw(image_id, 69, size)
            top, bottom = np.clip([y - cut // 2, y + (cut + 1) // 2], 0, size)
            left, right = np.clip([x - cut // 2, x + (cut + 1) // 2], 0, size)
            mixed[:, top:bottom, left:right] = other[:, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / size**2
        else:
            share = beta.ppf(fraction(image_id, 67), mix.mixup_alpha, mix.mixup_alpha)
            mixed = share * image + (1 - share) * other
    weights = np.zeros(NUM_CLASSES)
    weights[label] += share
    weights[other_labels[chosen]] += 1 - share
    return mixed, weights


@pytest.mark.parametrize("probability", [1.0, 0.6])
def test_mixing_equals_one_image_at_a_time(probability):
    others, other_labels = companions()
    mix = MixAugment(NUM_CLASSES, probability=probability)
    images = torch.rand(40, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels, ids = torch.arange(40) % NUM_CLASSES, torch.arange(40) * 7
    mixed, weights = mix.bind(others, other_labels)(images, labels, ids, **DRAW)
    for i in range(40):
        image, weight = mix_one(
            images[i].numpy(), int(labels[i]), int(ids[i]), others.numpy(), other_labels.numpy(), mix
        )
        np.testing.assert_allclose(mixed[i], image, atol=5e-6)
        np.testing.assert_allclose(weights[i], weight, atol=5e-6)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(40, dtype=torch.float64))


def test_the_gradient_is_the_share_that_is_kept():
    others, other_labels = companions()
    bound = MixAugment(NUM_CLASSES).bind(others.double() / 255, other_labels)
    images = torch.rand(4, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    labels, ids = torch.zeros(4, dtype=torch.int64), torch.arange(4)
    assert torch.autograd.gradcheck(lambda x: bound(x, labels, ids, **DRAW)[0], [images], fast_mode=True)
    mixed, weights = bound(images, labels, ids, **DRAW)
    (slopes,) = torch.autograd.grad(mixed.sum(), [images])
    # Companion 0 and 4 have the images' own label.
    own = torch.tensor([draw(i, 64, 5) % NUM_CLASSES != 0 for i in range(4)])
    assert own.any()
    torch.testing.assert_close(slopes.mean(dim=(1, 2, 3))[own], weights[own, 0])


def test_shares_have_the_law_of_beta():
    others, other_labels = torch.zeros(1, 1, 32, 32), torch.tensor([1])
    images, labels, ids = torch.ones(2000, 1, 32, 32), torch.zeros(2000, dtype=torch.int64), torch.arange(2000)

    def own_weights(mix):
        return mix.bind(others, other_labels)(images, labels, ids, **DRAW)[1][:, 0].double().numpy()

    only_mixup = own_weights(MixAugment(2, mixup_alpha=0.8, cutmix_alpha=0.0))
    assert kstest(only_mixup, beta(0.8, 0.8).cdf).pvalue > 1e-3
    only_cutmix = own_weights(MixAugment(2, mixup_alpha=0.0, cutmix_alpha=1.0))
    assert len(np.unique(np.round(only_cutmix * 32 * 32, 3) % 1)) == 1  # whole pixels
    assert only_cutmix.mean() > 0.5  # boxes are cut at the border
    assert abs((own_weights(MixAugment(2, probability=0.3)) == 1).mean() - 0.7) < 0.05


def test_half_of_the_draws_are_cutmix():
    bound = MixAugment(2).bind(torch.zeros(1, 1, 16, 16), torch.tensor([1]))
    mixed, _ = bound(torch.ones(2000, 1, 16, 16), torch.zeros(2000, dtype=torch.int64), torch.arange(2000), **DRAW)
    by_cutmix = ((mixed == 0) | (mixed == 1)).all(dim=3).all(dim=2).double().mean()
    assert abs(by_cutmix - 0.5) < 0.045


@pytest.mark.parametrize(("alpha", "tolerance"), [(0.1, 5e-6), (0.2, 5e-6), (0.8, 5e-6), (1.0, 1e-12), (2.0, 3e-3)])
def test_beta_quantiles_are_as_near_as_stated(alpha, tolerance):
    fractions = torch.cat([torch.linspace(0, 1, 9001, dtype=torch.float64), torch.logspace(-9, -3, 99).double()])
    np.testing.assert_allclose(
        beta_quantile(fractions, alpha), beta.ppf(fractions, alpha, alpha), atol=tolerance, rtol=0
    )


def test_mixing_replays_and_does_not_depend_on_the_batch():
    bound = MixAugment(NUM_CLASSES).bind(*companions())
    images, labels, ids = torch.rand(8, 3, 12, 12), torch.arange(8) % NUM_CLASSES, torch.arange(8) + 2**35
    mixed, weights = bound(images, labels, ids, **DRAW)
    for i in range(8):
        alone = bound(images[i : i + 1], labels[i : i + 1], ids[i : i + 1], **DRAW)
        assert torch.equal(alone[0][0], mixed[i])
        assert torch.equal(alone[1][0], weights[i])
    assert not torch.equal(mixed, bound(images, labels, ids, **(DRAW | {"view": 1}))[0])


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(InputError, match="not both 0"):
        MixAugment(2, mixup_alpha=0.0, cutmix_alpha=0.0)
    with pytest.raises(InputError, match="probability 2"):
        MixAugment(2, probability=2.0)
    mix = MixAugment(2)
    assert pickle.loads(pickle.dumps(mix)) == mix
    with pytest.raises(InputError, match="at least one image"):
        mix.bind(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(InputError, match=r"0\.\.2 must lie in 0\.\.1"):
        mix.bind(torch.zeros(3, 1, 4, 4), torch.arange(3))
    with pytest.raises(InputError, match="resize the companions"):
        mix.bind(torch.zeros(1, 1, 4, 4), torch.tensor([0]))(
            torch.zeros(1, 1, 5, 5), torch.tensor([0]), torch.tensor([0]), **DRAW
        )


def test_everything_stays_on_the_images_device_and_no_value_is_read_back():
    others, other_labels = companions()
    bound = MixWithCompanions(MixAugment(NUM_CLASSES), others.to("meta"), other_labels.to("meta"))
    images, ids = torch.rand(2, 3, 12, 12, device="meta"), torch.arange(2, device="meta")
    assert all(result.is_meta for result in bound(images, ids, ids, **DRAW))
