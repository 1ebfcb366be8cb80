"""The registration: what the owner publishes before the dataset, and before any suspect is queried."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from taggants.detection.question import Question
from taggants.detection.statistics import STATISTICS
from taggants.errors import InputError, check_integer, check_sha256, check_text
from taggants.identity import identity, strict_json
from taggants.keys.key_set import MAX_NUM_CLASSES, MAX_NUM_KEYS

REGISTRATION_FORMAT: Final = "taggants-registration/1"  # of a test that asks the key images alone
REGISTRATION_FORMAT_QUESTION: Final = "taggants-registration/2"
SIGNING_FORMAT: Final = "taggants-signing/1"
DERIVATION: Final = "taggants/v1"  # of keys from the secret: taggants/keys/derivation.py
_OF_FORMAT_2: Final = ("question", "references", "class_names", "image_shape")


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
        question: what is asked about each key; None: the key images alone, and the other fields below are empty, too.
        references: names of the clean models that suspects are compared with, each ending in the hash of all that decides its
            training, at least 16 hex digits; the `SigningRecord` holds what came of it.
        class_names: of the classes in order, where they are known.
        image_shape: (channels, height, width) of every query; what a suspect makes of it before its first layer is its own.

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
    question: Question | None = None
    references: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    image_shape: tuple[int, int, int] | None = None

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
        if self.question is None:
            if self.references or self.class_names is not None or self.image_shape is not None:
                raise InputError("references, class_names and image_shape must be empty without a question.")
            return
        for name in self.references:
            check_text("a reference", name)
        if len(set(self.references)) != len(self.references):
            raise InputError("references names a model twice; name each once.")
        if self.image_shape is None or len(self.image_shape) != 3:
            raise InputError(f"image_shape is {self.image_shape!r} but must be channels, height and width.")
        for extent in self.image_shape:
            check_integer("an extent of image_shape", extent, 1, 2**16)
        if self.class_names is not None:
            for name in self.class_names:
                check_text("a class name", name)
            if len(self.class_names) != self.num_classes:
                raise InputError(f"class_names has {len(self.class_names)} names but must have {self.num_classes}.")

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
        found = value.get("format", REGISTRATION_FORMAT) if isinstance(value, dict) else REGISTRATION_FORMAT
        if found not in (REGISTRATION_FORMAT, REGISTRATION_FORMAT_QUESTION):
            raise InputError(
                f"The registration's format is {found!r} but must be {REGISTRATION_FORMAT!r} or {REGISTRATION_FORMAT_QUESTION!r}."
            )
        with_question = found == REGISTRATION_FORMAT_QUESTION
        names = [part.name for part in fields(cls) if with_question or part.name not in _OF_FORMAT_2]
        expected = {*names, "format", "registration_sha256", *(["derivation"] if with_question else [])}
        if not isinstance(value, dict) or set(value) != expected:
            raise InputError(f"A registration must be a JSON object with only {', '.join(sorted(expected))}.")
        content = {name: value[name] for name in names}
        if with_question:
            if value["derivation"] != DERIVATION:
                raise InputError(
                    f"The registration's derivation is {value['derivation']!r} but must be {DERIVATION!r}."
                )
            content["question"] = Question.from_json(content["question"])
            for name in ("references", "class_names", "image_shape"):
                if isinstance(content[name], list):
                    content[name] = tuple(content[name])
                elif name != "class_names" or content[name] is not None:
                    raise InputError(f"The registration's {name} must be a JSON list.")
        registration = cls(**content)
        if registration.registration_sha256 != value["registration_sha256"]:
            raise InputError(
                "The registration does not match its registration_sha256, so it was changed: use the original."
            )
        return registration

    def _content(self) -> dict[str, Any]:
        content = {part.name: getattr(self, part.name) for part in fields(self) if part.name not in _OF_FORMAT_2}
        if self.question is None:
            return {"format": REGISTRATION_FORMAT, **content}
        assert self.image_shape is not None, "checked above"
        return {
            "format": REGISTRATION_FORMAT_QUESTION,
            "derivation": DERIVATION,
            **content,
            "question": self.question.to_json(),
            "references": list(self.references),
            "class_names": None if self.class_names is None else list(self.class_names),
            "image_shape": list(self.image_shape),
        }


@dataclass(frozen=True)
class SigningRecord:
    """The second record, which the owner publishes once the data are signed: what the registration could not know yet.

    Attributes:
        registration_sha256: of the registration that it completes.
        signed_fingerprint: of the signed dataset.
        reference_weights: SHA-256 of the weights of each registered reference, in their order, 64 hex digits.
        reference_answers: SHA-256 of the file of each reference's answers to the question.

    Raises:
        InputError: a value is out of its range.
    """

    registration_sha256: str
    signed_fingerprint: str
    reference_weights: tuple[str, ...]
    reference_answers: tuple[str, ...]

    def __post_init__(self) -> None:
        check_sha256("registration_sha256", self.registration_sha256)
        check_text("signed_fingerprint", self.signed_fingerprint)
        for name in ("reference_weights", "reference_answers"):
            for value in getattr(self, name):
                check_sha256(f"an entry of {name}", value)
        if len(self.reference_weights) != len(self.reference_answers):
            raise InputError("reference_weights and reference_answers must have one entry for each reference.")

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) over the canonical JSON of the record: the number to publish."""
        return identity(self.to_json())

    def to_json(self) -> dict[str, Any]:
        content = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {"format": SIGNING_FORMAT, **content}

    @classmethod
    def from_text(cls, text: str | bytes) -> SigningRecord:
        """The record in a JSON file as `to_json` writes it; InputError otherwise."""
        value = strict_json(text, "The signing record")
        names = [part.name for part in fields(cls)]
        if not isinstance(value, dict) or set(value) != {"format", *names} or value["format"] != SIGNING_FORMAT:
            raise InputError(
                f"The signing record must be a JSON object of format {SIGNING_FORMAT!r} with only {', '.join(names)}."
            )
        for name in ("reference_weights", "reference_answers"):
            if not isinstance(value[name], list):
                raise InputError(f"The signing record's {name} must be a JSON list.")
        content: dict[str, Any] = {n: tuple(v) if isinstance(v := value[n], list) else v for n in names}
        return cls(**content)
