"""How many registrations were made from one secret: a file for each beside the key file, never overwritten."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

from taggants.errors import InputError, check_sha256

if TYPE_CHECKING:
    from taggants.storage import Root


def registration_number(root: Root, name: str, content_sha256: str, *, claim: bool) -> int | None:
    """Returns which registration of the secret `name` one with this content is, counting from 1.

    Args:
        root: of the key file.
        content_sha256: of what is registered, its number apart, 64 hex digits.
        claim: give it the next number if it has none yet; of several processes at once, each gets its own.

    Returns:
        None: it has no number, and `claim` is false.

    Raises:
        InputError: a file of the folder is not one of these.
    """
    for number in itertools.count(1):
        path = f"{name}.registrations/{number}.json"
        if not root.exists(path):
            if not claim:
                return None
            content = json.dumps({"content_sha256": content_sha256}) + "\n"
            if root.create_bytes(path, content.encode(), private=True):
                return number
        found = root.read_json(path)
        if not isinstance(found, dict) or set(found) != {"content_sha256"}:
            raise InputError(f"{root.uri_of(path)} must name the content_sha256 of a registration; restore it.")
        check_sha256("content_sha256", found["content_sha256"])
        if found["content_sha256"] == content_sha256:
            return number
    raise AssertionError("numbers never end")
