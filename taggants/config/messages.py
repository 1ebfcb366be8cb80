"""What is wrong with a configuration, as one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from taggants.config.fields import Section
from taggants.config.reference import allowed_values, section_of, sections
from taggants.config.tree import Config
from taggants.errors import did_you_mean


def one_sentence(error: ValidationError) -> str:
    """Returns the first of pydantic's complaints as one sentence: field, value, what is allowed."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "config"
    if first["type"] == "invalid_key":  # YAML takes any value for a name
        return f"config field {where!r} is named by a value that is no word; `taggants config` lists all fields"
    if first["type"] == "string_unicode":
        return f"config field {where!r} has a name or text with a lone surrogate, which is no character; write it anew"
    if first["type"] == "extra_forbidden":
        return f"config field {where!r} does not exist; {_what_exists(first['loc'])}"
    given = first["input"]
    shown = "null" if given is None else repr(given) if isinstance(given, str | int | float | bool) else ""
    value = f" = {shown if len(shown) <= 60 else shown[:57] + '...'}" if shown else ""
    if first["type"] == "model_type":
        sentence = f"{value.removesuffix(' = null')} is a section: set one of its fields, such as {where}.FIELD=VALUE"
    elif first["type"] == "value_error":
        sentence = f"{value}: {first['msg'].removeprefix('Value error, ')}"
    else:
        sentence = f"{value} must be {allowed_values(first['loc'])}"
    num_more = error.error_count() - 1
    more = f" ({num_more} more field{'s are' if num_more > 1 else ' is'} wrong)" if num_more else ""
    field = f"config field {where!r}" if first["loc"] else "config"  # of two sections that do not fit each other
    return f"{field}{sentence}{more}"


def _what_exists(place: Sequence[str | int]) -> str:
    """Returns the field that was meant, if one is near, and the command that lists the fields of its section."""
    *path, name = (part for part in place if isinstance(part, str))  # without the places in lists of sections
    section: type[Section] = Config
    for part in path:
        section = section_of(section.model_fields[part].annotation) or section
    elsewhere = {field: f"{title}.{field}" for title, other in sections() for field in other.model_fields if title}
    hint = did_you_mean(name, section.model_fields, prefix="".join(f"{part}." for part in path))
    if not hint and name in elsewhere:
        hint = f"did you mean {elsewhere[name]!r}? "
    listing = " ".join(["taggants config", *filter(None, [".".join(path)])])
    return f"{hint}`{listing}` lists {'its section' if path else 'all fields'}"
