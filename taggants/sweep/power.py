"""What the cells of a sweep say of detection power, and how surely: exact intervals and a recommendation.

All intervals are two-sided with confidence 95% unless they say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import binom, binomtest

from taggants.errors import InputError
from taggants.evaluation.differences import PairedDifference, paired_difference
from taggants.sweep.results import Cell, SweepResults, Trained

CONFIDENCE: Final = 0.95


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
    accuracy_change: PairedDifference | None
    worst_class_change: PairedDifference | None
    training_seconds: float


def cell_power(cell: Cell, alphas: Sequence[float]) -> CellPower:
    """Returns the summary of one cell at these levels."""
    p_values = [victim.p_value for victim in cell.victims]
    return CellPower(
        name=cell.name,
        power=tuple(proportion(sum(p <= alpha for p in p_values), len(p_values)) for alpha in alphas),
        log10_p=median([math.log10(p) for p in p_values]),
        accuracy_change=_change(cell, lambda model: model.accuracy),
        worst_class_change=_change(cell, lambda model: model.worst_class_accuracy),
        training_seconds=sum(victim.seconds for victim in cell.victims),
    )


def _change(cell: Cell, measure: Callable[[Trained], float]) -> PairedDifference | None:
    """Returns victims minus controls over the seeds that both were trained with; None without any."""
    controls = {control.index: measure(control) for control in cell.controls}
    victims = {victim.index: measure(victim) for victim in cell.victims if victim.index in controls}
    if not victims:
        return None
    return paired_difference(list(victims.values()), [controls[index] for index in victims], CONFIDENCE)


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
    """Returns the cell of the lowest median p-value of its victims, among equals the cheapest; None without a tested victim."""
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
