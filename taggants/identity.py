"""The one byte form of a JSON value, its hash, and the strict way back."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NoReturn, Protocol

from taggants.errors import InputError


def canonical_json(value: object) -> bytes:
    """Returns the one byte form of a JSON value that gets hashed: sorted names, no spaces, ASCII, shortest floats, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def identity(value: object) -> str:
    """Returns the SHA-256 of `canonical_json`, 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


class Published(Protocol):
    """A record of which a number is published. Classes that inherit from it define `to_json`."""

    def to_json(self) -> dict[str, Any]: ...

    @property
    def canonical(self) -> bytes:
        """The bytes that `sha256` is of."""
        return canonical_json(self.to_json())

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) over the canonical JSON of the record: the number to publish."""
        return hashlib.sha256(self.canonical).hexdigest()


def format_in(value: object, name: str, formats: tuple[str, ...]) -> str:
    """Returns the format that a JSON object says it has; the first one for what is no object or says none.

    Args:
        name: what the object should be, as the sentence of an error begins.

    Raises:
        InputError: it is none of `formats`.
    """
    found = value.get("format", formats[0]) if isinstance(value, dict) else formats[0]
    if found not in formats:
        raise InputError(f"{name}'s format is {found!r} but must be {' or '.join(map(repr, formats))}.")
    return str(found)


def strict_json(text: str | bytes, name: str, max_bytes: int = 2**26) -> Any:
    """Returns the one JSON value that a text holds, so that two readers cannot take it for two different values.

    Args:
        name: what the text should be, as the sentence of an error begins.
        max_bytes: longest text that is read; the default is 64 MiB.

    Raises:
        InputError: the text is too long, not JSON, names a field twice, or holds NaN or an infinity.
    """

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise InputError(f"{name} names a field twice; use the original file.")
        return fields

    def no_number(constant: str) -> NoReturn:
        raise InputError(f"{name} holds {constant}, which is no number in JSON; use the original file.")

    if len(text) > max_bytes:
        raise InputError(f"{name} is longer than {max_bytes} bytes; use the original file.")
    try:
        return json.loads(text, object_pairs_hook=without_duplicates, parse_constant=no_number)
    except InputError:
        raise
    except (ValueError, RecursionError):
        raise InputError(f"{name} is not valid JSON; use the original file.") from None
