"""The power bench as one HTML page that needs no network, in the style of a sweep's report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from benchmarks.power.comparison import COMPARED, pairs
from benchmarks.power.records import Record
from benchmarks.power.tables import ALPHAS, NAMES, tables
from taggants.sweep.charts import Strip, p_value_strips
from taggants.sweep.report import package_text, policy_hash

_STYLE = """
:root { --control: var(--soft); }
th, td { padding: .35rem .45rem; }
td.word, th.word { white-space: normal; min-width: 6.5rem; max-width: 16rem; }
.chart text { paint-order: stroke; stroke: var(--panel); stroke-width: 4px; }
"""


def render(records: Sequence[Record], baseline: str | None, title: str) -> str:
    """Returns the page as HTML. It loads and runs nothing, and its policy forbids it to.

    Args:
        records: at least one.
        baseline: as for `tables`.
        title: what was measured, in a few words.
    """
    style = package_text("report.css") + _STYLE
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8")).render(
        title=title,
        style=Markup(style),
        style_hash=policy_hash(style),
        tables=tables(records, baseline),
        pictures=[_picture(records, name) for name in COMPARED],
        cells=list(dict.fromkeys(record.cell for record in records)),
        kinds=list(dict.fromkeys(record.kind for record in records)),
        draws=sorted({record.draw for record in records}),
    )


def _picture(records: Sequence[Record], p: str) -> dict[str, Any]:
    """A chart for each cell, a row for each kind of victim; all with one axis."""

    def points(record: Record, models: Sequence[Any]) -> list[tuple[float, str]]:
        return [(math.log10(getattr(m, p)), f"draw {record.draw}, {m.name}: p = {getattr(m, p):.2g}") for m in models]

    strips: dict[str, list[Strip]] = {}
    for (cell, kind), own in pairs(records).items():
        victims = [point for record in own for point in points(record, record.victims)]
        controls = [point for record in own for point in points(record, record.controls)]
        strips.setdefault(cell, []).append(Strip(kind, tuple(victims), tuple(controls)))
    all_points = (point for of in strips.values() for strip in of for point in (*strip.victims, *strip.controls))
    lowest = min(math.log10(min(ALPHAS)), *(log10_p for log10_p, _ in all_points)) - 0.5
    charts = [
        (cell, p_value_strips(f"{p.replace('_', '-')}-{i}", f"{NAMES[p]}: {cell}", of, ALPHAS, lowest))
        for i, (cell, of) in enumerate(strips.items())
    ]
    return {"title": NAMES[p], "charts": charts}
