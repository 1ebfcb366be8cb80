"""What is fuzzed: kinds of files, and how a damaged one is made."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LARGE: Final = (0, 1, 7, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


@dataclass(frozen=True)
class Kind:
    """A kind of file: whole ones to start from, and what reads one, which may raise InputError alone."""

    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], object]
    is_text: bool = False
    repair: Callable[[bytes], bytes] | None = None  # of checksums, by which most damage would be noticed at once


def mutated(data: bytes, draw: random.Random, *, is_text: bool) -> bytes:
    """Returns the bytes with one to five changes."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        draw.choice(_TEXT_CHANGES if is_text and draw.random() < 0.95 else _CHANGES)(changed, draw)
    return bytes(changed)


def _place(data: bytearray, draw: random.Random) -> int:
    """Headers and footers are where most is decided."""
    end = max(len(data) - 1, 0)
    return draw.choice([draw.randint(0, end), draw.randint(0, min(end, 600)), end - draw.randint(0, min(end, 600))])


def _flip(data: bytearray, draw: random.Random) -> None:
    if data:
        data[_place(data, draw)] ^= 1 << draw.randrange(8)


def _set(data: bytearray, draw: random.Random) -> None:
    if data:
        data[_place(data, draw)] = draw.choice([0, 1, 127, 128, 254, 255, draw.randrange(256)])


def _number(data: bytearray, draw: random.Random) -> None:
    size, at = draw.choice([2, 4, 8]), _place(data, draw)
    value = draw.choice(_LARGE) % 256**size
    data[at : at + size] = value.to_bytes(size, draw.choice(["little", "big"]))


def _delete(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    del data[at : at + draw.choice([1, 2, 16, 512, len(data)])]


def _insert(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    data[at:at] = draw.randbytes(draw.choice([1, 4, 64]))


def _repeat(data: bytearray, draw: random.Random) -> None:
    start, at = _place(data, draw), _place(data, draw)
    data[at:at] = data[start : start + draw.choice([4, 64, 512])]


_CHANGES = (_flip, _flip, _set, _number, _delete, _insert, _repeat)


def _token(data: bytearray, draw: random.Random) -> None:
    """Puts another value in the place of a number or word."""
    tokens = rb'"[^"]*"|-?[0-9.]+|null|true' + (b"" if data.startswith(b"{") else rb"|[A-Za-z_]+")
    found = [token for token in re.finditer(rb"(?:%b)(\s*:)?" % tokens, data) if not token[1] or draw.random() < 0.1]
    if found:
        token = draw.choice(found)
        start, end = token.start(), token.end() if not token[1] else token.start(1)
        values = [
            *(b'-1 0 1 2 1e9 1e999 -0.0 null true [] {} NaN [[1]] {"a":1} 1.5 -7'.split(b" ")),
            *(str(value).encode() for value in (10**6, 10**12, 2**63, 10**400)),
            b"9" * 5000,  # more digits than Python reads,
            b'"\\u0000"',
            b'"\\ud800"',
            b'"' + b"x" * 300 + b'"',
            draw.choice(found)[0].rstrip(b": "),
        ]
        data[start:end] = draw.choice(values)


def _nest(data: bytearray, draw: random.Random) -> None:
    at = _place(data, draw)
    data[at:at] = draw.choice(
        [b"[", b'{"a":', b"- ", b"? ", b"&a ", b"*a", b"!!python/object:os.system "]
    ) * draw.choice([1, 50, 20_000])


_TEXT_CHANGES = (*[_token] * 12, _nest, _repeat, _delete)
