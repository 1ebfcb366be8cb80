"""The fields of the configuration as text for people, read from the schema and the tables of the extension points."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from inspect import cleandoc
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from taggants.config.fields import NamedIn, Section
from taggants.config.tree import Config
from taggants.errors import InputError, did_you_mean

_PLAIN = {str: "text", int: "integer", float: "number", bool: "true or false"}


def describe_sections(name: str | None, *, as_markdown: bool) -> str:
    """Returns the fields of one section, by its dotted name, or of all.

    Raises:
        InputError: there is no such section.
    """
    known = dict(sections())
    if name is not None and name not in known:
        names = ", ".join(section for section in known if section)
        raise InputError(f"section {name!r} does not exist; {did_you_mean(name, known)}use one of {names}")
    chosen = known if name is None else {name: known[name]}
    show = _markdown if as_markdown else _plain
    return "\n\n".join(show(title, section) for title, section in chosen.items())


def sections(prefix: str = "", section: type[Section] = Config) -> Iterator[tuple[str, type[Section]]]:
    """Yields the section of that dotted name ("" for the top level) and all within it."""
    yield prefix, section
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            yield from sections(f"{prefix}.{name}".removeprefix("."), inner)


def allowed_values(place: Sequence[str | int]) -> str:
    """Returns what a field may be, such as "an integer >= 1"; place: its sections, its name, and its index in a list."""
    section: type[Section] = Config
    annotation: Any = None
    metadata: Any = ()
    for part in place:
        if isinstance(part, int):
            annotation, metadata = get_args(annotation)[0], ()
        else:
            field = section.model_fields[part]
            annotation, metadata = field.annotation, field.metadata
        section = section_of(annotation) or section
    words = _values(annotation, metadata)
    article = {"integer": "an ", "number": "a ", "list": "a "}
    return article.get(words.partition(" ")[0], "") + words


def section_of(annotation: Any) -> type[Section] | None:
    """Returns the section that a field holds, itself or in a list; None where it holds none."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None


def _plain(title: str, section: type[Section]) -> str:
    lines = [f"{title or 'top level'}: {_sentence(section)}"]
    for name, field, values in _fields(section):
        lines += ["", f"  {name}: {values}; default {_default(field)}"]
        lines += textwrap.wrap(field.description or "", 110, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _markdown(title: str, section: type[Section]) -> str:
    lines = [f"## {f'`{title}`' if title else 'Top level'}", "", _sentence(section), ""]
    lines += ["| field | values | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field, values in _fields(section):
        cells = (f"`{name}`", values, f"`{_default(field)}`", field.description or "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _sentence(section: type[Section]) -> str:
    return " ".join(cleandoc(section.__doc__ or "").split())


def _fields(section: type[Section]) -> Iterator[tuple[str, FieldInfo, str]]:
    """Fields that are no section of their own: name, schema, and the values allowed."""
    for name, field in (section.model_fields | section.further_fields()).items():
        if section_of(field.annotation) is None:
            yield name, field, _values(field.annotation, field.metadata)


def _values(annotation: Any, metadata: Any = ()) -> str:
    for part in metadata:
        if isinstance(part, AfterValidator) and isinstance(part.func, NamedIn):
            return " or ".join(part.func.names)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _values(arguments[0], [*metadata, *_flat(arguments[1:])])
    if origin is Literal:
        return " or ".join(str(value) for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join("null" if part is NoneType else _values(part, metadata) for part in arguments)
    if origin is tuple:
        words = _values(arguments[0]).replace("integer", "integers", 1).replace("number", "numbers", 1)
        return f"list of {words}{_length(metadata)}"
    if issubclass(annotation, Section):
        return f"sections of {', '.join(annotation.model_fields)}"
    return _PLAIN[annotation] + _range(_flat(metadata))


def _flat(metadata: Any) -> list[Any]:
    """Constraints of a nested `Field(...)` lie one level deeper."""
    return [inner for part in metadata for inner in (part.metadata if isinstance(part, FieldInfo) else [part])]


def _range(metadata: list[Any]) -> str:
    bounds = []
    for kind, sign in (("Ge", ">="), ("Gt", ">"), ("Le", "<="), ("Lt", "<")):
        limits = [getattr(part, kind.lower()) for part in metadata if isinstance(part, getattr(annotated_types, kind))]
        bounds += [f"{sign} {_number(limit)}" for limit in limits]
    return f" {' and '.join(bounds)}" if bounds else ""


def _length(metadata: Any) -> str:
    least = max((part.min_length for part in metadata if isinstance(part, annotated_types.MinLen)), default=0)
    most = [part.max_length for part in metadata if isinstance(part, annotated_types.MaxLen)]
    if most:
        return f", {f'{least} to' if least else 'at most'} {most[0]} of them"
    return f", at least {least} of them" if least else ""


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, tuple):
        return f"[{', '.join(_number(part) for part in value)}]"
    return _number(value)


def _number(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, float):
        return str(value)
    if len(f"{value:g}") > 5:
        for levels in (255, 256):
            if (value * levels).is_integer():
                return f"{value * levels:.0f}/{levels}"
    return f"{value:g}"
