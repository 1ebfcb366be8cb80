from __future__ import annotations

import pickle

import pytest
import torch

from taggants.augmentation import (
    ColourJitter,
    Compose,
    CropAndFlip,
    RandomResizedCrop,
    ResizeAndCentreCrop,
    ThreeAugment,
)
from taggants.errors import InputError

VICTIMS = Compose((RandomResizedCrop(8), ThreeAugment(), ColourJitter(0.3)))
AUGMENTATIONS = [
    CropAndFlip(2, True),
    RandomResizedCrop(6),
    RandomResizedCrop(15),
    ResizeAndCentreCrop(6),
    ThreeAugment(),
    ColourJitter(0.3),
    VICTIMS,
]
SIZES = torch.tensor([[11, 7], [6, 10], [11, 10], [8, 8], [5, 9], [11, 6]])
IDS = torch.tensor([5, 3, 8, 1, 2**33, 2])
DRAW = {"seed": 7, "step": 3, "view": 1}


def canvas(dtype=torch.float32):
    """Images on a canvas, with values far from the kinks at 0, 1/2 and 1."""
    images = torch.rand(6, 3, 11, 10, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return torch.where(images < 0.5, 0.2 + 0.4 * images, 0.4 + 0.4 * images)


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=repr)
def test_an_image_alone_is_augmented_as_in_any_batch_and_every_replay(augment):
    images = canvas()
    sizes = None if isinstance(augment, CropAndFlip) else SIZES
    whole = augment(images, IDS, **DRAW, sizes=sizes)
    torch.manual_seed(99)
    assert torch.equal(whole, augment(images, IDS, **DRAW, sizes=sizes))
    for i in range(6):
        alone = augment(images[i : i + 1], IDS[i : i + 1], **DRAW, sizes=None if sizes is None else sizes[i : i + 1])
        torch.testing.assert_close(alone[0], whole[i], atol=1e-6, rtol=0)
    if not isinstance(augment, ResizeAndCentreCrop):
        for change in ({"seed": 8}, {"step": 4}, {"view": 0}):
            assert not torch.equal(whole, augment(images, IDS, **(DRAW | change), sizes=sizes))


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=repr)
def test_the_derivative_is_that_of_finite_differences(augment):
    images = canvas(torch.float64)[:, :, :7, :6].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, IDS, **DRAW), [images], fast_mode=True)


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=repr)
def test_augmentations_pickle_and_tell_their_output_size(augment):
    assert pickle.loads(pickle.dumps(augment)) == augment
    augment.check(10)
    side = augment.output_size
    assert augment(canvas(), IDS, **DRAW).shape == ((6, 3, 11, 10) if side is None else (6, 3, side, side))


def test_stages_follow_one_another_and_sizes_end_with_the_first_resize():
    images = canvas()
    by_hand = RandomResizedCrop(8)(ThreeAugment()(images, IDS, **DRAW, sizes=SIZES), IDS, **DRAW, sizes=SIZES)
    by_hand = CropAndFlip(2, True)(by_hand, IDS, **DRAW)
    composed = Compose((ThreeAugment(), RandomResizedCrop(8), CropAndFlip(2, True)))
    assert torch.equal(composed(images, IDS, **DRAW, sizes=SIZES), by_hand)
    assert composed.output_size == 8
    assert Compose((ThreeAugment(),)).output_size is None
    assert torch.equal(Compose(())(images, IDS, **DRAW), images)


def test_stages_are_checked_against_the_size_they_get():
    Compose((RandomResizedCrop(8), CropAndFlip(4, True))).check(3)
    with pytest.raises(InputError, match="crop padding 4 must be below the image size 4"):
        Compose((RandomResizedCrop(4), CropAndFlip(4, True))).check(32)


def test_a_class_that_occurs_twice_is_refused():
    with pytest.raises(InputError, match="CropAndFlip occurs 2 times"):
        Compose((CropAndFlip(2, True), CropAndFlip(3, False)))


@pytest.mark.parametrize("augment", AUGMENTATIONS, ids=repr)
def test_everything_stays_on_the_images_device_and_no_value_is_read_back(augment):
    """The meta device refuses both a tensor of another device and a look at a value, which would stall a GPU."""
    sizes = None if isinstance(augment, CropAndFlip) else SIZES.to("meta")
    assert augment(canvas().to("meta"), IDS.to("meta"), **DRAW, sizes=sizes).is_meta
