"""The private key file: the secret, the spec and the commitment that they must reproduce.

Format 1 holds format, secret, spec and commitment. Format 2, for labels drawn from public randomness too, holds the randomness
besides: its source, its round and the hash of the commitment that was published before, and the value, which is null until it is
known; so is the commitment to the keys.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from taggants.errors import InputError
from taggants.keys.commitment import KeysCommitment
from taggants.keys.key_set import KeySet, KeySpec, derive_keys
from taggants.keys.randomness import Randomness

if TYPE_CHECKING:
    from taggants.storage import Root

KEY_FILE_FORMAT: Final = "taggants-keys/1"
KEY_FILE_FORMAT_RANDOMNESS: Final = "taggants-keys/2"
_FIELDS: Final = ("format", "secret", "spec", "commitment")


@dataclass(frozen=True)
class _KeyFile:
    """What a key file holds. randomness: source, round, value and commitment_sha256; None in format 1."""

    secret: bytes = field(repr=False)
    spec: KeySpec
    commitment: str | None
    randomness: dict[str, str | None] | None = None

    def encoded(self) -> bytes:
        content: dict[str, Any] = {
            "format": KEY_FILE_FORMAT if self.randomness is None else KEY_FILE_FORMAT_RANDOMNESS,
            "secret": self.secret.hex(),
            "spec": self.spec.to_json(),
            "commitment": self.commitment,
        }
        if self.randomness is not None:
            content["randomness"] = self.randomness
        return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


Choose = Callable[[bytes, KeySpec], KeySpec]
"""(secret, spec without a choice) -> the spec with one; a function of the candidates' images, never of their labels."""


def create_key_file(
    root: Root, path: str, spec: KeySpec, secret: bytes | None = None, choose: Choose | None = None
) -> KeySet:
    """Draws a secret (32 bytes from the operating system, unless given), writes the private key file, returns the keys.

    The file holds the secret, so `root` belongs outside the run folder and outside the signed dataset.

    Raises:
        InputError: the file exists (a lost secret cannot be drawn again), or the secret is not 32 bytes.
    """
    if secret is None:
        secret = secrets.token_bytes(32)
    if choose is not None:
        spec = choose(secret, spec)
    key_set = derive_keys(secret, spec)
    _create(root, path, _KeyFile(secret, spec, key_set.commitment))
    return key_set


def commit_to_keys(
    root: Root, path: str, spec: KeySpec, source: str, round_: str, choose: Choose | None = None
) -> KeysCommitment:
    """Draws a secret, writes the private key file, and returns the commitment to publish before the round's value is known.

    A second call with the same arguments returns the same commitment.

    Raises:
        InputError: the file exists and is not waiting for this round with keys of this spec.
    """
    if not root.exists(path):
        secret = secrets.token_bytes(32)
        if choose is not None:
            spec = choose(secret, spec)
        commitment = KeysCommitment.of(secret, spec, source, round_)
        waiting: dict[str, str | None] = {"source": source, "round": round_, "value": None}
        _create(root, path, _KeyFile(secret, spec, None, waiting | {"commitment_sha256": commitment.sha256}))
        return commitment
    file = _read(root, path)
    commitment = KeysCommitment.of(file.secret, file.spec, source, round_)
    if (
        file.randomness is None
        or replace(file.spec, choice=None) != spec
        or file.randomness["commitment_sha256"] != commitment.sha256
    ):
        raise InputError(
            f"The key file {path!r} under {root.uri} exists and is not committed to {source!r}, round {round_!r}, with these "
            "keys: choose another keys.name."
        )
    return commitment


def draw_labels(root: Root, path: str, value: str) -> KeySet:
    """Returns the keys whose labels are drawn from the secret and the public value, which the key file holds from now on.

    Raises:
        InputError: the key file waits for no value, or holds another one: labels are drawn once.
    """
    file = _read(root, path)
    where = f"The key file {path!r} under {root.uri}"
    if file.randomness is None:
        raise InputError(f"{where} waits for no public value: commit to one first, `taggants keys commit`.")
    if file.randomness["value"] not in (None, value):
        raise InputError(
            f"{where} holds labels drawn from another value, and they are drawn once: commit with new keys."
        )
    randomness = Randomness.from_json({**file.randomness, "value": value})
    if KeysCommitment.of(file.secret, file.spec, randomness.source, randomness.round).with_value(value) != randomness:
        raise InputError(f"{where} was changed after the commitment was made: restore it from your backup.")
    key_set = derive_keys(file.secret, file.spec, randomness)
    if file.randomness["value"] is None:
        drawn_from = f"{path.removesuffix('.json')}.value"  # of two owners at once, one draws
        if (
            not root.create_bytes(drawn_from, value.encode(), private=True)
            and root.read_bytes(drawn_from) != value.encode()
        ):
            raise InputError(
                f"{where} is being drawn from another value, and labels are drawn once: commit with new keys."
            )
        drawn = replace(file, commitment=key_set.commitment, randomness={**file.randomness, "value": value})
        root.write_bytes(path, drawn.encoded(), private=True)
    return key_set


def load_key_set(root: Root, path: str, num_keys: int | None = None) -> KeySet:
    """The keys of a key file, derived anew from its secret and checked against its commitment.

    num_keys: take only the first so many, with a commitment of their own; None or more than there are takes all.

    Raises:
        InputError: the file is missing, is not JSON, lacks a field or has an unknown one, contradicts its commitment, or waits
            for a public value. The sentence never holds the secret.
    """
    file, where = _read(root, path), f"The key file {path!r} under {root.uri}"
    randomness = None
    if file.randomness is not None:
        if file.randomness["value"] is None:
            raise InputError(
                f"{where} waits for the public value that it was committed to: draw the labels with `taggants keys draw VALUE`."
            )
        randomness = Randomness.from_json(file.randomness)
    key_set = derive_keys(file.secret, file.spec, randomness)
    if key_set.commitment != file.commitment:
        raise InputError(
            f"{where} fails its own commitment, so its secret, spec or commitment was changed: restore your backup."
        )
    if num_keys is not None and num_keys < file.spec.num_keys:
        return derive_keys(file.secret, replace(file.spec, num_keys=num_keys), randomness)
    return key_set


def load_secret(root: Root, path: str) -> bytes:
    """The secret of a key file, 32 bytes, for who discloses it; raises as `load_key_set`."""
    load_key_set(root, path)
    return _read(root, path).secret


def _create(root: Root, path: str, file: _KeyFile) -> None:
    if not root.create_bytes(path, file.encoded(), private=True):  # of two owners at once, one draws
        raise InputError(f"The key file {path!r} exists under {root.uri} and is never overwritten: choose a new path.")


def _read(root: Root, path: str) -> _KeyFile:
    where = f"The key file {path!r} under {root.uri}"
    content = _parse(root.read_bytes(path), where)
    expected = {*_FIELDS}
    if isinstance(content, dict) and content.get("format") == KEY_FILE_FORMAT_RANDOMNESS:
        expected |= {"randomness"}
    if not isinstance(content, dict) or set(content) != expected:
        # The names found are not printed: in a mangled file one of them might be the secret.
        raise InputError(f"{where} must be a JSON object with exactly the fields {', '.join(_FIELDS)}.")
    if content["format"] not in (KEY_FILE_FORMAT, KEY_FILE_FORMAT_RANDOMNESS):
        raise InputError(f"{where} must have the format {KEY_FILE_FORMAT!r}: use the taggants that wrote it.")
    secret_hex = content["secret"]
    if not isinstance(secret_hex, str) or not re.fullmatch("[0-9a-f]{64}", secret_hex):
        raise InputError(f"{where} must hold the secret as 64 lower-case hex digits: restore it from your backup.")
    randomness = content.get("randomness")
    if "randomness" in expected:
        value = randomness.get("value") if isinstance(randomness, dict) else None
        known = _value_or_none(Randomness.from_json, randomness if value is not None else _with_a_value(randomness))
        if known is None:
            raise InputError(f"{where} holds no public randomness in format 2: restore it from your backup.")
    spec = _value_or_none(KeySpec.from_json, content["spec"])
    if spec is None:
        raise InputError(f"{where} holds a spec that is not a key spec: restore it from your backup.")
    return _KeyFile(bytes.fromhex(secret_hex), spec, content["commitment"], randomness)


def _value_or_none(read: Any, value: object) -> Any:
    """What a reader returns; None for its InputError, whose sentence quotes what in a mangled file might be the secret."""
    try:
        return read(value)
    except InputError:
        return None


def _with_a_value(randomness: object) -> object:
    return {**randomness, "value": "to come"} if isinstance(randomness, dict) and "value" in randomness else randomness


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        # Not chained: the parser's error carries the whole document, the secret included.
        reason = f"{where} is not JSON: restore it from your backup."
    raise InputError(reason)
