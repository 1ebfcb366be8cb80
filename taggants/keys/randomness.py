"""Public randomness that labels are drawn from besides the secret, so that nobody can try secrets until their labels suit."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from typing import Any

from taggants.errors import InputError, check_sha256, check_text
from taggants.identity import canonical_json


@dataclass(frozen=True)
class Randomness:
    """A value that everybody can look up, and that nobody knew when the secret was committed to.

    Attributes:
        source: who publishes it, such as "drand mainnet" or "NIST beacon", printable, at most 200 characters.
        round: which of the source's values, named before it was known: a round's number, or the date of a newspaper.
        value: as the source publishes it, printable, at most 200 characters.
        commitment_sha256: of the `KeysCommitment` that was published before, 64 hex digits.

    Raises:
        InputError: a value is out of its range.
    """

    source: str
    round: str
    value: str
    commitment_sha256: str

    def __post_init__(self) -> None:
        for name in ("source", "round", "value"):
            check_text(f"randomness {name}", getattr(self, name))
        check_sha256("randomness commitment_sha256", self.commitment_sha256)

    @property
    def digest(self) -> bytes:
        """SHA-256 over the canonical JSON of source, round and value, 32 bytes: what labels are drawn from."""
        return hashlib.sha256(
            canonical_json({"source": self.source, "round": self.round, "value": self.value})
        ).digest()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Randomness:
        """Returns the randomness in a JSON object as `to_json` writes it; InputError otherwise."""
        names = {part.name for part in fields(cls)}
        if not isinstance(value, dict) or set(value) != names:
            raise InputError(f"randomness must be null or a JSON object with only {', '.join(sorted(names))}.")
        return cls(**value)
