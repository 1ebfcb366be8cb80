"""The family "grating" against its stated formula: in Python's integers, and in floating point."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taggants.errors import InputError
from taggants.keys import KeySpec
from taggants.keys.families import KEY_FAMILIES
from taggants.keys.families.grating import SINE, sine

FAMILY = KEY_FAMILIES["grating"]
TABLE = [round(2**15 * math.sin(2 * math.pi * n / 256)) for n in range(257)]


def exact_pixel(
    words: list[int],
    channels: int,
    channel: int,
    y: int,
    x: int,
    num_gratings: int,
    colour: int,
    num_low: int = 0,
    aligned: int = 0,
    low_halved: int = 0,
) -> int:
    """The formula of the module's text, term by term."""

    def sin(phase: int) -> int:
        n, r = phase % 2**16 // 256, phase % 256
        return (256 - r) * TABLE[n] + r * TABLE[n + 1]

    words = list(words)
    total = 0
    for number in range(num_gratings):
        w_f, w_t, w_s = (words.pop(0) for _ in range(3))
        w_a = [words.pop(0) for _ in range(channels)][channel]
        frequency = 1966 + 4588 * w_f // 65536 if number < num_low else 5243 + 20972 * w_f // 65536
        angle = w_t // 2
        amplitude = 9831 + 22938 * (w_a % 32768) // 32768
        if low_halved and number < num_low:
            amplitude = amplitude // 2
        phase = w_s + frequency * (x * sin(angle + 16384) + y * sin(angle)) // 2**23
        if aligned and number >= num_low:
            a, b = aligned_turns(w_f)
            whole = 16384 + 32768 * (w_s >= 32768) if (a % 2, b % 2) == (0, 0) else w_s
            phase = whole + 65536 * (a * x + b * y) // 4
        total += (-amplitude if w_a >= 32768 else amplitude) * sin(phase)
    mean = 2 * (40 + 176 * words[channel] // 65536) if colour else 255
    return min(255, max(0, math.floor(Fraction(mean * 2**38 + 255 * total, 2**39) + Fraction(1, 2))))


def aligned_turns(w_f: int) -> tuple[int, int]:
    """In quarters of a turn a pixel."""
    turns = [(a, b) for a in range(3) for b in range(4)][1:]
    return turns[len(turns) * w_f // 65536]


def float_image(
    words: list[int],
    channels: int,
    size: int,
    num_gratings: int,
    colour: int,
    num_low: int,
    aligned: int,
    low_halved: int,
) -> np.ndarray:
    """mean + 127.5 sum A sin(2 pi (f (x cos t + y sin t) + s)): the same draws as real numbers, not rounded."""
    y, x = np.mgrid[:size, :size]
    means = [40.0 + 176 * w // 65536 if colour else 127.5 for w in words[-channels:]]
    image = np.tile(np.array(means)[:, None, None], (1, size, size))
    for number, start in enumerate(range(0, num_gratings * (3 + channels), 3 + channels)):
        w_f, w_t, w_s, *w_a = words[start : start + 3 + channels]
        lowest, width = (1966, 4588) if number < num_low else (5243, 20972)
        f = (lowest + width * w_f // 65536) / 65536  # in whole steps, which would add up along the image
        t, s = math.pi * (w_t // 2) / 32768, w_s / 65536
        wave = np.sin(2 * math.pi * (f * (x * math.cos(t) + y * math.sin(t)) + s))
        if aligned and number >= num_low:
            a, b = aligned_turns(w_f)
            if (a % 2, b % 2) == (0, 0):
                s = 0.25 if s < 0.5 else 0.75
            wave = np.sin(2 * math.pi * ((a * x + b * y) / 4 + s))
        signs = [-1 if w >= 32768 else 1 for w in w_a]
        wave = wave / 2 if low_halved and number < num_low else wave
        for c, w in enumerate(w_a):
            image[c] += 127.5 * signs[c] * (0.3 + 0.7 * (w % 32768) / 32768) * wave
    return image.clip(0, 255)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 3]),
    st.integers(1, 3),
    st.integers(0, 1),
    st.integers(0, 3),
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(4, 32),
    st.integers(0, 2**32),
)
def test_an_image_is_the_stated_formula(
    channels: int, num_gratings: int, colour: int, num_low: int, aligned: int, low_halved: int, size: int, seed: int
) -> None:
    parameters = {"num_gratings": num_gratings, "random_colour": colour, "num_low": num_low, "aligned": aligned}
    parameters["low_halved"] = low_halved
    num_bytes = FAMILY.num_bytes(channels, size, **parameters)
    stream = np.random.default_rng(seed).integers(0, 256, num_bytes, dtype=np.uint8)
    stream.setflags(write=False)  # as the bytes of a secret are
    words = stream.view(">u2").tolist()
    assert len(words) == num_gratings * (3 + channels) + colour * channels
    image = FAMILY.image(stream, channels, size, **parameters)
    assert image.dtype == np.uint8
    assert image.shape == (channels, size, size)
    for c, y, x in np.random.default_rng(seed).integers(0, image.shape, (20, 3)).tolist():
        assert image[c, y, x] == exact_pixel(
            words, channels, c, y, x, num_gratings, colour, num_low, aligned, low_halved
        )
    # Half a level by rounding; the table's sine is off by 7.6e-5, which turns a wave, so that its phase drifts over the image.
    drift = 2 * math.pi * 0.4 * 7.6e-5 * math.sqrt(2) * size
    tolerance = 0.5 + num_gratings * 127.5 * (7.6e-5 + 1e-4 + drift)
    expected = float_image(words, channels, size, num_gratings, colour, num_low, aligned, low_halved)
    assert np.abs(image - expected).max() <= tolerance


def test_aligned_waves_repeat_every_four_pixels_and_none_vanishes() -> None:
    for w_f in range(0, 2**16, 251):
        for w_s in (0, 2**13, 2**14, 2**15 - 1, 2**15, 2**16 - 1):
            words = np.array([w_f, 12345, w_s, 2**15 - 1, 0], dtype=">u2")
            parameters = {"num_gratings": 1, "random_colour": 0, "num_low": 0, "aligned": 1, "low_halved": 0}
            (image,) = FAMILY.image(words[:4].view(np.uint8), 1, 9, **parameters).astype(int)
            assert (image[4:, 4:] == image[:5, :5]).all()
            assert np.ptp(image) > 178  # of 255: at the worst phase of a wave of four pixels, 2 sin(45 degrees) / 2


@pytest.mark.parametrize("word", [0, 65535])
def test_extreme_draws_stay_in_range_on_the_largest_image(word: int) -> None:
    words = [word] * (3 + 1) + [word]
    stream = np.array([byte for w in words for byte in divmod(w, 256)], dtype=np.uint8)
    image = FAMILY.image(stream, 1, 4096, num_gratings=1, random_colour=1, num_low=0, aligned=0, low_halved=0)
    for y, x in ((0, 0), (0, 4095), (4095, 0), (4095, 4095), (2047, 1023)):
        assert image[0, y, x] == exact_pixel(words, 1, 0, y, x, 1, 1)


def test_the_sine_is_within_a_ten_thousandth() -> None:
    """So its rounding moves no pixel by more than 0.05 levels, even with three gratings."""
    phases = np.arange(-70_000, 140_000, 7)
    assert np.abs(sine(phases) / 2**23 - np.sin(2 * np.pi * phases / 2**16)).max() < 1e-4
    assert len(SINE) == 257


def test_no_entry_of_the_table_depends_on_how_a_platform_rounds() -> None:
    values = [2**15 * math.sin(2 * math.pi * n / 256) for n in range(257)]
    assert SINE.tolist() == TABLE
    assert min(abs(value % 1 - 0.5) for value in values) > 1e-3
    assert all(a < b for a, b in pairwise(SINE[:65].tolist()))


def test_parameters_out_of_range_are_refused() -> None:
    within = {"num_gratings": 1, "random_colour": 0, "num_low": 0, "aligned": 0, "low_halved": 0}
    for name, value in (("num_gratings", 4), ("random_colour", 2), ("num_low", 4), ("aligned", 2), ("low_halved", 2)):
        with pytest.raises(InputError, match=rf"{name} is {value} but must be an integer in"):
            KeySpec(1, 10, 3, 32, "grating", within | {name: value})
