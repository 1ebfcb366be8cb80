"""What the page of a sweep shows, in its template's words: cells with their figures, maps, charts, advice."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from taggants.reporting.quantities import counted
from taggants.sweep import charts, formatting
from taggants.sweep.power import (
    CellPower,
    FalsePositives,
    Proportion,
    Recommendation,
    false_positives,
    recommend,
    strongest_cell,
)
from taggants.sweep.results import Cell, SweepResults, Trained

_FACTORS: Final = ("epsilon", "engine", "surrogate", "victim", "recipe")


def repeat_command(results: SweepResults, cell: Cell) -> str:
    """Returns a shell command that makes the models of one cell anew: the sweep's own options, then the settings of the cell."""
    words = shlex.split(results.command)
    program = 1  # after "python" or "taggants"
    words[program] = re.sub(r"sweep(\.py)?$", r"craft\1", words[program])
    return shlex.join([*words, *(word for setting in cell.settings for word in ("--set", setting))])


@dataclass(frozen=True)
class View:
    """A cell with what is told of it. place: its number in the sweep."""

    place: int
    cell: Cell
    power: CellPower
    results: SweepResults

    @property
    def command(self) -> str:
        return repeat_command(self.results, self.cell)

    @property
    def size(self) -> str:
        return f"{counted(self.cell.num_keys, 'key')}, {counted(self.cell.images_per_key, 'image')} each"

    @property
    def factors(self) -> str:
        return _factors_text(_factors(self.cell))

    @property
    def control_accuracy(self) -> float | None:
        return _mean_accuracy(self.cell.controls)

    @property
    def victim_accuracy(self) -> float | None:
        return _mean_accuracy(self.cell.victims)

    def proportion(self, alpha: float) -> Proportion:
        return self.power.power[self.results.alphas.index(alpha)]


def _mean_accuracy(models: Sequence[Trained]) -> float | None:
    return float(np.mean([model.accuracy for model in models])) if models else None


_Factors = tuple[float | str, ...]


def _factors(cell: Cell) -> _Factors:
    return tuple(getattr(cell, name) for name in _FACTORS)


def _factors_text(factors: _Factors) -> str:
    epsilon, engine, surrogate, victim, recipe = factors
    return f"victim {victim} ({recipe}), surrogate {surrogate}, epsilon {formatting.levels(float(epsilon))}, engine {engine}"


def combinations(results: SweepResults, views: Sequence[View]) -> list[dict[str, Any]]:
    """One entry for each combination of factors: its title and, for each alpha, map and curves."""
    lowest = _lowest_log10_p(results)
    found = []
    for i, factors in enumerate(dict.fromkeys(_factors(view.cell) for view in views)):
        members = [view for view in views if _factors(view.cell) == factors]
        key_counts = sorted({view.cell.num_keys for view in members})
        found.append(
            {
                "title": _factors_text(factors),
                "key_counts": key_counts,
                "levels": [
                    {
                        "alpha": alpha,
                        "map": _power_map(members, key_counts, alpha),
                        "example": next(
                            ((view, p) for view in reversed(members) if (p := view.proportion(alpha)).total), None
                        ),
                        "curves": _curves(f"curve-{i}-{j}", members, key_counts, alpha, results.wanted_power),
                    }
                    for j, alpha in enumerate(results.alphas)
                ],
                "strips": [_strips(f"strip-{i}-{k}", members, k, results.alphas, lowest) for k in key_counts],
                "changes": _accuracy_changes(f"change-{i}", members, key_counts, views),
            }
        )
    return found


def _power_map(members: Sequence[View], key_counts: Sequence[int], alpha: float) -> list[dict[str, Any]]:
    """Rows of images per key, ascending; places of key counts, each with its cells (none where nothing was run)."""
    rows = []
    for images_per_key in sorted({view.cell.images_per_key for view in members}):
        places = []
        for k in key_counts:
            here = [view for view in members if (view.cell.images_per_key, view.cell.num_keys) == (images_per_key, k)]
            places.append([(view, view.proportion(alpha)) for view in here])
        rows.append({"images_per_key": images_per_key, "places": places})
    return rows


def _curves(
    name: str, members: Sequence[View], key_counts: Sequence[int], alpha: float, wanted_power: float
) -> list[Markup]:
    curves = {}
    for k in key_counts:
        ofs = sorted((view for view in members if view.cell.num_keys == k), key=lambda view: view.cell.budget)
        curves[k] = [_power_reading(view, alpha) for view in ofs]
    title = f"Power at alpha {formatting.level(alpha)} against images per key"
    return [
        charts.power_curves(f"{name}-{k}", f"{title}, {counted(k, 'key')}", curves, k, wanted_power) for k in key_counts
    ]


def _power_reading(view: View, alpha: float) -> charts.Reading:
    cell, proportion = view.cell, view.proportion(alpha)
    return charts.Reading(
        x=cell.budget,
        label=f"{cell.images_per_key}\n{formatting.percent(cell.budget)}",
        estimate=proportion.estimate,
        low=proportion.low if proportion.total else None,
        high=proportion.high if proportion.total else None,
        note=f"{counted(cell.images_per_key, 'image')} per key: {formatting.in_words(proportion)} detected",
    )


def _strips(name: str, members: Sequence[View], num_keys: int, alphas: Sequence[float], lowest: float) -> Markup:
    """The p-values of all models asked with this number of keys."""

    def models(kind: str, trained: Sequence[Trained]) -> tuple[tuple[float, str], ...]:
        return tuple(
            (math.log10(m.p_value), f"{kind} {m.index}: p = {m.p_value:.2g}, {m.num_hits} hits") for m in trained
        )

    ordered = sorted((v for v in members if v.cell.num_keys == num_keys), key=lambda v: v.cell.images_per_key)
    strips = [
        charts.Strip(
            f"{view.cell.images_per_key}/key",
            models("victim", view.cell.victims),
            models("control", view.cell.controls),
        )
        for view in ordered
    ]
    title = f"p-values of victims and controls, {counted(num_keys, 'key')}"
    return charts.p_value_strips(name, title, strips, alphas, lowest)


def _lowest_log10_p(results: SweepResults) -> float:
    p_values = [model.p_value for cell in results.cells for model in (*cell.victims, *cell.controls)]
    return math.log10(min([*p_values, *results.alphas, 0.1])) - 0.5


def _accuracy_changes(
    name: str, members: Sequence[View], key_counts: Sequence[int], views: Sequence[View]
) -> list[Markup]:
    """Charts in percentage points, with one axis over all combinations."""
    changes = [change for view in views if (change := view.power.accuracy_change)]
    if not changes:
        return []
    ends = [abs(100 * end) for c in changes for end in (c.mean, c.low, c.high) if end is not None]
    reach = max(0.1, *ends) * 1.05
    drawn = []
    for k in key_counts:
        ordered = sorted((v for v in members if v.cell.num_keys == k), key=lambda v: v.cell.images_per_key)
        readings = []
        for view in ordered:
            change = view.power.accuracy_change
            readings.append(
                charts.Reading(
                    x=view.cell.budget,
                    label=f"{view.cell.images_per_key}/key",
                    estimate=None if change is None else 100 * change.mean,
                    low=None if change is None or change.low is None else 100 * change.low,
                    high=None if change is None or change.high is None else 100 * change.high,
                    note=f"{counted(view.cell.images_per_key, 'image')} per key: {formatting.points(change)}",
                )
            )
        drawn.append(
            charts.intervals(
                f"{name}-{k}",
                f"Accuracy of victims minus controls, {counted(k, 'key')}",
                readings,
                axis="accuracy change in points",
                low=-reach,
                high=reach,
                reference=0,
                reference_note="no change",
            )
        )
    return drawn


def false_positive_views(results: SweepResults) -> dict[str, Any]:
    """rows: as in power. panels: a chart for each alpha."""
    rows = false_positives(results)
    highest = max((row.rate.high for row in rows), default=1.0)
    panels = []
    for i, alpha in enumerate(results.alphas):
        here = [row for row in rows if row.alpha == alpha]
        if here:
            panels.append(
                charts.intervals(
                    f"false-{i}",
                    f"Controls detected at alpha {formatting.level(alpha)}",
                    [_false_positive_reading(row) for row in here],
                    axis=f"share of controls detected at alpha {formatting.level(alpha)}",
                    low=0,
                    high=100 * highest,
                    reference=100 * alpha,
                    reference_note=f"alpha = {formatting.level(alpha)}",
                    unit="%",
                    kind="control",
                )
            )
    return {"rows": rows, "panels": panels}


def _false_positive_reading(row: FalsePositives) -> charts.Reading:
    label = "all" if row.num_keys is None else counted(row.num_keys, "key")
    estimate = row.rate.estimate
    return charts.Reading(
        x=row.alpha,
        label=label,
        estimate=None if estimate is None else 100 * estimate,
        low=100 * row.rate.low,
        high=100 * row.rate.high,
        note=f"{label}: {formatting.in_words(row.rate)} detected",
    )


def advice(results: SweepResults, alpha: float, views: Sequence[View]) -> dict[str, Any]:
    """What to take at this level. best: the cell of largest estimate, and of those the strongest, where none reaches the
    wanted power."""
    found: Recommendation = recommend(results, alpha)
    by_name = {view.cell.name: view for view in views}
    measured = [view for view in views if view.proportion(alpha).total]
    most = max((view.proportion(alpha).count / view.proportion(alpha).total for view in measured), default=0.0)
    nearest = [v.cell for v in measured if v.proportion(alpha).count / v.proportion(alpha).total == most]
    best = strongest_cell(nearest)
    return {
        "found": found,
        "certain": by_name.get(found.certain or ""),
        "likely": by_name.get(found.likely or ""),
        "best": None if best is None else by_name[best.name],
    }


def swept(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Each factor and the values it took."""
    shown: dict[str, Callable[[Any], str]] = {"epsilon": formatting.levels}
    names = {"images_per_key": "images per key", "num_keys": "keys"} | {name: name for name in _FACTORS}
    found = []
    for field, name in names.items():
        values = sorted({getattr(cell, field) for cell in cells})
        found.append((name, ", ".join(shown.get(field, str)(value) for value in values)))
    return found
