"""A sweep as one HTML page that needs no network: maps, curves, tables, images, and how to repeat each cell."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from taggants.errors import InputError
from taggants.storage import Root
from taggants.sweep import charts
from taggants.sweep.power import (
    ASSUMPTIONS,
    CONFIDENCE,
    MAX_FACTOR,
    CellPower,
    Extrapolation,
    FalsePositives,
    Mean,
    Proportion,
    Recommendation,
    cell_power,
    extrapolate_cell,
    false_positives,
    recommend,
    strongest_cell,
)
from taggants.sweep.results import Cell, SweepResults, Trained

MAX_IMAGE_WIDTH: Final = 1600
"""Pixels; wider contact sheets are made smaller."""

_FACTORS: Final = ("epsilon", "engine", "surrogate", "victim", "recipe")
_HEAT_STEPS = 6
_NOTHING = "\u2013"  # a dash: not measured


def write_report(results: SweepResults, root: Root, path: str = "report.html") -> str:
    """Writes the page with the contact sheet of each cell that has one; it appears whole, over an older one.

    Args:
        results: of the sweep.
        root: the sweep's output root, in which `Cell.run` lies.
        path: of the page, from the root.

    Returns: the URI of the page.

    Raises:
        InputError: a contact sheet is no image, the records are not of one sweep, or the root cannot be written.
    """
    images = {}
    for cell in results.cells:
        sheet = f"{cell.run}/contact_sheet.png"
        if root.exists(sheet):
            try:
                images[cell.name] = _narrowed(root.read_bytes(sheet))
            except (UnidentifiedImageError, OSError):
                raise InputError(
                    f"{root.uri_of(sheet)} is not a whole image; delete it and run the sweep again"
                ) from None
    root.write_bytes(path, render(results, images).encode())
    return root.uri_of(path)


def render(results: SweepResults, images: Mapping[str, bytes] | None = None) -> str:
    """The page as HTML. It loads nothing, and its policy forbids it to.

    Args:
        results: of the sweep. They are in the page, too, as JSON of which `SweepResults.from_json` makes them again.
        images: a PNG of signed images by name of cell.

    Raises:
        InputError: the records are not of one sweep.
    """
    images = images or {}
    style, script = _package_text("report.css"), _package_text("report.js")
    powers = {cell.name: cell_power(cell, results.alphas) for cell in results.cells}
    views = tuple(_View(i, cell, powers[cell.name], results) for i, cell in enumerate(results.cells))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= _FILTERS
    return environment.from_string(_package_text("report_template.html")).render(
        results=results,
        results_json=Markup(htmlsafe_json_dumps(results.to_json(), indent=1)),
        style=Markup(style),
        style_hash=_policy_hash(style),
        script=Markup(script),
        script_hash=_policy_hash(script),
        swept=_swept(results.cells),
        advice=[_advice(results, alpha, views) for alpha in results.alphas],
        combinations=_combinations(results, views),
        cells=views,
        has_stopped=any(cell.stopped for cell in results.cells),
        most_steps=max((cell.sample_steps for cell in results.cells), default=0),
        false_positives=_false_positive_views(results),
        extrapolation=_extrapolation(results, views),
        figures=_figures(views, images),
        config_text=json.dumps(results.config, indent=1, sort_keys=True),
        assumptions=ASSUMPTIONS,
        confidence=CONFIDENCE,
    )


def repeat_command(results: SweepResults, cell: Cell) -> str:
    """A shell command that makes the models of one cell anew: the sweep's own options, then the settings of the cell."""
    words = shlex.split(results.command)
    program = 1  # after "python" or "taggants"
    words[program] = re.sub(r"sweep(\.py)?$", r"craft\1", words[program])
    return shlex.join([*words, *(word for setting in cell.settings for word in ("--set", setting))])


@dataclass(frozen=True)
class _View:
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
        return f"{_count(self.cell.num_keys, 'key')}, {_count(self.cell.images_per_key, 'image')} each"

    @property
    def factors(self) -> str:
        return _factors_text(_factors(self.cell))

    @property
    def control_accuracy(self) -> float | None:
        return _average(model.accuracy for model in self.cell.controls)

    @property
    def victim_accuracy(self) -> float | None:
        return _average(model.accuracy for model in self.cell.victims)

    def proportion(self, alpha: float) -> Proportion:
        return self.power.power[self.results.alphas.index(alpha)]


_Factors = tuple[float | str, ...]


def _factors(cell: Cell) -> _Factors:
    return tuple(getattr(cell, name) for name in _FACTORS)


def _factors_text(factors: _Factors) -> str:
    epsilon, engine, surrogate, victim, recipe = factors
    return f"victim {victim} ({recipe}), surrogate {surrogate}, epsilon {_levels(float(epsilon))}, engine {engine}"


def _combinations(results: SweepResults, views: Sequence[_View]) -> list[dict[str, Any]]:
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


def _power_map(members: Sequence[_View], key_counts: Sequence[int], alpha: float) -> list[dict[str, Any]]:
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
    name: str, members: Sequence[_View], key_counts: Sequence[int], alpha: float, wanted_power: float
) -> list[Markup]:
    curves = {}
    for k in key_counts:
        ofs = sorted((view for view in members if view.cell.num_keys == k), key=lambda view: view.cell.budget)
        curves[k] = [_power_reading(view, alpha) for view in ofs]
    title = f"Power at alpha {charts.level_text(alpha)} against images per key"
    return [
        charts.power_curves(f"{name}-{k}", f"{title}, {_count(k, 'key')}", curves, k, wanted_power) for k in key_counts
    ]


def _power_reading(view: _View, alpha: float) -> charts.Reading:
    cell, proportion = view.cell, view.proportion(alpha)
    return charts.Reading(
        x=cell.budget,
        label=f"{cell.images_per_key}\n{_percent(cell.budget)}",
        estimate=proportion.estimate,
        low=proportion.low if proportion.total else None,
        high=proportion.high if proportion.total else None,
        note=f"{_count(cell.images_per_key, 'image')} per key: {_in_words(proportion)} detected",
    )


def _strips(name: str, members: Sequence[_View], num_keys: int, alphas: Sequence[float], lowest: float) -> Markup:
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
    title = f"p-values of victims and controls, {_count(num_keys, 'key')}"
    return charts.p_value_strips(name, title, strips, alphas, lowest)


def _lowest_log10_p(results: SweepResults) -> float:
    p_values = [model.p_value for cell in results.cells for model in (*cell.victims, *cell.controls)]
    return math.log10(min([*p_values, *results.alphas, 0.1])) - 0.5


def _accuracy_changes(
    name: str, members: Sequence[_View], key_counts: Sequence[int], views: Sequence[_View]
) -> list[Markup]:
    """Charts in percentage points, with one axis over all combinations."""
    changes = [change for view in views if (change := view.power.accuracy_change)]
    if not changes:
        return []
    ends = [abs(100 * end) for c in changes for end in (c.estimate, c.low, c.high) if end is not None]
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
                    estimate=None if change is None else 100 * change.estimate,
                    low=None if change is None or change.low is None else 100 * change.low,
                    high=None if change is None or change.high is None else 100 * change.high,
                    note=f"{_count(view.cell.images_per_key, 'image')} per key: {_points(change)}",
                )
            )
        drawn.append(
            charts.intervals(
                f"{name}-{k}",
                f"Accuracy of victims minus controls, {_count(k, 'key')}",
                readings,
                axis="accuracy change in points",
                low=-reach,
                high=reach,
                reference=0,
                reference_note="no change",
            )
        )
    return drawn


def _false_positive_views(results: SweepResults) -> dict[str, Any]:
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
                    f"Controls detected at alpha {charts.level_text(alpha)}",
                    [_false_positive_reading(row) for row in here],
                    axis=f"share of controls detected at alpha {charts.level_text(alpha)}",
                    low=0,
                    high=100 * highest,
                    reference=100 * alpha,
                    reference_note=f"alpha = {charts.level_text(alpha)}",
                    unit="%",
                    kind="control",
                )
            )
    return {"rows": rows, "panels": panels}


def _false_positive_reading(row: FalsePositives) -> charts.Reading:
    label = "all" if row.num_keys is None else _count(row.num_keys, "key")
    estimate = row.rate.estimate
    return charts.Reading(
        x=row.alpha,
        label=label,
        estimate=None if estimate is None else 100 * estimate,
        low=100 * row.rate.low,
        high=100 * row.rate.high,
        note=f"{label}: {_in_words(row.rate)} detected",
    )


def _advice(results: SweepResults, alpha: float, views: Sequence[_View]) -> dict[str, Any]:
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


def _extrapolation(results: SweepResults, views: Sequence[_View]) -> dict[str, Any] | None:
    """To more keys and classes, at the strictest level, from the strongest cell, as the terminal does."""
    strongest = strongest_cell([view.cell for view in views])
    if not results.alphas or strongest is None:
        return None
    alpha = min(results.alphas)
    view = next(view for view in views if view.cell is strongest)
    rows: list[Extrapolation] = []
    try:
        for num_classes in (results.num_classes, MAX_FACTOR * results.num_classes):
            for factor in (1, 2):
                rows.append(
                    extrapolate_cell(
                        view.cell,
                        results,
                        num_keys=factor * view.cell.num_keys,
                        num_classes=num_classes,
                        alpha=alpha,
                    )
                )
    except InputError as error:
        return {"view": view, "alpha": alpha, "rows": [], "refusal": str(error)}
    return {"view": view, "alpha": alpha, "rows": rows, "refusal": ""}


def _figures(views: Sequence[_View], images: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Each picture once, with the cells that share it: those that differ only in the models trained."""
    owners: dict[bytes, list[_View]] = {}
    for view in views:
        if view.cell.name in images:
            owners.setdefault(images[view.cell.name], []).append(view)
    found = []
    for image, shown in owners.items():
        with Image.open(io.BytesIO(image), formats=["PNG"]) as picture:
            width, height = picture.size
        source = "data:image/png;base64," + base64.b64encode(image).decode()
        found.append({"source": source, "width": width, "height": height, "views": shown})
    return found


def _narrowed(png: bytes) -> bytes:
    """The picture as it is, or `MAX_IMAGE_WIDTH` wide where it is wider."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        picture = image.convert("RGB")  # also reads it to its end
    if picture.width <= MAX_IMAGE_WIDTH:
        return png
    height = max(1, round(picture.height * MAX_IMAGE_WIDTH / picture.width))
    picture = picture.resize((MAX_IMAGE_WIDTH, height), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    picture.save(sink, format="PNG")
    return sink.getvalue()


def _swept(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Each factor and the values it took."""
    shown: dict[str, Callable[[Any], str]] = {"epsilon": _levels}
    names = {"images_per_key": "images per key", "num_keys": "keys"} | {name: name for name in _FACTORS}
    found = []
    for field, name in names.items():
        values = sorted({getattr(cell, field) for cell in cells})
        found.append((name, ", ".join(shown.get(field, str)(value) for value in values)))
    return found


def _package_text(name: str) -> str:
    return files("taggants.sweep").joinpath(name).read_text(encoding="utf-8")


def _policy_hash(text: str) -> str:
    """As a content security policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _average(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _percent(share: float | None) -> str:
    """Near 0% and 100% with more digits, and never 100% of what is less."""
    if share is None:
        return _NOTHING
    percent = 100 * share
    if 0 < percent < 10:
        return f"{percent:.2g}%"
    return f"{math.floor(10 * percent) / 10}%" if 99 < percent < 100 else f"{round(percent)}%"


def _range(proportion: Proportion) -> str:
    return f"{_percent(proportion.low)} to {_percent(proportion.high)}"


def _in_words(proportion: Proportion) -> str:
    if not proportion.total:
        return "none of none"
    return f"{proportion.count} of {proportion.total} ({_percent(proportion.estimate)}, interval {_range(proportion)})"


def _signed(number: float, digits: int = 2) -> str:
    return f"{number:+.{digits}f}".replace("-", charts.MINUS)


def _points(change: Mean | None) -> str:
    if change is None:
        return "not measured"
    text = f"{_signed(100 * change.estimate)} points"
    if change.low is None or change.high is None:
        return f"{text} (one pair, no interval)"
    return f"{text} ({_signed(100 * change.low)} to {_signed(100 * change.high)})"


def _levels(epsilon: float) -> str:
    """In levels of 8 bits, where it is a whole number of them."""
    levels = epsilon * 255
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-6 else f"{epsilon:.4g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def _decimal(number: float | None, digits: int = 2) -> str:
    if number is None:
        return _NOTHING
    return "∞" if math.isinf(number) else f"{number:.{digits}f}".replace("-", charts.MINUS)


def _heat(proportion: Proportion) -> str:
    """Class of the colour of a place on the map."""
    return "none" if proportion.estimate is None else f"heat-{round(proportion.estimate * (_HEAT_STEPS - 1))}"


_FILTERS: Final[dict[str, Callable[..., str]]] = {
    "count": _count,
    "decimal": _decimal,
    "duration": _duration,
    "exact": repr,  # of a float: the shortest text that reads as the same number
    "heat": _heat,
    "level": charts.level_text,
    "in_words": _in_words,
    "levels": _levels,
    "percent": _percent,
    "points": _points,
    "range": _range,
    "signed": _signed,
}
