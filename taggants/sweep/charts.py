"""Charts as inline SVG: values in, markup out. Colours come from the page's style sheet by class.

Each is an image with a title and a description that holds its values, for who cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from markupsafe import Markup

from taggants.sweep.formatting import MINUS, level

WIDTH: Final = 340  # user units, about CSS pixels in the grid of panels
_LEFT, _RIGHT, _TOP = 42, 14, 14


@dataclass(frozen=True)
class Reading:
    """A value and its interval.

    Attributes:
        x: place on the horizontal axis, where the chart has one for it.
        label: of its tick or row.
        estimate, low, high: None where there is none.
        note: the same in words.
    """

    x: float
    label: str
    estimate: float | None
    low: float | None
    high: float | None
    note: str


@dataclass(frozen=True)
class Strip:
    """The p-values of one row. label: of the row. victims, controls: log10 p and a note for each model."""

    label: str
    victims: tuple[tuple[float, str], ...]
    controls: tuple[tuple[float, str], ...]


def power_curves(
    name: str, title: str, curves: Mapping[int, Sequence[Reading]], key_count: int, wanted_power: float
) -> Markup:
    """Draws power against the signed share, with intervals for one number of keys; the others are thin lines.

    Args:
        name: of the chart, unique in the page.
        title: what a screen reader says first.
        curves: readings of power in [0, 1] by number of keys; x is the signed share of the dataset, above 0.
        key_count: that is in front.
        wanted_power: drawn as a line.
    """
    height, bottom = 238, 184
    readings = [reading for curve in curves.values() for reading in curve]
    logs = [math.log(reading.x) for reading in readings]
    to_x = _Scale(min(logs), max(logs), _LEFT + 16, WIDTH - _RIGHT - 16)
    to_y = _Scale(0, 1, bottom, _TOP)
    front = sorted(curves[key_count], key=lambda reading: reading.x)
    chart = _Chart(name, title, height, "; ".join(reading.note for reading in front))
    for tick in (0, 0.25, 0.5, 0.75, 1):
        chart.line("grid", _LEFT, to_y(tick), WIDTH - _RIGHT, to_y(tick))
        chart.text("tick", _LEFT - 6, to_y(tick) + 4, f"{tick:.0%}", "end")
    chart.line("wanted", _LEFT, to_y(wanted_power), WIDTH - _RIGHT, to_y(wanted_power), f"wanted: {wanted_power:.0%}")
    for k, curve in curves.items():
        if k != key_count:
            points = [(to_x(math.log(r.x)), to_y(r.estimate)) for r in curve if r.estimate is not None]
            chart.path("behind", points, f"{k} keys")
    places = [(reading, to_x(math.log(reading.x))) for reading in front]
    chart.path("front", [(x, to_y(r.estimate)) for r, x in places if r.estimate is not None])
    free_from = -math.inf
    for reading, x in places:
        chart.interval(reading, x, to_y, vertical=True)
        if x >= free_from:  # else its label would lie on the last one
            first, _, second = reading.label.partition("\n")
            chart.text("tick", x, bottom + 17, first, "middle")
            chart.text("tick faint", x, bottom + 31, second, "middle")
            free_from = x + 44
    chart.text(
        "axis", (_LEFT + WIDTH - _RIGHT) / 2, height - 5, "images per key, and share of the data signed", "middle"
    )
    return chart.markup()


def p_value_strips(name: str, title: str, strips: Sequence[Strip], alphas: Sequence[float], lowest: float) -> Markup:
    """Draws log10 p of each model: victims as discs, controls as open diamonds in the lane below; alphas as lines.

    Args:
        name, title: as for `power_curves`.
        strips: one row each.
        alphas: levels.
        lowest: log10 p at the left end, below 0, so that several charts compare.
    """
    row, top, left = 46, 44, 56
    has_long_labels = any(len(strip.label) > 8 for strip in strips)  # which go over their rows
    if has_long_labels:
        row, left = 62, 14
    bottom = top + row * len(strips)
    height = bottom + 36
    to_x = _Scale(lowest, 0, left + 8, WIDTH - _RIGHT - 6)
    notes = [f"{s.label}: " + ", ".join(note for _, note in (*s.victims, *s.controls)) for s in strips]
    chart = _Chart(name, title, height, "; ".join(notes))
    step = max(1, math.ceil(-lowest / 6))
    for tick in range(0, math.floor(lowest) - 1, -step):
        if tick >= lowest:
            chart.line("grid", to_x(tick), top, to_x(tick), bottom)
            chart.text("tick", to_x(tick), bottom + 16, f"{tick}".replace("-", MINUS), "middle")
    if not has_long_labels:
        chart.text("tick faint", left - 8, top - 6, "alpha", "end")
    taken: list[float] = []  # right end of the last label in each line above the plot
    for alpha in sorted(alphas):
        x = to_x(math.log10(alpha))
        if x < left:
            continue
        line = next((i for i, end in enumerate(taken) if x - 26 > end), len(taken))
        taken[line : line + 1] = [x + 26]
        y = top - 6 - 13 * line
        chart.line("alpha", x, y + 3, x, bottom, f"alpha = {level(alpha)}")
        chart.text("tick", x, y, level(alpha), "middle")
    for i, strip in enumerate(strips):
        middle = top + row * (i + 0.5)
        if i:
            chart.line("grid", 4, top + row * i, WIDTH - _RIGHT, top + row * i)
        if has_long_labels:
            chart.text("tick", left, middle - row / 2 + 15, strip.label, "start")
            middle += 8
        else:
            chart.text("tick", left - 8, middle + 4, strip.label, "end")
        for kind, models, centre in (("victim", strip.victims, middle - 10), ("control", strip.controls, middle + 10)):
            spread = min(3.0, 14 / max(1, len(models)))  # apart, where p-values are equal
            for j, (log10_p, note) in enumerate(models):
                mark_y = centre + spread * (j - (len(models) - 1) / 2)
                chart.mark(kind, to_x(max(lowest, log10_p)), mark_y, note)
    chart.text("axis", (left + WIDTH - _RIGHT) / 2, height - 5, "log₁₀ p: further left is stronger evidence", "middle")
    return chart.markup()


def intervals(
    name: str,
    title: str,
    readings: Sequence[Reading],
    *,
    axis: str,
    low: float,
    high: float,
    reference: float,
    reference_note: str,
    unit: str = "",
    kind: str = "victim",
) -> Markup:
    """Draws one row for each reading: its estimate as a mark, its interval as a line.

    Args:
        name, title: as for `power_curves`.
        readings: values on the axis; x is not used.
        axis: what it shows.
        low, high: its ends, which hold every value.
        reference: a value to compare with, drawn as a line.
        reference_note: what that is.
        unit: behind the numbers of its ticks.
        kind: "victim" for a disc, "control" for an open diamond.
    """
    row, top, left = 26, 10, 64
    bottom = top + row * len(readings)
    chart = _Chart(name, title, bottom + 38, "; ".join(reading.note for reading in readings))
    to_x = _Scale(low, high, left + 6, WIDTH - _RIGHT - 6)
    for tick in _ticks(low, high):
        chart.line("grid", to_x(tick), top, to_x(tick), bottom)
        chart.text("tick", to_x(tick), bottom + 16, f"{tick:g}{unit}".replace("-", MINUS), "middle")
    chart.line("alpha", to_x(reference), top, to_x(reference), bottom, reference_note)
    for i, reading in enumerate(readings):
        y = top + row * (i + 0.5)
        chart.text("tick", left - 8, y + 4, reading.label, "end")
        chart.interval(reading, y, to_x, vertical=False, kind=kind)
    chart.text("axis", (left + WIDTH - _RIGHT) / 2, bottom + 35, axis, "middle")
    return chart.markup()


class _Chart:
    """An SVG that grows by marks; text is escaped by ElementTree."""

    def __init__(self, name: str, title: str, height: float, description: str) -> None:
        self._svg = ElementTree.Element(
            "svg",
            {
                "class": "chart",
                "viewBox": f"0 0 {WIDTH} {_number(height)}",
                "role": "img",
                "aria-labelledby": f"{name}-title {name}-description",
            },
        )
        ElementTree.SubElement(self._svg, "title", {"id": f"{name}-title"}).text = title
        ElementTree.SubElement(self._svg, "desc", {"id": f"{name}-description"}).text = description

    def line(self, style: str, x1: float, y1: float, x2: float, y2: float, note: str = "") -> None:
        self._add("line", style, note, x1=x1, y1=y1, x2=x2, y2=y2)

    def text(self, style: str, x: float, y: float, text: str, anchor: str) -> None:
        self._add("text", style, x=x, y=y, **{"text-anchor": anchor}).text = text

    def path(self, style: str, points: Sequence[tuple[float, float]], note: str = "") -> None:
        if len(points) > 1:
            self._add("polyline", style, note, points=" ".join(f"{_number(x)},{_number(y)}" for x, y in points))

    def mark(self, kind: str, x: float, y: float, note: str) -> None:
        if kind == "control":
            around = [(x, y - 4.5), (x + 4.5, y), (x, y + 4.5), (x - 4.5, y)]
            self._add("polygon", kind, note, points=" ".join(f"{_number(a)},{_number(b)}" for a, b in around))
        else:
            self._add("circle", kind, note, cx=x, cy=y, r=4)

    def interval(self, reading: Reading, across: float, scale: _Scale, *, vertical: bool, kind: str = "victim") -> None:
        """across: on the axis that the values are not on."""

        def line(from_across: float, from_value: float, to_across: float, to_value: float) -> None:
            start, end = (from_across, from_value), (to_across, to_value)
            (x1, y1), (x2, y2) = (start, end) if vertical else (start[::-1], end[::-1])
            self.line(f"interval of-{kind}", x1, y1, x2, y2, reading.note)

        if reading.low is not None and reading.high is not None:
            low, high = scale(reading.low), scale(reading.high)
            line(across, low, across, high)
            for end in (low, high):
                line(across - 5, end, across + 5, end)
        if reading.estimate is not None:
            at = scale(reading.estimate)
            self.mark(kind, *((across, at) if vertical else (at, across)), reading.note)

    def markup(self) -> Markup:
        return Markup(ElementTree.tostring(self._svg, encoding="unicode"))

    def _add(self, tag: str, style: str, note: str = "", **attributes: str | float) -> ElementTree.Element:
        values = {name: value if isinstance(value, str) else _number(value) for name, value in attributes.items()}
        element = ElementTree.SubElement(self._svg, tag, {"class": style, **values})
        if note:
            ElementTree.SubElement(element, "title").text = note
        return element


@dataclass(frozen=True)
class _Scale:
    """Linear, from [low, high] to [start, end]; the middle of it where low = high."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)


def _ticks(low: float, high: float) -> list[float]:
    """Three to six multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / rough)))
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
