"""How the report and the terminal write a sweep's figures: numbers, shares with their intervals, levels, durations."""

from __future__ import annotations

import math
from typing import Final

from taggants.evaluation.differences import PairedDifference
from taggants.sweep.power import Proportion

MINUS: Final = "\u2212"
"""As wide as a digit, where a hyphen is not."""

_NOTHING: Final = "\u2013"  # a dash: not measured


def level(alpha: float) -> str:
    """Returns 0.01 or 1e-6."""
    return f"{alpha:g}".replace("e-0", "e-")


def percent(share: float | None) -> str:
    """Returns 12%, with more digits near 0% and 100%, and never 100% for less; a dash for None."""
    if share is None:
        return _NOTHING
    hundredths = 100 * share
    if 0 < hundredths < 10:
        return f"{hundredths:.2g}%"
    return f"{math.floor(10 * hundredths) / 10}%" if 99 < hundredths < 100 else f"{round(hundredths)}%"


def interval(proportion: Proportion) -> str:
    return f"{percent(proportion.low)} to {percent(proportion.high)}"


def in_words(proportion: Proportion) -> str:
    if not proportion.total:
        return "none of none"
    return f"{proportion.count} of {proportion.total} ({percent(proportion.estimate)}, interval {interval(proportion)})"


def signed(number: float, digits: int = 2) -> str:
    return f"{number:+.{digits}f}".replace("-", MINUS)


def points(change: PairedDifference | None) -> str:
    if change is None:
        return "not measured"
    text = f"{signed(100 * change.mean)} points"
    if change.low is None or change.high is None:
        return f"{text} (one pair, no interval)"
    return f"{text} ({signed(100 * change.low)} to {signed(100 * change.high)})"


def levels(epsilon: float) -> str:
    """Returns 16/255 for a whole number of 8-bit levels, else the decimal number."""
    scaled = epsilon * 255
    return f"{round(scaled)}/255" if abs(scaled - round(scaled)) < 1e-6 else f"{epsilon:.4g}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def decimal(number: float | None, digits: int = 2) -> str:
    if number is None:
        return _NOTHING
    return "∞" if math.isinf(number) else f"{number:.{digits}f}".replace("-", MINUS)
