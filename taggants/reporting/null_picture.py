"""The observed sum of a test against its exact null distribution, as an inline SVG that needs no style sheet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from taggants.detection import STATISTICS, Certificate
from taggants.detection.exact import null_distribution
from taggants.detection.statistics import SumOverKeys
from taggants.errors import InputError

WIDTH, HEIGHT = 400, 232
_LEFT, _RIGHT, _TOP, _BOTTOM = 4, 396, 58, 178
_LETTER = 6.2  # width of one, about
_MOST_BARS = 64
_SHOWN = 1e-5  # of the distribution, what lies farther out on either side is not drawn
_INK, _MUTED, _NULL, _LEVEL, _SUSPECT = "#1b1f2a", "#5b6270", "#b4bdd3", "#b3541e", "#1a4fa3"


@dataclass(frozen=True)
class NullSum:
    """The sum over keys that decides, and its distribution where the null hypothesis holds.

    observed: the suspect's. lowest: the smallest sum there can be. probabilities: of it and of the sums above it, one by one.
    critical: the largest sum that counts as detection at the level; None where no sum does, or the level is below 1e-12.
    """

    observed: int
    lowest: int
    probabilities: NDArray[np.float64]
    critical: int | None


def null_sum(certificate: Certificate, level: float) -> NullSum | None:
    """Returns the sum of the registered statistic; None where it is no sum over keys, or spans too many values to draw."""
    statistic = STATISTICS.find(certificate.registration.statistic)
    if not isinstance(statistic, SumOverKeys):
        return None
    values = statistic.values(certificate.evidence, certificate.registration)
    positions = certificate.evidence.positions
    own = values[positions] if values.ndim == 1 else np.take_along_axis(values, positions[:, None], axis=1)
    try:
        lowest, probabilities = null_distribution(values, len(positions))
    except InputError:
        return None
    below = int(np.searchsorted(np.cumsum(probabilities), level * (1 + 1e-9), side="right")) if level >= 1e-12 else 0
    return NullSum(int(own.sum()), lowest, probabilities, lowest + below - 1 if below else None)


def draw_null(found: NullSum, level: str) -> Markup:
    """Returns the picture: the null distribution in bars, the sums that count as detection marked, a line at the suspect's.

    level: as it is written.
    """
    first, last = _range(found)
    bars = _bars(found, first, last)
    highest = max(height for _, _, height in bars)

    def x(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (value - first) / (last - first)

    critical, observed = found.critical, found.observed
    parts = []
    if critical is not None and critical >= first:
        edge = x(critical + 0.5)
        parts.append(
            f'<rect x="{_LEFT}" y="{_TOP}" width="{edge - _LEFT:.1f}" height="{_BOTTOM - _TOP}" fill="{_LEVEL}" opacity="0.10"/>'
        )
        parts.append(_line(edge, _TOP, _BOTTOM, _LEVEL, 'stroke-dasharray="4 3"'))
    for start, end, height in bars:
        top = _BOTTOM - (_BOTTOM - _TOP - 6) * height / highest
        if _BOTTOM - top > 0.05:
            gap = 0.8 if x(end) - x(start) > 3 else 0.0
            parts.append(
                f'<rect x="{x(start):.1f}" y="{top:.1f}" width="{x(end) - x(start) - gap:.1f}" height="{_BOTTOM - top:.1f}" '
                f'fill="{_NULL}"/>'
            )
    parts.append(f'<line x1="{_LEFT}" y1="{_BOTTOM}" x2="{_RIGHT}" y2="{_BOTTOM}" stroke="{_MUTED}"/>')
    here = x(observed)
    parts.append(_line(here, _TOP - 26, _BOTTOM, _SUSPECT, 'stroke-width="2.5"'))
    parts.append(_words(here, _TOP - 34, f"this suspect: total {_written(observed)}", _SUSPECT, bold=True))
    if critical is not None and critical >= first:  # last: it may cross the line
        parts.append(_words(x(critical + 0.5), _TOP - 8, f"counts as detection (level {level})", _LEVEL))
    for value in _ticks(first, last):
        parts.append(
            f'<text x="{x(value):.1f}" y="{_BOTTOM + 16}" fill="{_MUTED}" text-anchor="middle">{_written(value)}</text>'
        )
    foot = _BOTTOM + 38
    parts.append(f'<text x="{_LEFT}" y="{foot}" fill="{_INK}">← agrees more with the secret labels</text>')
    parts.append(f'<text x="{_RIGHT}" y="{foot}" fill="{_INK}" text-anchor="end">agrees less →</text>')
    title = f"Null distribution of the total, and the suspect's total {_written(observed)}"
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="13">{"".join(parts)}</svg>'
    )


def _range(found: NullSum) -> tuple[float, float]:
    """The sums that are shown: nearly all of the distribution, and the suspect's."""
    total = np.cumsum(found.probabilities)
    low = found.lowest + int(np.searchsorted(total, _SHOWN))
    high = found.lowest + int(np.searchsorted(total, 1 - _SHOWN))
    first, last = min(low, found.observed), max(high, found.observed)
    margin = max(0.5, 0.04 * (last - first))
    return first - margin, last + margin


def _bars(found: NullSum, first: float, last: float) -> list[tuple[float, float, float]]:
    """(start, end, probability) of bars of equally many sums, one edge of which lies where detection begins."""
    width = max(1, int(np.ceil((last - first) / _MOST_BARS)))
    edge = found.lowest if found.critical is None else found.critical + 1
    start = edge - width * int(np.ceil((edge - first) / width))
    bars = []
    for low in range(start, int(np.ceil(last)), width):
        part = found.probabilities[max(0, low - found.lowest) : max(0, low + width - found.lowest)]
        if low - 0.5 >= first and part.size:
            bars.append((low - 0.5, min(low + width - 0.5, last), float(part.sum())))
    return bars


def _ticks(first: float, last: float) -> list[int]:
    """Three to six whole numbers at equal steps of 1, 2 or 5 times a power of ten."""
    span = last - first
    powers: Final = [m * 10**e for e in range(12) for m in (1, 2, 5)]
    step = next(step for step in powers if span / step <= 6)
    return list(range(int(np.ceil(first / step)) * step, int(last) + 1, step))


def _written(value: int) -> str:
    return f"{value:,}".replace("-", "\u2212")


def _line(x: float, top: float, bottom: float, colour: str, more: str) -> str:
    return f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="{colour}" {more}/>'


def _words(x: float, y: float, words: str, colour: str, *, bold: bool = False) -> str:
    """Words on white that begin at x, or end there in the right half of the picture."""
    towards_left = x > (_LEFT + _RIGHT) / 2
    anchor, place = ("end", x + 2) if towards_left else ("start", x - 2)
    length, weight = _LETTER * len(words), ' font-weight="bold"' if bold else ""
    return (
        f'<rect x="{place - length * towards_left - 2:.1f}" y="{y - 13}" width="{length + 4:.1f}" height="17" fill="#fff"/>'
        f'<text x="{place:.1f}" y="{y}" fill="{colour}" text-anchor="{anchor}"{weight}>{words}</text>'
    )
