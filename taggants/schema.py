"""Files that people write by hand: YAML, and what a pydantic schema has to complain about, as one sentence."""

from __future__ import annotations

import os
import re
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from taggants.errors import did_you_mean


class _Loader(yaml.SafeLoader):
    """YAML in which 1e3 is a number, as in YAML 1.2, and a key that stands twice in one place is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"{key!r} is set twice; leave one", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(text: str) -> Any:
    """Returns the value of a YAML (or JSON) text.

    Raises:
        yaml.YAMLError: it is not YAML.
        ValueError, RecursionError: a date that does not exist, absurd nesting.
    """
    return yaml.load(text, _Loader)


def expand_variables(value: object) -> object:
    """Returns a path or URI with $NAME expanded, and other values as they are.

    Raises:
        ValueError: a variable is not set.
    """
    if isinstance(value, str):
        expanded = os.path.expandvars(value)
        if "$" in expanded:
            raise ValueError(f"{value!r} names an environment variable that is not set; set it or write the path")
        return expanded
    return value


def one_sentence(error: ValidationError, schema: type[BaseModel], what: str) -> str:
    """Returns the first of pydantic's complaints as one sentence: field, value, what is allowed.

    what: a field of the schema, for people, such as "config field".
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or what.split()[0]
    if first["type"] == "extra_forbidden":
        known = schema.model_fields
        return f"{what} {where!r} does not exist; {did_you_mean(where, known)}use {', '.join(known)}"
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    value = f" = {first['input']!r}" if isinstance(first["input"], str | int | float | bool) else ""
    if first["type"] == "missing":
        return f"{what} {where!r} is missing; add it{more}"
    if message.startswith("Input should be "):
        return f"{what} {where!r}{value} must be {message.removeprefix('Input should be ')}{more}"
    return f"{what} {where!r}{value}: {message}{more}"
