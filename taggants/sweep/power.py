"""What the cells of a sweep say of detection power, and how surely: exact intervals, a recommendation, an extrapolation.

All intervals are two-sided with confidence 95% unless they say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import next_fast_len
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, t

from taggants.detection.binomial import P_VALUE_FLOOR
from taggants.detection.certificate import Statistic
from taggants.detection.rank_statistic import rank_scores
from taggants.errors import InputError
from taggants.sweep.results import Cell, SweepResults, Trained

CONFIDENCE: Final = 0.95
MAX_FACTOR: Final = 10
"""How many times the measured keys, and classes, an extrapolation goes."""

_FEWEST_KEYS = 4
_FEWEST_VICTIMS = 2
_LEAST_ALPHA = 1e-12  # below, a double-precision Fourier transform of a probability says nothing


@dataclass(frozen=True)
class Proportion:
    """count of total. low, high: exact interval of the probability (Clopper and Pearson 1934)."""

    count: int
    total: int
    low: float
    high: float

    @property
    def estimate(self) -> float | None:
        """count / total; None of nothing."""
        return self.count / self.total if self.total else None


def proportion(count: int, total: int) -> Proportion:
    """The proportion of independent trials of one probability; of no trial the interval is [0, 1]."""
    if total == 0:
        return Proportion(0, 0, 0.0, 1.0)
    interval = binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
    return Proportion(count, total, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Median:
    """low, high: order statistics that enclose the median of the distribution with at least this confidence."""

    estimate: float
    low: float
    high: float
    confidence: float


def median(values: Sequence[float]) -> Median | None:
    """The median of independent values of one continuous distribution; None of nothing.

    The i-th smallest and i-th largest of n values enclose it with probability 1 - 2 P(Binomial(n, 1/2) < i). The innermost
    pair with 95% is taken; of fewer than 6 values there is none, and the outermost pair says what confidence it has.
    """
    if not values:
        return None
    ordered = sorted(values)
    n = len(ordered)
    # By depth i = 1, 2, ...; of one value the outermost pair is that value.
    confidences = 1 - 2 * binom.cdf(np.arange(max(1, n // 2)), n, 0.5)
    depth = max(1, int(np.count_nonzero(confidences >= CONFIDENCE)))
    confidence = max(0.0, float(confidences[depth - 1]))
    return Median(float(np.median(ordered)), ordered[depth - 1], ordered[n - depth], confidence)


@dataclass(frozen=True)
class Mean:
    """low, high: t interval of the mean of `num_pairs` differences; None of fewer than two."""

    estimate: float
    low: float | None
    high: float | None
    num_pairs: int

    @property
    def half_width(self) -> float | None:
        return None if self.high is None else self.high - self.estimate


def mean(differences: Sequence[float]) -> Mean | None:
    """The mean of independent, about normal differences; None of nothing."""
    n = len(differences)
    if n == 0:
        return None
    estimate = float(np.mean(differences))
    if n == 1:
        return Mean(estimate, None, None, 1)
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(differences, ddof=1) / math.sqrt(n))
    return Mean(estimate, estimate - half, estimate + half, n)


@dataclass(frozen=True)
class CellPower:
    """What a cell's victims and controls say.

    Attributes:
        name: of the cell.
        power: share of victims with p <= alpha, in the order of `SweepResults.alphas`. Victims differ in their seed and
            share keys and signed data: the interval speaks of other seeds, not of other keys. Where the cell was stopped
            (`Cell.stopped`) it leans towards less power.
        log10_p: median over victims.
        accuracy_change: victim minus control of the same seed, as fractions.
        worst_class_change: the same of the class with the lowest accuracy.
        training_seconds: of its victims, in one process each.
    """

    name: str
    power: tuple[Proportion, ...]
    log10_p: Median | None
    accuracy_change: Mean | None
    worst_class_change: Mean | None
    training_seconds: float


def cell_power(cell: Cell, alphas: Sequence[float]) -> CellPower:
    """Returns the summary of one cell at these levels."""
    p_values = [victim.p_value for victim in cell.victims]
    return CellPower(
        name=cell.name,
        power=tuple(proportion(sum(p <= alpha for p in p_values), len(p_values)) for alpha in alphas),
        log10_p=median([math.log10(p) for p in p_values]),
        accuracy_change=mean(_paired(cell, lambda model: model.accuracy)),
        worst_class_change=mean(_paired(cell, lambda model: model.worst_class_accuracy)),
        training_seconds=sum(victim.seconds for victim in cell.victims),
    )


def _paired(cell: Cell, measure: Callable[[Trained], float | None]) -> list[float]:
    """Victim minus control of the same index, where both were measured."""
    controls = {control.index: measure(control) for control in cell.controls}
    differences = []
    for victim in cell.victims:
        signed, clean = measure(victim), controls.get(victim.index)
        if signed is not None and clean is not None:
            differences.append(signed - clean)
    return differences


@dataclass(frozen=True)
class FalsePositives:
    """Controls detected at a level.

    num_keys: K; None: of all key counts together. rate: over distinct tests. contains_alpha: whether its interval does.
    """

    num_keys: int | None
    alpha: float
    rate: Proportion

    @property
    def contains_alpha(self) -> bool:
        return self.rate.low <= self.alpha <= self.rate.high


def false_positives(results: SweepResults) -> tuple[FalsePositives, ...]:
    """The false positives for each K and, last, for all K together; each at every level.

    A control with one number of keys is one test, however many cells repeat it. For each K the controls are of other seeds,
    and they are asked with the same keys: where clean models agree with each other their answers do, too, and the exact
    interval, which takes them for independent, is then too narrow. All K together repeat keys, as the first of 20 keys are
    the 10 keys: dependent for certain, and only a description.

    Raises:
        InputError: one test has two p-values, so the records are not of one sweep.
    """
    tests: dict[tuple[int, str], float] = {}
    for cell in results.cells:
        for control in cell.controls:
            p_value = tests.setdefault((cell.num_keys, control.name), control.p_value)
            if p_value != control.p_value:
                raise InputError(
                    f"control {control.name} with {cell.num_keys} keys has p = {p_value:g} and, in cell {cell.name}, "
                    f"{control.p_value:g}; delete the cells of this sweep and run it again"
                )
    key_counts = sorted({num_keys for num_keys, _ in tests})
    found = []
    for num_keys in [*key_counts, None] if len(key_counts) > 1 else key_counts:
        p_values = [p for (k, _), p in tests.items() if num_keys in (None, k)]
        for alpha in results.alphas:
            rate = proportion(sum(p <= alpha for p in p_values), len(p_values))
            found.append(FalsePositives(num_keys, alpha, rate))
    return tuple(found)


@dataclass(frozen=True)
class Recommendation:
    """The cheapest cell that reaches the wanted power at a level; cheap is few sample-steps, then few signed images.

    Attributes:
        certain: name of the cheapest cell whose lower bound of power reaches it; None if none does.
        likely: name of the cheapest whose estimate does, which may be luck: of many cells some look better than they are.
        victims_needed: number of victims of which all must be detected for the lower bound to reach it.
    """

    alpha: float
    wanted_power: float
    certain: str | None
    likely: str | None
    victims_needed: int


def strongest_cell(cells: Sequence[Cell]) -> Cell | None:
    """Returns the cell of the lowest median p-value of its victims, of equal ones the cheapest; None without a tested victim."""
    found = [(cell_power(cell, ()).log10_p, cell) for cell in cells]
    tested = [(log10_p.estimate, cell.sample_steps, cell.name, cell) for log10_p, cell in found if log10_p is not None]
    return min(tested)[-1] if tested else None


def recommend(results: SweepResults, alpha: float) -> Recommendation:
    """Returns what to take for `results.wanted_power` at this level."""
    wanted = results.wanted_power
    by_cost = sorted(results.cells, key=lambda cell: (cell.sample_steps, cell.num_signed, cell.name))
    powers = {cell.name: cell_power(cell, [alpha]).power[0] for cell in by_cost}
    certain = next((name for name, power in powers.items() if power.low >= wanted), None)
    likely = next((name for name, power in powers.items() if (power.estimate or 0.0) >= wanted), None)
    # Clopper and Pearson's lower bound of n in n is ((1 - confidence) / 2)^(1/n).
    needed = math.ceil(math.log((1 - CONFIDENCE) / 2) / math.log(wanted))
    return Recommendation(alpha, wanted, certain, likely, needed)


@dataclass(frozen=True)
class Estimate:
    """low, high: 95% of the resampled values lie between."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Extrapolation:
    """What to expect with other keys.

    Attributes:
        num_keys, num_classes, alpha: for which.
        hit_rate: per key, as measured at the cell's own number of classes.
        power: probability that a victim is detected.
        log10_p: of the median victim.
        sureness: a sentence on what it rests on.
    """

    num_keys: int
    num_classes: int
    alpha: float
    hit_rate: Estimate
    power: Estimate
    log10_p: Estimate
    sureness: str


ASSUMPTIONS: Final = (
    "Each key takes, in any victim, with the same probability whatever the number of keys and classes; a key that does not "
    "take is a hit by chance, so with top_k / C.",
    "The label of a key that is no hit keeps its relative place among the other classes.",
    "Images per key, epsilon, crafting, data and recipe are the cell's; more keys sign more images.",
)


def extrapolate(
    ranks: ArrayLike,
    *,
    observed_classes: int,
    top_k: int,
    statistic: Statistic,
    num_keys: int,
    num_classes: int,
    alpha: float,
    num_resamples: int = 200,
    seed: int = 0,
) -> Extrapolation:
    """Power and p-value to expect with other numbers of keys and classes, from the ranks of a cell's victims.

    Under `ASSUMPTIONS`. The distribution of one key's rank, for each victim, is the measured one, brought to `num_classes`;
    from it that of the statistic over `num_keys` independent keys follows without simulation. For the interval victims are
    drawn anew with replacement, and the keys, which all victims share, are weighted by one Dirichlet draw (the Bayesian
    bootstrap, Rubin 1981) with half a hit and half a miss added, so that for one victim the hit rate has Jeffreys' posterior
    Beta(hits + 1/2, misses + 1/2) and 8 hits of 8 are not taken for certainty.

    Args:
        ranks: int [victims, keys] in 1..observed_classes.
        top_k: a rank up to this is a hit.
        num_keys: K to extrapolate to, at most 10 times the measured.
        num_classes: C to extrapolate to, likewise.
        alpha: level, at least 1e-12.

    Raises:
        InputError: the data do not allow it: too few victims or keys, too far away, or ranks as of chance.
    """
    observed = np.asarray(ranks)
    if observed.ndim != 2 or observed.shape[0] < _FEWEST_VICTIMS or observed.shape[1] < _FEWEST_KEYS:
        raise InputError(
            f"ranks of shape {observed.shape} (victims, keys) are too few; train at least {_FEWEST_VICTIMS} victims and use at "
            f"least {_FEWEST_KEYS} keys"
        )
    if not (observed.min() >= 1 and observed.max() <= observed_classes and 1 <= top_k < observed_classes):
        raise InputError(f"ranks and top_k must be in 1..{observed_classes}, the number of classes")
    if not _LEAST_ALPHA <= alpha < 1:
        raise InputError(f"alpha is {alpha:g} but must be at least {_LEAST_ALPHA:g} and below 1")
    num_victims, observed_keys = observed.shape
    for what, wanted, given in (("keys", num_keys, observed_keys), ("classes", num_classes, observed_classes)):
        if not (top_k if what == "classes" else 0) < wanted <= MAX_FACTOR * given:
            raise InputError(
                f"{wanted} {what} are too far from the {given} measured; ask for at most {MAX_FACTOR * given}, or measure "
                "nearer to them"
            )
    scores = rank_scores(num_classes) if statistic == "rank" else (np.arange(num_classes) >= top_k).astype(np.int64)
    null = _Sum(np.bincount(scores) / num_classes, num_keys)
    critical = null.critical(alpha)

    # [victims, keys, classes] -> means over keys, with the weights of one resample
    one_hot = np.eye(observed_classes)[observed - 1]
    misses_by_chance = np.repeat([0.0, 1 / (observed_classes - top_k)], [top_k, observed_classes - top_k])
    hits_at_once = np.eye(observed_classes)[0]

    def outcome(by_rank: NDArray[np.float64]) -> tuple[float, int]:
        """Power and the median victim's sum of scores; by_rank: P(rank) of each victim, [victims, observed_classes]."""
        moved = _at_other_classes(by_rank, top_k, num_classes)
        by_score = np.stack([np.bincount(scores, weights=row) for row in moved]).astype(np.float64)
        cdf = _sums_cdf(by_score, num_keys)
        return (float(cdf[critical]) if critical >= 0 else 0.0), int(np.searchsorted(cdf, 0.5))

    def hit_rate(by_rank: NDArray[np.float64]) -> float:
        return float(by_rank[:, :top_k].sum(1).mean())

    random = np.random.default_rng(seed)
    places = np.arange(observed_classes)
    powers, medians, hit_rates, mean_ranks = [], [], [], []
    for _ in range(num_resamples):
        victims = random.integers(num_victims, size=num_victims)
        weights = random.gamma(np.array([*np.ones(observed_keys), 0.5, 0.5]))
        weights /= weights.sum()
        by_rank = np.einsum("k,vkc->vc", weights[:-2], one_hot[victims])
        by_rank += weights[-2] * hits_at_once + weights[-1] * misses_by_chance
        power, middle = outcome(by_rank)
        powers.append(power)
        medians.append(middle)
        hit_rates.append(hit_rate(by_rank))
        mean_ranks.append(float((by_rank @ places).mean()) / (observed_classes - 1))
    low_hits, high_ranks = np.quantile(hit_rates, 0.025), np.quantile(mean_ranks, 0.975)
    if low_hits <= top_k / observed_classes and high_ranks >= 0.5:
        raise InputError(
            f"hits and ranks of these {num_victims} victims with {observed_keys} keys cannot be told from chance, so there is "
            "nothing to extrapolate; take a cell with more keys, more images per key or more victims"
        )
    power, middle = outcome(one_hot.mean(1))
    low_sum, high_sum = np.quantile(medians, [0.025, 0.975], method="closest_observation").astype(int)
    far = max(num_keys / observed_keys, num_classes / observed_classes)
    return Extrapolation(
        num_keys=num_keys,
        num_classes=num_classes,
        alpha=alpha,
        hit_rate=_enclosing(hit_rate(one_hot.mean(1)), hit_rates),
        power=_enclosing(power, powers),
        log10_p=Estimate(*(math.log10(null.tail(total)) for total in (middle, low_sum, high_sum))),
        sureness=(
            f"from {num_victims} victims and {observed_keys} keys"
            + (f", {far:.3g} times beyond what was measured" if far > 1 else ", within what was measured")
            + ("; so few victims say little of how victims differ" if num_victims < 6 else "")
        ),
    )


def extrapolate_cell(
    cell: Cell, results: SweepResults, *, num_keys: int, num_classes: int, alpha: float
) -> Extrapolation:
    """As `extrapolate`, of one cell of a sweep.

    Raises:
        InputError: as `extrapolate`, or the cell's records hold no ranks.
    """
    if any(len(victim.ranks) != cell.num_keys for victim in cell.victims):
        raise InputError(f"the victims of cell {cell.name} have no ranks in the results; run the sweep again")
    statistic: Statistic = "rank" if results.statistic == "rank" else "hits"
    return extrapolate(
        np.array([victim.ranks for victim in cell.victims], dtype=np.int64).reshape(len(cell.victims), cell.num_keys),
        observed_classes=results.num_classes,
        top_k=results.top_k,
        statistic=statistic,
        num_keys=num_keys,
        num_classes=num_classes,
        alpha=alpha,
    )


def _enclosing(estimate: float, resampled: Sequence[float]) -> Estimate:
    """With the added half hit and half miss the middle of the resamples is not the estimate, which may lie at an edge."""
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(estimate, min(estimate, float(low)), max(estimate, float(high)))


def _at_other_classes(by_rank: NDArray[np.float64], top_k: int, num_classes: int) -> NDArray[np.float64]:
    """P(rank) per victim, [victims, C], at another number of classes, [victims, num_classes].

    A hit rate h is s + (1 - s) k / C, with s the share of keys that take; s stays. The places of misses are stretched.
    """
    observed_classes = by_rank.shape[1]
    hits, misses = by_rank[:, :top_k], by_rank[:, top_k:]
    hit_rate = hits.sum(1, keepdims=True)
    miss_rate = 1 - hit_rate
    new_miss_rate = np.minimum(1.0, miss_rate * (1 - top_k / num_classes) / (1 - top_k / observed_classes))
    by_hit = np.divide(hits, hit_rate, out=np.eye(top_k)[[0] * len(hits)], where=hit_rate > 0)
    edges = np.linspace(0, 1, observed_classes - top_k + 1)
    new_edges = np.linspace(0, 1, num_classes - top_k + 1)
    stretched = []
    for row, rate in zip(misses, miss_rate[:, 0], strict=True):
        cdf = np.concatenate([[0.0], np.cumsum(row)]) / rate if rate > 0 else edges
        stretched.append(np.diff(np.interp(new_edges, edges, cdf)))
    return np.concatenate([by_hit * (1 - new_miss_rate), np.stack(stretched) * new_miss_rate], axis=1)


def _sums_cdf(by_score: NDArray[np.float64], num_terms: int) -> NDArray[np.float64]:
    """The distribution function of the sum of independent scores, mean over victims; by_score: [victims, scores].

    To about 1e-13, absolutely: enough for a power, not for a p-value.
    """
    length = num_terms * (by_score.shape[1] - 1) + 1
    size = next_fast_len(length, real=True)
    transform: NDArray[np.complex128] = np.fft.rfft(by_score, size, axis=1) ** num_terms
    cdf: NDArray[np.float64] = np.minimum(1.0, np.cumsum(np.fft.irfft(transform.mean(0), size)[:length]))
    cdf[-1] = 1.0
    return cdf


class _Sum:
    """The sum of i.i.d. non-negative integer scores, with lower tails exact to many digits however small they are.

    A tail at `total` is taken from the exponentially tilted distribution whose mean lies there (Esscher 1932), which the
    Fourier transform renders to all but the last digits.
    """

    def __init__(self, by_score: NDArray[np.float64], num_terms: int) -> None:
        self._by_score = by_score
        self._num_terms = num_terms
        self._scores = np.arange(len(by_score))

    def tail(self, total: int) -> float:
        """P(sum <= total), at least 1e-300."""
        if total < 0:
            return P_VALUE_FLOOR
        if total >= self._num_terms * self._scores[-1]:
            return 1.0
        if total == 0:
            return float(max(P_VALUE_FLOOR, self._by_score[0] ** self._num_terms))
        goal = total / self._num_terms
        theta = 0.0
        if goal < self._mean(0.0):
            upper = 1.0
            while self._mean(upper) > goal:
                upper *= 2
            theta = float(brentq(lambda x: self._mean(x) - goal, 0.0, upper))
        weights = self._by_score * np.exp(-theta * self._scores)
        norm = weights.sum()
        cut = (weights / norm)[: total + 1]
        size = next_fast_len(self._num_terms * (len(weights) - 1) + 1, real=True)
        tilted = np.fft.irfft(np.fft.rfft(cut, size) ** self._num_terms, size)[: total + 1].clip(0)
        # sum of q(s) e^(theta s) M^n, with the largest exponent, that of s = total, taken out
        shrunk = float(tilted @ np.exp(theta * (np.arange(total + 1) - total)))
        if shrunk <= 0:
            return P_VALUE_FLOOR
        log_tail = math.log(shrunk) + theta * total + self._num_terms * math.log(norm)
        return max(P_VALUE_FLOOR, math.exp(max(log_tail, math.log(P_VALUE_FLOOR)))) if log_tail < 0 else 1.0

    def critical(self, alpha: float) -> int:
        """The largest total with P(sum <= total) <= alpha; -1 if there is none."""
        low, high = -1, self._num_terms * int(self._scores[-1])  # P(sum <= high) = 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.tail(middle) <= alpha:
                low = middle
            else:
                high = middle
        return low

    def _mean(self, theta: float) -> float:
        weights = self._by_score * np.exp(-theta * self._scores)
        return float(weights @ self._scores / weights.sum())
