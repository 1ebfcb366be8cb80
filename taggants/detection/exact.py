"""The exact p-value of a sum over keys, whatever a key's value for each class is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taggants.errors import InputError

P_VALUE_FLOOR: Final = 1e-300  # smaller p-values are reported as this upper bound: doubles thin out and end below it
_MAX_DIRECT_WORK: Final = 10**9  # multiply-adds: about a second
_MAX_DRAWN_SPAN: Final = 2**22
_MAX_SPAN: Final = 2**25  # values of the sum: some seconds and 1 GB by the transform of one row
_MAX_SPAN_OF_ROWS: Final = 2**23  # the same where every key has a row of its own


def exact_p_value(values: ArrayLike, positions: ArrayLike) -> float:
    """One-sided p-value of the sum over keys of values[key, position of the key's label]; small when the sum is small.

    Null: the values do not depend on the key labels, which were drawn i.i.d. uniform over the classes. Given the values, the
    sum is then one of independent draws, one from each row, so its distribution is the convolution of the rows: exact for
    any models, images and ties. Where a position is counted against the owner (a larger value than the label's own), the
    p-value stays an upper bound.

    The distribution is built key by key and cut off at the observed sum S. All terms are non-negative and none is
    subtracted, so the relative error is at most about (K (D + 2) + S) 2^-53 for K keys and rows that span D (1e-11 for the
    rank statistic with K = 100, C = 1000); what underflows is below 1e-310 in all. That takes K S D steps; where it would
    take longer than a second, the same convolution is done by Fourier transforms of distributions tilted so that S is their
    mean, which keeps the relative error small in the tail too (Keich, "sFFT: a faster accurate computation of the p-value of
    the entropy score", 2005); tests hold the two to each other.

    Args:
        values: int [num_keys, num_classes], or [num_classes] where all keys share one row.
        positions: int [num_keys] in 0..num_classes-1: the column of each key's label.

    Returns:
        P(sum_null <= S), in [1e-300, 1]; the floor is an upper bound of smaller values.

    Raises:
        InputError: a shape, type or position is wrong, or there are so many keys and values that it would take minutes.
    """
    table, columns = np.asarray(values), np.asarray(positions)
    if columns.ndim != 1 or columns.size < 1 or columns.dtype.kind not in "iu":
        raise InputError(
            f"positions has shape {columns.shape} and type {columns.dtype} but must be integers [num_keys] of at least 1 key."
        )
    is_shared = table.ndim == 1
    rows = table[None] if is_shared else table
    if (
        rows.ndim != 2
        or rows.shape[1] < 2
        or rows.dtype.kind not in "iu"
        or len(rows) != (1 if is_shared else len(columns))
    ):
        raise InputError(
            f"values has shape {table.shape} and type {table.dtype} but must be integers [num_keys, num_classes] with "
            f"{len(columns)} keys and at least 2 classes."
        )
    num_keys, num_classes = len(columns), rows.shape[1]
    if columns.min() < 0 or columns.max() >= num_classes:
        raise InputError(f"positions holds a value outside 0..{num_classes - 1}.")
    spans = [int(row.max()) - int(row.min()) for row in rows]
    largest = sum(spans) * (num_keys if is_shared else 1)
    too_many = f"{num_keys} keys with values that span up to {max(spans)} are too many to convolve; use fewer keys."
    if largest > _MAX_SPAN:
        raise InputError(too_many)
    rows = rows.astype(np.int64) - rows.min(axis=1, keepdims=True).astype(np.int64)
    own = rows[0][columns] if is_shared else np.take_along_axis(rows, columns[:, None].astype(np.int64), axis=1)
    observed = int(own.sum())
    if observed >= largest:
        return 1.0
    is_direct = num_keys * (observed + 1) * max(spans) <= _MAX_DIRECT_WORK
    if not is_direct and len(rows) > 1 and largest > _MAX_SPAN_OF_ROWS:
        raise InputError(too_many)
    densities = [np.bincount(row) / num_classes for row in rows]  # P(value of one key = s), s = 0..D
    if is_direct:
        total = np.ones(1)
        for density in densities * num_keys if is_shared else densities:
            total = np.convolve(total, density)[: observed + 1]
        p_value = float(total.sum())
    else:
        p_value = _tail_by_transforms(densities, num_keys if is_shared else 1, observed, largest)
    return min(1.0, max(P_VALUE_FLOOR, p_value))


def null_distribution(values: ArrayLike, num_keys: int) -> tuple[int, NDArray[np.float64]]:
    """The smallest sum over keys, and the probabilities of it and of the sums above it, one by one: the distribution of which
    `exact_p_value` is one tail. For pictures, quantiles and power.

    Each probability is right to about 1e-16 in absolute terms, so tails below 1e-12 are not to be read off it.

    Args:
        values: int [num_keys, num_classes], or [num_classes] where all keys share one row.

    Raises:
        InputError: the values span more than 2^22 sums, which is a picture of nothing.
    """
    table = np.atleast_2d(np.asarray(values)).astype(np.int64)
    times = num_keys if np.ndim(values) == 1 else 1
    lowest = times * int(table.min(axis=1).sum())
    largest = times * int(table.max(axis=1).sum()) - lowest
    if largest > _MAX_DRAWN_SPAN or len(table) * largest > 2 * _MAX_SPAN:
        raise InputError(
            f"{num_keys} keys with values that span {largest} sums are too many to convolve; use fewer keys."
        )
    size = 1 << max(1, largest.bit_length())
    spectrum = np.ones(size // 2 + 1, dtype=np.complex128)
    for row in table - table.min(axis=1, keepdims=True):
        spectrum *= np.fft.rfft(np.bincount(row) / row.size, size) ** times
    return lowest, np.clip(np.fft.irfft(spectrum, size)[: largest + 1], 0.0, 1.0)


def _tail_by_transforms(densities: Sequence[NDArray[np.float64]], times: int, observed: int, largest: int) -> float:
    """P(sum <= observed) for the sum of independent values, `times` of each density."""
    from scipy.signal import fftconvolve  # its import takes longer than most p-values

    def tilted(density: NDArray[np.float64], tilt: float) -> tuple[NDArray[np.float64], float]:
        weighted = density * np.exp(-tilt * np.arange(density.size))
        mass = float(weighted.sum())
        return weighted / mass, math.log(mass)

    def mean(tilt: float) -> float:
        return times * sum(float(tilted(d, tilt)[0] @ np.arange(d.size)) for d in densities)

    low, high = 0.0, 64.0
    if mean(0.0) <= observed:
        high = 0.0
    for _ in range(60):  # by bisection: the mean falls as the tilt rises
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) > observed else (low, middle)
    sums, log_mass = [], 0.0
    for density in densities:
        weighted, log_one = tilted(density, high)
        sums.append(weighted)
        log_mass += times * log_one
    if times > 1:
        size = 1 << largest.bit_length()
        sums = [np.fft.irfft(np.fft.rfft(sums[0], size) ** times, size)]
    while len(sums) > 1:  # pair by pair, so that few transforms are of the whole length
        pairs = itertools.zip_longest(sums[::2], sums[1::2], fillvalue=np.ones(1))
        sums = [fftconvolve(first, second) for first, second in pairs]
    below = sums[0][: observed + 1]
    exponent = high * (np.arange(observed + 1) - observed)
    return float(below @ np.exp(exponent)) * math.exp(log_mass + high * observed)
