"""How likely a test detects a suspect that favours the keys' labels by so much, for every number of keys: exact in a model.

The model: a suspect's answers give the classes of one key a row of independent standard normal values, and the label's is raised
by the effect. Keys are alike and independent. So the effect is measured in standard deviations of a row of evidence; without an
effect this is the null, and power is the size of the test. Real rows have other shapes, and keys differ, so take power as a guide
for planning, not as a promise. No p-value needs any of this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from taggants.detection.hits import misses
from taggants.detection.question import answer_values
from taggants.detection.rank_statistic import rank_scores
from taggants.detection.sequential import running_e_values
from taggants.errors import InputError

MAX_NUM_CLASSES: Final = 25_000
MAX_NUM_KEYS: Final = 500
MIN_LEVEL: Final = 1e-12
MAX_EFFECT: Final = 8.0
NUM_DRAWS: Final = 400
"""Simulated claims behind a power that is not exact; its standard error is then at most 0.025."""
_NODES: Final = 401
_VALUES_PER_UNIT: Final = 4  # of a row's standard deviation; finer steps do not change power


def power(
    statistic: str,
    effect: float,
    num_classes: int,
    num_keys: Sequence[int],
    level: float,
    *,
    top_k: int = 1,
    top_m: int | None = None,
) -> NDArray[np.float64] | None:
    """Returns the probability of a p-value of at most level for each number of keys: float64, in their order.

    Exact for "rank" and "hits"; the share of `NUM_DRAWS` simulated claims, with their exact p-values, for "question" and
    "sequential". None for another statistic.

    Args:
        effect: 0..8.
        num_keys: each 1..500.
        top_m: for "rank": how many labels an answer names, best first; None: all.

    Raises:
        InputError: an argument is out of its range.
    """
    if not 2 <= num_classes <= MAX_NUM_CLASSES:
        raise InputError(f"num_classes is {num_classes} but power is known for 2..{MAX_NUM_CLASSES}.")
    if not 0 <= effect <= MAX_EFFECT:
        raise InputError(f"the effect is {effect} but must be in 0..{MAX_EFFECT:g} standard deviations.")
    if not num_keys or not 1 <= min(num_keys) <= max(num_keys) <= MAX_NUM_KEYS:
        raise InputError(f"num_keys is {list(num_keys)} but power is known for 1..{MAX_NUM_KEYS} keys.")
    if not MIN_LEVEL <= level < 1:
        raise InputError(f"the level is {level} but power is known from {MIN_LEVEL:g} to below 1.")
    if statistic in ("rank", "hits"):
        scores = misses(num_classes, top_k) if statistic == "hits" else _rank_scores(num_classes, top_m)
        probabilities = rank_probabilities(effect, num_classes)
        return np.array([_exact_power(probabilities, scores, count, level) for count in num_keys])
    simulated = {"question": _power_of_sums, "sequential": _power_of_e_values}.get(statistic)
    if simulated is None:
        return None
    curve = simulated(effect, num_classes, sorted(set(num_keys)), level)
    return np.array([curve[count] for count in num_keys])


def rank_probabilities(effect: float, num_classes: int) -> NDArray[np.float64]:
    """Returns the probability of each rank 1..num_classes of a label that is favoured by the effect: float64 [num_classes].

    Of a label at x, each other class is above with probability Phi(-x), so its rank is binomial, averaged over x ~ N(effect, 1).
    """
    nodes = np.linspace(-8.5, 8.5, _NODES)  # the trapezoid rule is exact to rounding for such functions
    weights = np.exp(-(nodes**2) / 2)
    above = scipy.stats.norm.sf(effect + nodes)[:, None]
    at_node = scipy.stats.binom.pmf(np.arange(num_classes)[None], num_classes - 1, above)
    probabilities: NDArray[np.float64] = weights @ at_node
    probabilities /= probabilities.sum()
    return probabilities


def effect_of_table(table: ArrayLike, positions: ArrayLike) -> tuple[float, float]:
    """Returns the effect that the model needs for labels to be as far out in their rows as they are on average, and its standard
    error over the keys; at most `MAX_EFFECT`.

    A label's place z is in root mean squares of its row about the row's mean, its own value included: so it is at most
    sqrt(C - 1), also where an answer names few of the C classes and the others are alike. In the model with an effect e
    the mean is e / C and the mean square about it nearly v = 1 + e^2 (C - 1) / C^2, so z = e (C - 1) / C / sqrt(v).

    Args:
        table: real [num_keys, num_classes], small where the suspect favours a class; of at least 2 keys.
        positions: int [num_keys], the column of each key's label.
    """
    rows = np.asarray(table, dtype=np.float64)
    num_classes, own = rows.shape[1], np.asarray(positions)[:, None]
    spread = rows.std(axis=1)
    favour = rows.mean(axis=1) - np.take_along_axis(rows, own, axis=1)[:, 0]
    places = np.divide(favour, spread, out=np.zeros(len(rows)), where=spread > 0)

    def effect(place: float) -> float:
        left = (num_classes - 1) ** 2 - place**2 * (num_classes - 1)
        limit = num_classes * place / math.sqrt(left) if left > 0 else math.copysign(MAX_EFFECT, place)
        return float(np.clip(limit, -MAX_EFFECT, MAX_EFFECT))

    mean, error = float(places.mean()), float(places.std(ddof=1)) / math.sqrt(len(places))
    return effect(mean), (effect(mean + error) - effect(mean - error)) / 2


def _rank_scores(num_classes: int, top_m: int | None) -> NDArray[np.int64]:
    if top_m is None or top_m >= num_classes:
        return rank_scores(num_classes)
    shared: NDArray[np.int64] = answer_values(-np.arange(float(num_classes))[None], None, num_classes, top_m)[0][0]
    return shared


def _exact_power(probabilities: NDArray[np.float64], scores: NDArray[np.int64], num_keys: int, level: float) -> float:
    """Of the sum of the scores of independent ranks: both its distributions are exact convolutions, to about 1e-15."""
    uniform = np.bincount(scores) / len(scores)
    size = 1 << (num_keys * (len(uniform) - 1)).bit_length()
    null, alternative = (
        np.fft.irfft(np.fft.rfft(density, size) ** num_keys, size)
        for density in (uniform, np.bincount(scores, weights=probabilities))
    )
    critical = np.searchsorted(np.cumsum(null.clip(0)), level * (1 + 1e-9), side="right")
    return float(np.clip(alternative[:critical].sum(), 0.0, 1.0))


def _power_of_sums(effect: float, num_classes: int, num_keys: Sequence[int], level: float) -> dict[int, float]:
    """Of the sum of a table of evidence. The null distribution of each claim is built from its own rows, key by key."""
    random = np.random.default_rng(0)
    span = (
        2 * _VALUES_PER_UNIT * math.ceil(6 + effect)
    )  # no row is wider: a label's place is at most its effect and noise
    size = 1 << (num_keys[-1] * span).bit_length()
    spectrum = np.ones((NUM_DRAWS, size // 2 + 1), dtype=np.complex128)
    observed, curve = np.zeros(NUM_DRAWS, dtype=np.int64), {}
    for count in range(1, num_keys[-1] + 1):
        rows = random.normal(size=(NUM_DRAWS, num_classes))
        rows[:, 0] -= effect  # the label
        values = np.rint(_VALUES_PER_UNIT * (rows - rows.mean(axis=1, keepdims=True)) / rows.std(axis=1, keepdims=True))
        values = (values - values.min(axis=1, keepdims=True)).clip(0, span).astype(np.int64)
        places = values + (span + 1) * np.arange(NUM_DRAWS)[:, None]
        densities = np.bincount(places.ravel(), minlength=NUM_DRAWS * (span + 1)).reshape(NUM_DRAWS, -1) / num_classes
        spectrum *= np.fft.rfft(densities, size)
        observed += values[:, 0]
        if count in num_keys:
            below = np.cumsum(np.fft.irfft(spectrum, size), axis=1)[np.arange(NUM_DRAWS), observed]
            curve[count] = float(np.mean(below <= level))
    return curve


def _power_of_e_values(effect: float, num_classes: int, num_keys: Sequence[int], level: float) -> dict[int, float]:
    """Of the largest e-value after any key."""
    random, labels = np.random.default_rng(0), np.zeros(num_keys[-1], dtype=np.int64)
    detected = np.zeros(num_keys[-1])
    for _ in range(NUM_DRAWS):
        rows = random.normal(size=(num_keys[-1], num_classes))
        rows[:, 0] -= effect
        detected += np.maximum.accumulate(running_e_values(rows, labels)) >= -math.log(level)
    return {count: float(detected[count - 1]) / NUM_DRAWS for count in num_keys}
