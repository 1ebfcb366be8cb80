"""The commitment to a secret, published before the public randomness that the labels are drawn from is known."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from taggants.errors import InputError, check_sha256, check_text
from taggants.identity import Published, canonical_json, strict_json
from taggants.keys.derivation import check_secret
from taggants.keys.key_set import KeySpec
from taggants.keys.randomness import Randomness

COMMITMENT_FORMAT: Final = "taggants-keys-commitment/1"
_SECRET_TAG: Final = b"taggants/v1/secret-commitment"


@dataclass(frozen=True)
class KeysCommitment(Published):
    """What the owner publishes, with a date that others can prove, before the source gives out the value of the round.

    From then on one secret and one value decide the labels: the owner can no longer try secrets until the labels suit.

    Attributes:
        secret_commitment: SHA-256("taggants/v1/secret-commitment" || secret || u32 BE length of J || J) with J the canonical
            JSON of the key spec without its num_keys, 64 hex digits.
        source, round: of the value that is to come, as of `Randomness`.

    Raises:
        InputError: a value is out of its range.
    """

    secret_commitment: str
    source: str
    round: str

    def __post_init__(self) -> None:
        check_sha256("secret_commitment", self.secret_commitment)
        check_text("source", self.source)
        check_text("round", self.round)

    @classmethod
    def of(cls, secret: bytes, spec: KeySpec, source: str, round_: str) -> KeysCommitment:
        """Returns the commitment to a secret and to what its keys look like."""
        check_secret(secret)
        look = canonical_json({name: value for name, value in spec.to_json().items() if name != "num_keys"})
        digest = hashlib.sha256(_SECRET_TAG + secret + struct.pack(">I", len(look)) + look)
        return cls(digest.hexdigest(), source, round_)

    def with_value(self, value: str) -> Randomness:
        """Returns the randomness that the labels are drawn from, once the source has given out the value."""
        return Randomness(self.source, self.round, value, self.sha256)

    def to_json(self) -> dict[str, Any]:
        return {"format": COMMITMENT_FORMAT, **asdict(self)}

    @classmethod
    def from_text(cls, text: str | bytes) -> KeysCommitment:
        """Returns the commitment in a JSON file as `to_json` writes it; InputError otherwise."""
        value = strict_json(text, "The commitment", max_bytes=2**16)
        names = [part.name for part in fields(cls)]
        if not isinstance(value, dict) or set(value) != {"format", *names} or value["format"] != COMMITMENT_FORMAT:
            raise InputError(
                f"The commitment must be a JSON object of format {COMMITMENT_FORMAT!r} with only {', '.join(names)}."
            )
        return cls(**{name: value[name] for name in names})
