"""What fields of several sections are made of."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from taggants.errors import InputError
from taggants.registry import Registry
from taggants.schema import expand_variables


def _fraction(value: object) -> object:
    """Reads "16/255" as a number; leaves everything else to pydantic."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError, OverflowError):
            return value
    return value


def _bound(value: object) -> object:
    """As `_fraction`; refuses a number of 8-bit levels."""
    number = _fraction(value)
    if isinstance(number, int | float) and 1 < number <= 255 and number == int(number):
        raise ValueError(f"pixels are in [0, 1]; write {int(number)}/255 for {int(number)} of 255 levels")
    return number


@dataclass(frozen=True, eq=False)
class NamedIn:
    """The check that a field names an entry of an extension point's table, or of one of several."""

    tables: tuple[Registry[Any], ...]

    @property
    def names(self) -> list[str]:
        return [name for table in self.tables for name in table]

    def __call__(self, name: str) -> str:
        if name not in self.names:
            kind = " or ".join(table.kind for table in self.tables)
            raise InputError(f"{kind} {name!r} does not exist; use one of {', '.join(self.names)}")
        return name


def named_in(*tables: Registry[Any]) -> AfterValidator:
    """Returns the annotation of a field that names an entry of an extension point's table, or of one of several."""
    return AfterValidator(NamedIn(tables))


FractionOf = Annotated[float, BeforeValidator(_fraction)]
UnitFraction = Annotated[FractionOf, Field(ge=0, le=1)]
PixelBound = Annotated[float, BeforeValidator(_bound), Field(ge=1 / 255, le=1)]
Uri = Annotated[str, BeforeValidator(expand_variables)]


class Section(BaseModel):
    """Frozen; an unknown field is an error, and one value stands for a list of one."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def further_fields(cls) -> dict[str, FieldInfo]:
        """Returns the fields that entries of an extension point's table add to the section, for people to read."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        lists = {name for name, field in cls.model_fields.items() if get_origin(field.annotation) is tuple}
        return {
            name: [value] if name in lists and not isinstance(value, list | tuple | None) else value
            for name, value in values.items()
        }
