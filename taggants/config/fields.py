"""What fields of several sections are made of."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from taggants.registry import Registry


def _fraction(value: object) -> object:
    """Reads "16/255" as a number; leaves everything else to pydantic."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            return value
    return value


def _expand(value: object) -> object:
    """Expands $NAME in a path or URI; an unset variable is an error, not an empty string."""
    if isinstance(value, str):
        expanded = os.path.expandvars(value)
        if "$" in expanded:
            raise ValueError(f"{value!r} names an environment variable that is not set; set it or write the path")
        return expanded
    return value


def named_in(table: Registry[Any]) -> AfterValidator:
    """Returns the check that a field names an entry of an extension point's table."""

    def check(name: str) -> str:
        table.find(name)
        return name

    return AfterValidator(check)


FractionOf = Annotated[float, BeforeValidator(_fraction)]
UnitFraction = Annotated[FractionOf, Field(ge=0, le=1)]
Uri = Annotated[str, BeforeValidator(_expand)]


class Section(BaseModel):
    """Frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
