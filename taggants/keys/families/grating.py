"""The family "grating": sine waves in colour, in integer arithmetic, so that every platform gives the same bytes.

Networks answer noise of any kind with few classes, but the first layers of every trained network are tuned to frequency, angle
and colour (Krizhevsky, Sutskever, Hinton, NeurIPS 2012, figure 3), so they tell gratings apart. Only integers below; x // y and
x >> n round towards minus infinity, and a turn has 2^16 parts.

Stream: words of 16 bits, big-endian, read one after another. For each of the `num_gratings` gratings

    w_f, w_t, w_s, then w_a for each channel        frequency, angle, phase, amplitudes

and then, if `random_colour` is 1, w_b for each channel: so 2 (num_gratings (3 + channels) + random_colour channels) bytes.

    F = 1966 + (4588 w_f >> 16)                     frequency in turns per pixel of the first `num_low`: 0.03 to 0.1
    F = 5243 + (20972 w_f >> 16)                    of the others: 0.08 to 0.4
    t = w_t >> 1                                    angle: 0 to half a turn
    n = 1 + (11 w_f >> 16)                          with `aligned`, the others instead have a / 4 turns a pixel to the right and
    a, b = n // 4, n mod 4                          b / 4 down, so that they repeat every 4 pixels; w_t is not used
    A = +-(9831 + (22938 (w_a mod 2^15) >> 15))     amplitude in 2^-15 of 127.5 levels: 0.3 to 1; negative if w_a >= 2^15
    A // 2 in place of A                            of the slow ones, if `low_halved` is 1
    B = 2 (40 + (176 w_b >> 16)), or B = 255        mean in half levels: 40 to 215 levels, or 127.5 without `random_colour`

    sin(p) = (256 - r) T[n] + r T[n + 1]            p mod 2^16 = 256 n + r with 0 <= r < 256; in 2^-23
    T[n] = the integer nearest to 2^15 sin(2 pi n / 256)
    p(x, y) = w_s + (F (x sin(t + 2^14) + y sin(t)) >> 23)
    p(x, y) = w_s + 2^14 (a x + b y)                with `aligned`; where a and b are even, 2^14 + (w_s and 2^15) in place of
                                                    w_s: there other phases are the same wave, but weaker

    pixel(x, y) = the integer nearest to (B 2^38 + 255 sum over gratings of A sin(p(x, y))) / 2^39, halves up, clipped to 0..255

x counts pixels to the right, y down, both from 0.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from taggants.keys.families.family import KeyFamily, Parameter, TestVector

# T[0] .. T[64]; the rest of the turn mirrors it.
_QUARTER: Final = (
    *(
        0,
        804,
        1608,
        2411,
        3212,
        4011,
        4808,
        5602,
        6393,
        7180,
        7962,
        8740,
        9512,
        10279,
        11039,
        11793,
        12540,
        13279,
        14010,
    ),
    *(14733, 15447, 16151, 16846, 17531, 18205, 18868, 19520, 20160, 20788, 21403, 22006, 22595, 23170, 23732, 24279),
    *(24812, 25330, 25833, 26320, 26791, 27246, 27684, 28106, 28511, 28899, 29269, 29622, 29957, 30274, 30572, 30853),
    *(31114, 31357, 31581, 31786, 31972, 32138, 32286, 32413, 32522, 32610, 32679, 32729, 32758, 32768),
)
_HALF: Final = (*_QUARTER, *_QUARTER[-2:0:-1])
SINE: Final = np.array([*_HALF, *(-value for value in _HALF), 0], dtype=np.int64)
"""T[0] .. T[256]."""


def sine(phase: NDArray[np.int64]) -> NDArray[np.int64]:
    """sin of a phase in 2^-16 turns, in units of 2^-23 (see the module's text)."""
    n, r = np.divmod(phase % 2**16, 256)
    value: NDArray[np.int64] = (256 - r) * SINE[n] + r * SINE[n + 1]
    return value


def _num_bytes(
    channels: int, image_size: int, num_gratings: int, random_colour: int, num_low: int, aligned: int, low_halved: int
) -> int:
    return 2 * (num_gratings * (3 + channels) + random_colour * channels)


def _image(
    stream: NDArray[np.uint8],
    channels: int,
    image_size: int,
    num_gratings: int,
    random_colour: int,
    num_low: int,
    aligned: int,
    low_halved: int,
) -> NDArray[np.uint8]:
    drawn = stream.view(">u2").astype(np.int64)
    waves = drawn[: num_gratings * (3 + channels)].reshape(num_gratings, 3 + channels)
    total = np.zeros((channels, image_size, image_size), dtype=np.int64)
    for number, wave in enumerate(waves):
        if number < num_low:
            phase = _phase(image_size, wave, 1966, 4588)
        elif aligned:
            phase = _aligned_phase(image_size, wave)
        else:
            phase = _phase(image_size, wave, 5243, 20972)
        amplitudes = 9831 + (22938 * (wave[3:] % 2**15) >> 15)
        if number < num_low and low_halved:
            amplitudes //= 2
        total += np.where(wave[3:] >= 2**15, -amplitudes, amplitudes)[:, None, None] * sine(phase)
    means = np.full(channels, 255, dtype=np.int64)
    if random_colour:
        means = 2 * (40 + (176 * drawn[-channels:] >> 16))
    levels = (means[:, None, None] * 2**38 + 255 * total + 2**38) >> 39
    image: NDArray[np.uint8] = np.clip(levels, 0, 255).astype(np.uint8)
    return image


def _phase(image_size: int, wave: NDArray[np.int64], lowest: int, width: int) -> NDArray[np.int64]:
    """p of a wave at any frequency and angle, int64 [image_size, image_size], in 2^-16 turns."""
    y, x = np.ogrid[:image_size, :image_size]
    frequency, angle = lowest + (width * wave[0] >> 16), wave[1] >> 1
    # Below 2^15 2 2^12 2^23 = 2^51.
    phase: NDArray[np.int64] = wave[2] + (frequency * (x * sine(angle + 2**14) + y * sine(angle)) >> 23)
    return phase


def _aligned_phase(image_size: int, wave: NDArray[np.int64]) -> NDArray[np.int64]:
    """p of a wave that repeats every 4 pixels, int64 [image_size, image_size], in 2^-16 turns."""
    y, x = np.ogrid[:image_size, :image_size]
    a, b = divmod(1 + (11 * int(wave[0]) >> 16), 4)
    start = int(wave[2])
    if a % 2 == b % 2 == 0:
        start = 2**14 + (start & 2**15)
    phase: NDArray[np.int64] = start + 2**14 * (a * x + b * y)
    return phase


_PARAMETERS: Final = {
    "num_gratings": Parameter(3, 1, 3, "sine waves that are summed in a key"),
    "random_colour": Parameter(0, 0, 1, "1: around a random colour, 0: around mid-grey"),
    "num_low": Parameter(
        2, 0, 3, "how many of them are slow, with 0.03 to 0.1 turns a pixel; from num_gratings up: all"
    ),
    "aligned": Parameter(
        1, 0, 1, "1: the others repeat every 4 px, as the first strides of networks do, 0: they have 0.08 to 0.4"
    ),
    "low_halved": Parameter(0, 0, 1, "1: the slow ones have half the amplitude, 0: the same as the others"),
}

GRATING: Final = KeyFamily(
    description="a fast and two slow sine waves in colour, which trained networks tell apart",
    parameters=_PARAMETERS,
    num_bytes=_num_bytes,
    image=_image,
    test_vectors=tuple(
        TestVector(
            channels,
            size,
            {"num_gratings": count, "random_colour": colour, "num_low": low, "aligned": aligned, "low_halved": halved},
            sha256,
        )
        for channels, size, count, colour, low, aligned, halved, sha256 in (
            (3, 32, 1, 1, 0, 0, 0, "949c79b7ac1349bf27bed5f47cac5a9298f6a110d6f1cb34721fe157c6597b9f"),
            (3, 32, 3, 0, 0, 0, 0, "15dc01f72acf3be8e8543a6840d0d8aaba9e6f792c72dd6b534e10231c03bd76"),
            (1, 50, 2, 1, 0, 0, 0, "17fb1ced4a541e50d6cf77443f5b6cf5928be0946457d612bb66653d6247eefd"),
            (3, 32, 2, 1, 2, 0, 0, "f959a5339548935f26b98a9746cc521fc742dd048185e10e5239f69d344de8c2"),
            (3, 32, 3, 1, 2, 1, 0, "59491636e25c2a3dc6fc74d0287a4c7a06714bfee562f6bd33b8f97168d363f7"),
            (1, 8, 2, 0, 0, 1, 0, "96134aca11a83e3ec74652b2915de538f9afa4ac8db255e7be5bc996459fe21a"),
            (3, 32, 3, 1, 2, 1, 1, "34a3ad484f67499add7e3432c15f92c2e0fe34394262d01b59cca2bfd331020f"),
        )
    ),
)
