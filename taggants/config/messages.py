"""What the schema has to complain about, as one sentence."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError

from taggants.config.tree import Config


def one_sentence(error: ValidationError) -> str:
    """Returns the first of pydantic's complaints as one sentence: field, value, what is allowed."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "config"
    if first["type"] == "extra_forbidden":
        model: Any = Config
        for part in first["loc"][:-1]:
            if isinstance(part, int):  # of a list of sections, which the step before has come to
                continue
            annotation = model.model_fields[part].annotation
            model = next(iter(get_args(annotation)), annotation)  # the section of `Section | None`
        near = get_close_matches(str(first["loc"][-1]), model.model_fields, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"config field {where!r} does not exist; {hint}its section knows {', '.join(model.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    value = f" = {first['input']!r}" if isinstance(first["input"], str | int | float | bool) else ""
    if first["type"] == "model_type":
        return f"config field {where!r}{value} is a section: set one of its fields, such as {where}.FIELD=VALUE{more}"
    if message.startswith("Input should be "):
        return f"config field {where!r}{value} must be {message.removeprefix('Input should be ')}{more}"
    return f"config field {where!r}{value}: {message}{more}"
