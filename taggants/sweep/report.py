"""A sweep as one HTML page that needs no network: maps, curves, tables, images, and how to repeat each cell."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from taggants.errors import InputError
from taggants.reporting.quantities import counted
from taggants.storage import Root
from taggants.sweep import formatting
from taggants.sweep.power import CONFIDENCE, Proportion, cell_power
from taggants.sweep.results import SweepResults
from taggants.sweep.views import View, advice, combinations, false_positive_views, swept

MAX_IMAGE_WIDTH: Final = 1600
"""Pixels; wider contact sheets are made smaller."""

_HEAT_STEPS = 6


def write_report(results: SweepResults, root: Root, path: str = "report.html") -> str:
    """Writes the page with the contact sheet of each cell that has one, whole, over an older one; returns its URI.

    Args:
        results: of the sweep.
        root: the sweep's output root, in which `Cell.run` lies.
        path: of the page, from the root.

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
                    f"{root.uri_of(sheet)} is not a complete image; delete it and run the sweep again"
                ) from None
    root.write_bytes(path, render(results, images).encode(), private=True)  # shows signed images
    return root.uri_of(path)


def render(results: SweepResults, images: Mapping[str, bytes] | None = None) -> str:
    """Returns the page as HTML. It loads nothing, and its policy forbids it to.

    Args:
        results: of the sweep. They are in the page, too, as JSON of which `SweepResults.from_json` makes them again.
        images: a PNG of signed images by name of cell.

    Raises:
        InputError: the records are not of one sweep.
    """
    images = images or {}
    style, script = package_text("report.css"), package_text("report.js")
    powers = {cell.name: cell_power(cell, results.alphas) for cell in results.cells}
    views = tuple(View(i, cell, powers[cell.name], results) for i, cell in enumerate(results.cells))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= _FILTERS
    return environment.from_string(package_text("report_template.html")).render(
        results=results,
        results_json=Markup(htmlsafe_json_dumps(results.to_json(), indent=1)),
        style=Markup(style),
        style_hash=policy_hash(style),
        script=Markup(script),
        script_hash=policy_hash(script),
        swept=swept(results.cells),
        advice=[advice(results, alpha, views) for alpha in results.alphas],
        combinations=combinations(results, views),
        cells=views,
        has_stopped=any(cell.stopped for cell in results.cells),
        most_steps=max((cell.sample_steps for cell in results.cells), default=0),
        false_positives=false_positive_views(results),
        figures=_figures(views, images),
        config_text=json.dumps(results.config, indent=1, sort_keys=True),
        confidence=CONFIDENCE,
    )


def _figures(views: Sequence[View], images: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Each picture once, with the cells that share it: those that differ only in the models trained."""
    owners: dict[bytes, list[View]] = {}
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
    """Returns the picture as it is, or `MAX_IMAGE_WIDTH` wide where it is wider."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        picture = image.convert("RGB")  # also reads it to its end
    if picture.width <= MAX_IMAGE_WIDTH:
        return png
    height = max(1, round(picture.height * MAX_IMAGE_WIDTH / picture.width))
    picture = picture.resize((MAX_IMAGE_WIDTH, height), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    picture.save(sink, format="PNG")
    return sink.getvalue()


def package_text(name: str) -> str:
    """Returns a file that lies beside this one."""
    return files("taggants.sweep").joinpath(name).read_text(encoding="utf-8")


def policy_hash(text: str) -> str:
    """Returns what a content security policy names an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _heat(proportion: Proportion) -> str:
    """Returns the class of the colour of a place on the map."""
    return "none" if proportion.estimate is None else f"heat-{round(proportion.estimate * (_HEAT_STEPS - 1))}"


_FILTERS: Final[dict[str, Callable[..., str]]] = {
    "count": counted,
    "decimal": formatting.decimal,
    "duration": formatting.duration,
    "exact": repr,  # of a float: the shortest text that reads as the same number
    "heat": _heat,
    "level": formatting.level,
    "in_words": formatting.in_words,
    "levels": formatting.levels,
    "percent": formatting.percent,
    "points": formatting.points,
    "range": formatting.interval,
    "signed": formatting.signed,
}
