from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taggants.augmentation import CropAndFlip, random_words
from taggants.errors import InputError


def mix32(value):
    value ^= value >> 16
    value = value * 0x85EBCA6B % 2**32
    value ^= value >> 13
    value = value * 0xC2B2AE35 % 2**32
    return value ^ (value >> 16)


def word_in_plain_integers(image_id, seed, step, view, stream):
    state = 0
    for word in (seed % 2**32, seed >> 32, step, view, stream, image_id % 2**32, image_id >> 32):
        state = mix32((state * 0x9E3779B1 + word + 0x7F4A7C15) % 2**32)
    return state


@given(
    ids=st.lists(st.integers(0, 2**40), min_size=1, max_size=5),
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 10_000),
)
def test_random_words_equal_plain_python_integers(ids, seed, step):
    words = random_words(torch.tensor(ids), seed=seed, step=step, view=1, stream=2)
    assert words.tolist() == [word_in_plain_integers(i, seed, step, 1, 2) for i in ids]


def test_draws_are_uniform_and_streams_are_unrelated():
    ids = torch.arange(20_000)
    first = random_words(ids, seed=0, step=0, view=0, stream=0)
    counts = np.bincount((first * 9 >> 32).numpy(), minlength=9)
    assert ((counts - 20_000 / 9) ** 2 / (20_000 / 9)).sum() < 26.1  # chi-square, 8 degrees of freedom, p = 0.001
    for changed in ({"seed": 1}, {"step": 1}, {"view": 1}, {"stream": 1}):
        other = random_words(ids, **({"seed": 0, "step": 0, "view": 0, "stream": 0} | changed))
        assert abs(np.corrcoef(first.numpy(), other.numpy())[0, 1]) < 0.03


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


def test_draws_do_not_depend_on_batch_or_order_or_the_global_generator():
    images, ids = torch.rand(6, 1, 8, 8), torch.tensor([5, 3, 8, 1, 0, 2])
    augment = CropAndFlip(2, True)
    whole = augment(images, ids, seed=7, step=3, view=0)
    torch.manual_seed(99)
    parts = torch.cat([augment(images[i : i + 1], ids[i : i + 1], seed=7, step=3, view=0) for i in range(6)])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, augment(images, ids, seed=7, step=4, view=0))


def test_crop_and_flip_is_differentiable():
    images = torch.rand(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([1, 2])
    assert torch.autograd.gradcheck(lambda x: CropAndFlip(2, True)(x, ids, seed=1, step=2, view=0), [images])


def test_padding_as_large_as_the_image_is_refused():
    with pytest.raises(InputError, match="crop padding 8 must be below the image size 8"):
        CropAndFlip(8, False)(torch.rand(1, 1, 8, 8), torch.tensor([0]), seed=0, step=0, view=0)
