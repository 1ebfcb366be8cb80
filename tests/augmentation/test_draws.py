from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from taggants.augmentation import random_words
from taggants.augmentation.draws import Draws


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
def test_random_words_and_fractions_equal_plain_python_integers(ids, seed, step):
    expected = [[word_in_plain_integers(i, seed, step, 1, stream) for i in ids] for stream in range(2, 7)]
    words = random_words(torch.tensor(ids), seed=seed, step=step, view=1, streams=range(2, 7))
    assert words.tolist() == expected
    draws = Draws(torch.tensor(ids), range(2, 7), seed=seed, step=step, view=1)
    assert draws.fractions(4, 3).tolist() == [[word / 2**32 for word in row] for row in expected[2:]]
    assert draws.below(9, 5).tolist() == [word * 9 >> 32 for word in expected[3]]


def test_draws_are_uniform_and_streams_are_unrelated():
    ids = torch.arange(20_000)
    first = random_words(ids, seed=0, step=0, view=0, streams=range(2))[0]
    counts = np.bincount((first * 9 >> 32).numpy(), minlength=9)
    assert ((counts - 20_000 / 9) ** 2 / (20_000 / 9)).sum() < 26.1  # chi-square, 8 degrees of freedom, p = 0.001
    for changed in ({"seed": 1}, {"step": 1}, {"view": 1}, {"streams": range(1, 2)}):
        (other,) = random_words(ids, **({"seed": 0, "step": 0, "view": 0, "streams": range(1)} | changed))
        assert abs(np.corrcoef(first.numpy(), other.numpy())[0, 1]) < 0.03
