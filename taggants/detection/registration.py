"""The registration: what the owner publishes before the dataset, and before any suspect is queried."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from taggants.detection.statistics import STATISTICS
from taggants.errors import InputError, check_integer, check_sha256, check_text
from taggants.identity import identity, strict_json
from taggants.keys.key_set import MAX_NUM_CLASSES, MAX_NUM_KEYS

REGISTRATION_FORMAT: Final = "taggants-registration/1"


@dataclass(frozen=True)
class Registration:
    """The test that will decide, fixed in advance. Holds commitments only and is meant to be published.

    Without it the owner could choose keys, statistic or level after seeing a model's answers, and no p-value would
    mean much.

    Attributes:
        keys_commitment: `KeySet.commitment`, 64 hex digits.
        num_keys: number of keys K.
        num_classes: number of classes C.
        dataset_fingerprint: of the original dataset.
        statistic: whose p-value decides, by its name in `STATISTICS`.
        top_k: a key is a hit when its label is among the suspect's first top_k answers, 1..num_classes.
        alpha: level of the test; detection means p_value <= alpha. In (0, 1).

    Raises:
        InputError: a value is out of its range.
    """

    keys_commitment: str
    num_keys: int
    num_classes: int
    dataset_fingerprint: str
    statistic: str
    top_k: int
    alpha: float

    def __post_init__(self) -> None:
        check_sha256("keys_commitment", self.keys_commitment)
        check_integer("num_keys", self.num_keys, 1, MAX_NUM_KEYS)
        check_integer("num_classes", self.num_classes, 2, MAX_NUM_CLASSES)
        check_text("dataset_fingerprint", self.dataset_fingerprint)
        if not isinstance(self.statistic, str) or self.statistic not in STATISTICS:
            raise InputError(f"statistic is {self.statistic!r} but must be one of {', '.join(STATISTICS)}.")
        check_integer("top_k", self.top_k, 1, self.num_classes)
        if not isinstance(self.alpha, float) or not 0 < self.alpha < 1:
            raise InputError(f"alpha is {self.alpha!r} but must be a number above 0 and below 1.")

    @property
    def registration_sha256(self) -> str:
        """SHA-256 (hex) over the canonical JSON of the format and every field: the number to publish."""
        return identity(self._content())

    def _repr_html_(self) -> str:
        """Returns the fields as a notebook shows them."""
        cells = (
            f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>" for name, value in self.to_json().items()
        )
        return f"<table>{''.join(cells)}</table>"

    def to_json(self) -> dict[str, Any]:
        return {**self._content(), "registration_sha256": self.registration_sha256}

    @classmethod
    def from_text(cls, text: str | bytes) -> Registration:
        """The registration in a JSON file; as `from_json`, and refused if a field stands there twice or a number is NaN."""
        return cls.from_json(strict_json(text, "The registration"))

    @classmethod
    def from_json(cls, value: object) -> Registration:
        """The registration in a JSON object as `to_json` writes it.

        Raises:
            InputError: a field is missing, unknown or out of range, or the hash does not match the rest.
        """
        names = [registration_field.name for registration_field in fields(cls)]
        expected = {*names, "format", "registration_sha256"}
        if not isinstance(value, dict) or set(value) != expected:
            raise InputError(f"A registration must be a JSON object with only {', '.join(sorted(expected))}.")
        if value["format"] != REGISTRATION_FORMAT:
            raise InputError(f"The registration's format is {value['format']!r} but must be {REGISTRATION_FORMAT!r}.")
        registration = cls(**{name: value[name] for name in names})
        if registration.registration_sha256 != value["registration_sha256"]:
            raise InputError(
                "The registration does not match its registration_sha256, so it was changed: use the original."
            )
        return registration

    def _content(self) -> dict[str, Any]:
        return {"format": REGISTRATION_FORMAT, **asdict(self)}
