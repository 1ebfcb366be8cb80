"""Claims that were changed after they were made."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from taggants.identity import identity

Path = tuple[str | int, ...]


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yields the place and value of every field that holds no other."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if entries is None:
        yield path, value
        return
    for name, inner in entries:
        yield from leaves(inner, (*path, name))


def at(value: Any, path: Path) -> Any:
    for name in path:
        value = value[name]
    return value


def with_value(content: Any, path: Path, value: Any) -> Any:
    """Returns a copy with another value at a place."""
    changed = copy.deepcopy(content)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def changed_a_little(value: Any) -> Any:
    """Returns another value as near as can be: one bit of a number, one character of a text."""
    if value is None:
        return 0
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value ^ 1
    if isinstance(value, float):
        return value * (1 + 1e-6)
    if not value:
        return "a"
    last = value[-1]
    return value[:-1] + ("0" if last != "0" else "1")


def rehashed(certificate: Any, change: Callable[[Any], None]) -> Any:
    """Returns a certificate whose registration was changed, with every hash made anew, as a forger would."""
    changed = copy.deepcopy(certificate)
    registration = changed["registration"]
    change(registration)
    del registration["registration_sha256"]
    registration["registration_sha256"] = identity(registration)
    changed["signing"]["registration_sha256"] = registration["registration_sha256"]
    del changed["certificate_sha256"]
    changed["certificate_sha256"] = identity(changed)
    return changed


def encoded(content: Any) -> bytes:
    return json.dumps(content).encode()
