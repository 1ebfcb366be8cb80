"""Places in JSON, written as names and list positions with dots between them."""

from __future__ import annotations

import re
from typing import Any

from taggants.errors import InputError


def value_at(tree: Any, path: str) -> Any:
    """Returns what lies at a path such as outputs.0.labels or predictions.*.label, where * collects from a list, or None."""
    for place, name in enumerate(names := path.split(".")):
        if name == "*":
            rest = ".".join(names[place + 1 :])
            if not isinstance(tree, list):
                return None
            found = [value_at(item, rest) if rest else item for item in tree]
            return [item for item in found if item is not None]
        if isinstance(tree, dict):
            tree = tree.get(name)
        elif isinstance(tree, list) and re.fullmatch("[0-9]{1,6}", name) and int(name) < len(tree):
            tree = tree[int(name)]
        else:
            return None
    return tree


def put_value(tree: Any, path: str, value: str) -> None:
    """Sets what lies at a path such as inputs.0.image, making the objects and lists on the way.

    Raises:
        InputError: something else lies on the way.
    """
    names = path.split(".")
    for place, name in enumerate(names):
        is_last = place == len(names) - 1
        new: Any = value if is_last else [] if names[place + 1] == "0" else {}
        if isinstance(tree, list) and re.fullmatch("[0-9]{1,6}", name) and int(name) <= len(tree):
            if int(name) == len(tree):
                tree.append(new)
            elif is_last:
                tree[int(name)] = value
            tree = tree[int(name)]
        elif isinstance(tree, dict):
            tree = tree.setdefault(name, new) if not is_last else tree.update({name: value})
        else:
            raise InputError(
                f"field {path!r} of the HTTP suspect does not fit its body at {name!r}; correct one of them"
            )
