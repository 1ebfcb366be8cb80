"""Numbers as people read them: thousands apart, nouns in the plural."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """Returns "1 key" or "1,200 keys"; plural: of the noun, where it is not one with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def number(value: float) -> str:
    """Returns 1,200 or 0.5: whole numbers in full, however large."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def speed(per_s: float, unit: str) -> str:
    """Returns "1,090 rows/s" or "0.517 shards/s"."""
    return f"{f'{per_s:,.0f}' if per_s >= 100 else f'{per_s:.3g}'} {unit}/s"
