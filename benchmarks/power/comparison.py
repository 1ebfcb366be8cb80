"""What records of the power bench say side by side: p beside a baseline's, controls beside chance, victims beside the clean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import kstest, t

from benchmarks.power.records import FLIP_LEVELS, Clean, Record

COMPARED = ("question", "own", "top_5")
CONFIDENCE = 0.95


def pairs(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """Returns the draws of each cell and kind of victim, in the order of `records`."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        found.setdefault((record.cell, record.kind), []).append(record)
    return found


@dataclass(frozen=True)
class Comparison:
    """A cell and a kind of victim over the draws that the baseline has, too.

    means: geometric mean of p over draws and victims, by name in `COMPARED`. times_smaller: the baseline's through it.
    """

    cell: str
    kind: str
    num_draws: int
    num_victims: int
    means: Mapping[str, float]
    times_smaller: Mapping[str, float]


def compare(records: Sequence[Record], baseline: str) -> list[Comparison]:
    """Returns each cell and kind beside the same kind of the baseline; those of which it has no draw are left out."""
    of = pairs(records)
    found = []
    for (cell, kind), own in of.items():
        other = of.get((baseline, kind), [])
        draws = {record.draw for record in own} & {record.draw for record in other}
        if draws:
            means, base = (_means([r for r in side if r.draw in draws]) for side in (own, other))
            smaller = {name: base[name] / means[name] for name in COMPARED}
            number = sum(len(record.victims) for record in own if record.draw in draws)
            found.append(Comparison(cell, kind, len(draws), number, means, smaller))
    return found


def _means(records: Sequence[Record]) -> dict[str, float]:
    victims = [victim for record in records for victim in record.victims]
    return {name: geometric_mean([getattr(victim, name) for victim in victims]) for name in COMPARED}


def geometric_mean(values: Sequence[float]) -> float:
    """Returns the n-th root of the product of values above 0."""
    return math.exp(fmean(math.log(value) for value in values))


@dataclass(frozen=True)
class Uniformity:
    """Kolmogorov-Smirnov test of controls' p-values against the uniform distribution.

    smaller: p-value against smaller ones, which would be false alarms. two_sided: against any other.
    """

    name: str
    num_values: int
    num_draws: int
    smaller: float
    two_sided: float


def uniformity(records: Sequence[Record]) -> list[Uniformity]:
    """Returns the test for each of `COMPARED`; a control with the same keys in several cells, so the same p, counts once."""
    found = []
    for name in COMPARED:
        values = {(r.draw, r.kind, c.name, getattr(c, name)) for r in records for c in r.controls}
        sides = [
            float(kstest([p for *_, p in values], "uniform", alternative=side).pvalue)
            for side in ("greater", "two-sided")  # "greater": a distribution function above the uniform one's
        ]
        found.append(Uniformity(name, len(values), len({draw for draw, *_ in values}), *sides))
    return found


def prediction_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Returns where, with 95%, one more value of the same normal distribution lies (Student's t); None of fewer than two."""
    if len(values) < 2:
        return None
    reach = t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stdev(values) * math.sqrt(1 + 1 / len(values))
    return fmean(values) - float(reach), fmean(values) + float(reach)


@dataclass(frozen=True)
class Harm:
    """Victims of a cell beside clean models of their kind. within: how many victims are in the interval; None without one."""

    clean: float
    victims: float
    interval: tuple[float, float] | None
    num_clean: int
    within: int | None
    num_victims: int


def accuracy_harm(records: Sequence[Record]) -> Harm:
    """Returns the accuracies of one cell and kind: clean models have no keys, so all draws share them."""
    clean = {(model.name, model.accuracy) for record in records for model in record.clean}
    victims = [victim.accuracy for record in records for victim in record.victims]
    return _harm([([accuracy for _, accuracy in sorted(clean)], victims)])


def flip_harm(records: Sequence[Record], level: int) -> Harm:
    """Returns the flip rates of one cell and kind at one of `FLIP_LEVELS`: each draw has its own keys, and so its own interval.

    The interval is the widest of the draws'.
    """
    index = FLIP_LEVELS.index(level)

    def rates(models: Sequence[Clean]) -> list[float]:
        return [model.flips[index] for model in models]

    return _harm([(rates(record.clean), rates(record.victims)) for record in records])


def _harm(groups: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Harm:
    """groups: clean models and victims that are compared."""
    intervals = [prediction_interval(clean) for clean, _ in groups]
    known = [interval for interval in intervals if interval is not None]
    within = sum(
        low <= victim <= high for (_, victims), (low, high) in zip(groups, known, strict=False) for victim in victims
    )
    is_known = len(known) == len(groups)
    return Harm(
        clean=fmean(value for clean, _ in groups for value in clean),
        victims=fmean(value for _, victims in groups for value in victims),
        interval=(min(low for low, _ in known), max(high for _, high in known)) if is_known else None,
        num_clean=len(groups[0][0]),
        within=within if is_known else None,
        num_victims=sum(len(victims) for _, victims in groups),
    )
