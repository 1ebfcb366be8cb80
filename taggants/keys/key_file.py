"""The private key file: the secret, the spec and the commitment that they must reproduce."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from taggants.errors import InputError
from taggants.keys.key_set import KeySet, KeySpec, derive_keys

if TYPE_CHECKING:
    from taggants.storage import Root

KEY_FILE_FORMAT: Final = "taggants-keys/1"
_FIELDS: Final = ("format", "secret", "spec", "commitment")


def create_key_file(root: Root, path: str, spec: KeySpec, secret: bytes | None = None) -> KeySet:
    """Draws a secret (32 bytes from the operating system, unless given), writes the private key file, returns the keys.

    The file holds the secret, so `root` belongs outside the run folder and outside the signed dataset.

    Raises:
        InputError: the file exists (a lost secret cannot be drawn again), or the secret is not 32 bytes.
    """
    if secret is None:
        secret = secrets.token_bytes(32)
    key_set = derive_keys(secret, spec)
    content = {
        "format": KEY_FILE_FORMAT,
        "secret": secret.hex(),
        "spec": spec.to_json(),
        "commitment": key_set.commitment,
    }
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    if not root.create_bytes(path, text.encode(), private=True):  # of two owners at once, one draws
        raise InputError(f"The key file {path!r} exists under {root.uri} and is never overwritten: choose a new path.")
    return key_set


def load_key_set(root: Root, path: str, num_keys: int | None = None) -> KeySet:
    """The keys of a key file, derived anew from its secret and checked against its commitment.

    num_keys: take only the first so many, with a commitment of their own; None or more than there are takes all.

    Raises:
        InputError: the file is missing, is not JSON, lacks a field or has an unknown one, or contradicts its
        commitment. The
            sentence never holds the secret.
    """
    where = f"The key file {path!r} under {root.uri}"
    content = _parse(root.read_bytes(path), where)
    if not isinstance(content, dict) or set(content) != set(_FIELDS):
        # The names found are not printed: in a mangled file one of them might be the secret.
        raise InputError(f"{where} must be a JSON object with exactly the fields {', '.join(_FIELDS)}.")
    if content["format"] != KEY_FILE_FORMAT:
        raise InputError(f"{where} must have the format {KEY_FILE_FORMAT!r}: use the taggants that wrote it.")
    secret_hex = content["secret"]
    if not isinstance(secret_hex, str) or not re.fullmatch("[0-9a-f]{64}", secret_hex):
        raise InputError(f"{where} must hold the secret as 64 lower-case hex digits: restore it from your backup.")
    try:
        spec = KeySpec.from_json(content["spec"])
    except InputError:
        spec = None  # its sentence quotes the value, which in a mangled file might be the secret
    if spec is None:
        raise InputError(f"{where} holds a spec that is not a key spec: restore it from your backup.")
    key_set = derive_keys(bytes.fromhex(secret_hex), spec)
    if key_set.commitment != content["commitment"]:
        raise InputError(
            f"{where} fails its own commitment, so its secret, spec or commitment was changed: restore your backup."
        )
    if num_keys is not None and num_keys < spec.num_keys:
        return derive_keys(bytes.fromhex(secret_hex), replace(spec, num_keys=num_keys))
    return key_set


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        # Not chained: the parser's error carries the whole document, the secret included.
        reason = f"{where} is not JSON: restore it from your backup."
    raise InputError(reason)
