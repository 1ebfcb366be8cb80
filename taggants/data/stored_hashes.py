"""Hashes of image files that are stored beside them, as img2dataset and others do: found, recomputed or blanked.

They are looked for as words, so that it does not matter where they stand: a column, JSON, a PAX header, a file name. Sizes
and checksums of 32 bits are no words that chance could not write: they are looked for field by field.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

HashPolicy = Literal["refuse", "recompute", "strip"]
_ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b")
_WORD = re.compile(rb"[0-9A-Za-z+/_-]{22,}={0,2}")
_DIGITS = re.compile(rb"[0-9A-Fa-f]{32,}")  # in a longer word, as in folder/HASH
_LETTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+/_-="


def hashes_of(data: bytes) -> dict[str, bytes]:
    """Returns: by a name for people every hash of a file in every form that is looked for: hexadecimal digits, base64 with
    and without padding, raw bytes."""
    found: dict[str, bytes] = {}
    for algorithm in _ALGORITHMS:
        digest = hashlib.new(algorithm, data).digest()
        plain, for_urls = base64.b64encode(digest), base64.urlsafe_b64encode(digest)
        forms = [digest, digest.hex().encode(), digest.hex().upper().encode(), plain, for_urls]
        forms += [plain.rstrip(b"="), for_urls.rstrip(b"=")]
        found |= {f"{algorithm}/{i}": form for i, form in enumerate(forms)}
    return found


def changed_hashes(original: bytes, data: bytes, policy: HashPolicy) -> dict[bytes, bytes]:
    """Returns: what stands for each hash of the original once `data` takes its place: the hash of that in the same form
    or, with "strip", zeros of the same length; empty with "refuse"."""
    if policy == "refuse":
        return {}
    old = hashes_of(original)
    if policy == "strip":
        return {form: (b"\0" if name.endswith("/0") else b"0") * len(form) for name, form in old.items()}
    new = hashes_of(data)
    return {form: new[name] for name, form in old.items()}


def with_hashes(value: Any, changes: Mapping[bytes, bytes]) -> Any:
    """Returns: bytes, text, or lists and dictionaries of them with the hashes replaced; anything else as it is."""
    if not changes:
        return value
    if isinstance(value, bytes):

        def of_word(word: re.Match[bytes]) -> bytes:
            return changes.get(word[0]) or _DIGITS.sub(lambda digits: changes.get(digits[0], digits[0]), word[0])

        return changes.get(value) or _WORD.sub(of_word, value)
    if isinstance(value, str):
        return with_hashes(value.encode(errors="surrogateescape"), changes).decode(errors="surrogateescape")
    if isinstance(value, list):
        return [with_hashes(one, changes) for one in value]
    return {name: with_hashes(one, changes) for name, one in value.items()} if isinstance(value, dict) else value


def end_of_words(text: bytes) -> int:
    """Returns: up to where `text` can be searched when more is to follow: no word that ends later begins before."""
    return len(text.rstrip(_LETTERS))


def algorithm_in(value: Any, hashes: Mapping[str, bytes]) -> str | None:
    """Returns: the name of the hash that a value holds, as "sha256", of those that `hashes_of` returned; None if it holds
    none."""
    for name, form in hashes.items():
        if with_hashes(value, {form: b"\0" * len(form)}) != value:
            return name.partition("/")[0]
    return None


def facts_in(value: Any, data: bytes) -> dict[str, str]:
    """Returns: by field of a value (lists, dictionaries, JSON) that holds the size in bytes, CRC-32 or Adler-32 of a file,
    as a number or in digits, which of them. One file's may agree by chance, those of several do not."""
    facts = {len(data): "size in bytes", zlib.crc32(data): "CRC-32", zlib.adler32(data): "Adler-32"}
    return {field: facts[number] for field, numbers in _numbers(value) for number in numbers if number in facts}


def _numbers(value: Any, field: str = "", *, is_parsed: bool = False) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields: each field of a value and the numbers that it may be meant as."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield field, (value,)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _numbers(one, f"{field}.{name}", is_parsed=is_parsed)
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _numbers(one, f"{field}.{i}", is_parsed=is_parsed)
    elif isinstance(value, bytes | str):
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        text = text.strip()
        if re.fullmatch("(0x)?[0-9A-Fa-f]{1,19}", text):
            yield field, (int(text, 16), *((int(text),) if text.isdecimal() else ()))
        elif text[:1] in ("{", "[") and not is_parsed:
            try:
                parsed = json.loads(text)
            except (ValueError, RecursionError):
                return
            yield from _numbers(parsed, field, is_parsed=True)
