"""The one error type that stands for bad input, at the bottom of the layers so that every module may raise it."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from taggants.text import one_line


class InputError(ValueError):
    """Bad input from the user: one sentence that names the value, what is allowed and the fix, as `one_line` writes it.

    Jobs print the sentence and exit with code 2. Anything else that escapes a job is a bug or a failed shard: exit code 1.
    """

    def __init__(self, sentence: object = "") -> None:
        super().__init__(one_line(sentence))


class FailedShards(RuntimeError):
    """Shards that failed for good where a job cannot go on without them: one sentence, as `one_line` writes it, exit code 1."""

    def __init__(self, sentence: object = "") -> None:
        super().__init__(one_line(sentence))


def did_you_mean(name: str, names: Iterable[str], prefix: str = "") -> str:
    """Returns the question whether the nearest of the names was meant, with the prefix before it; "" if none is near."""
    near = get_close_matches(name, list(names), n=1)
    return f"did you mean {prefix + near[0]!r}? " if near else ""


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Raises InputError unless `value` is an int in low..high (a bool is none)."""
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"{name} is {value!r} but must be an integer in {low}..{high}.")


def check_sha256(name: str, value: object) -> None:
    """Raises InputError unless `value` is a SHA-256 as 64 lower-case hex digits."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise InputError(f"{name} is {value!r} but must be 64 lower-case hex digits.")


def check_text(name: str, value: object) -> None:
    """Raises InputError unless `value` is 1 to 200 printable characters: it can neither forge a line nor steer a terminal."""
    if not isinstance(value, str) or not 1 <= len(value) <= 200 or not value.isprintable():
        raise InputError(f"{name} is {value!r} but must be 1 to 200 printable characters.")
