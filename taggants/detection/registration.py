"""The registration: what the owner publishes before the dataset, and before any suspect is queried."""

from __future__ import annotations

import hashlib
import html
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Final

from taggants.detection.question import MAX_NUM_REFERENCES, SLOPE_EACH, Question
from taggants.detection.statistics import STATISTICS
from taggants.errors import InputError, check_integer, check_sha256, check_text
from taggants.identity import Published, canonical_json, format_in, strict_json
from taggants.keys.key_set import MAX_NUM_CLASSES, MAX_NUM_KEYS
from taggants.keys.randomness import Randomness

REGISTRATION_FORMAT: Final = "taggants-registration/1"  # of a test that asks the key images alone
REGISTRATION_FORMAT_QUESTION: Final = "taggants-registration/2"
SIGNING_FORMAT: Final = "taggants-signing/1"
DERIVATION: Final = "taggants/v1"  # of keys from the secret: taggants/keys/derivation.py
DERIVATION_RANDOMNESS: Final = "taggants/v2"  # of labels from the secret and public randomness: there, too
PREPROCESSING: Final = (
    "queries are uint8 of image_shape, resized to the suspect's size by Pillow bicubic; "
    "mean and std are the suspect's own"
)
MAX_NUM_TESTS: Final = 10_000


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
        image_shape: (channels, height, width) of every query, which `PREPROCESSING` says how to feed.
        keys_root: `KeySet.root`, 64 hex digits: keys can be disclosed one by one.
        number: which registration of this secret it is, counting from 1, as the owner's key folder counts them.
        num_suspects, num_looks: how many suspects, and tests of each, alpha is spent on, at least 1.
        demonstration: whether the keys come from the public demonstration secret and prove nothing.
        randomness: public, that the labels were drawn from besides the secret; None: from the secret alone.

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
    keys_root: str | None = None
    number: int = 1
    num_suspects: int = 1
    num_looks: int = 1
    demonstration: bool = False
    randomness: Randomness | None = None

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
            for name in _OF_FORMAT_2:
                if getattr(self, name) != _DEFAULTS[name]:
                    raise InputError(f"{name} must be left out without a question.")
            return
        check_sha256("keys_root", self.keys_root)
        for name in ("number", "num_suspects", "num_looks"):
            check_integer(name, getattr(self, name), 1, MAX_NUM_TESTS)
        if type(self.demonstration) is not bool:
            raise InputError(f"demonstration is {self.demonstration!r} but must be true or false.")
        for name in self.references:
            check_text("a reference", name)
        if len(set(self.references)) != len(self.references):
            raise InputError("references names a model twice; name each once.")
        if self.question.comparison == SLOPE_EACH and len(self.references) > MAX_NUM_REFERENCES:
            raise InputError(f"references names {len(self.references)} models but may name {MAX_NUM_REFERENCES}.")
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
    def level(self) -> float:
        """Level of one test: alpha, divided over the registered suspects and looks, so that even one false detection among all
        of them has probability at most alpha."""
        return self.alpha / (self.num_suspects * self.num_looks)

    @property
    def num_images(self) -> int:
        """How many images are asked: the plain covers, then the queries of each key."""
        if self.question is None:
            return self.num_keys
        return len(self.question.cover_ids) + self.num_keys * self.question.num_queries

    @property
    def registration_sha256(self) -> str:
        """SHA-256 (hex) over the canonical JSON of the format and every field: the number to publish."""
        return hashlib.sha256(self.canonical).hexdigest()

    @property
    def canonical(self) -> bytes:
        """The bytes that `registration_sha256` is of, for who dates or signs them."""
        return canonical_json(self._content())

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
        found = format_in(value, "The registration", (REGISTRATION_FORMAT, REGISTRATION_FORMAT_QUESTION))
        with_question = found == REGISTRATION_FORMAT_QUESTION
        names = [part.name for part in fields(cls) if with_question or part.name not in _OF_FORMAT_2]
        constants = ["derivation", "preprocessing"] if with_question else []
        expected = {*names, "format", "registration_sha256", *constants}
        if not isinstance(value, dict) or set(value) != expected:
            raise InputError(f"A registration must be a JSON object with only {', '.join(sorted(expected))}.")
        content = {name: value[name] for name in names}
        if with_question:
            content["question"] = Question.from_json(content["question"])
            if content["randomness"] is not None:
                content["randomness"] = Randomness.from_json(content["randomness"])
            derivation = DERIVATION if content["randomness"] is None else DERIVATION_RANDOMNESS
            for name, wanted in (("derivation", derivation), ("preprocessing", PREPROCESSING)):
                if value[name] != wanted:
                    raise InputError(f"The registration's {name} is {value[name]!r} but must be {wanted!r}.")
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
            "derivation": DERIVATION if self.randomness is None else DERIVATION_RANDOMNESS,
            "preprocessing": PREPROCESSING,
            **content,
            "question": self.question.to_json(),
            "references": list(self.references),
            "class_names": None if self.class_names is None else list(self.class_names),
            "image_shape": list(self.image_shape),
            "keys_root": self.keys_root,
            "number": self.number,
            "num_suspects": self.num_suspects,
            "num_looks": self.num_looks,
            "demonstration": self.demonstration,
            "randomness": None if self.randomness is None else self.randomness.to_json(),
        }


# What format 1 cannot hold has its default there.
_DEFAULTS: Final = {part.name: part.default for part in fields(Registration) if part.default is not MISSING}
_OF_FORMAT_2: Final = tuple(_DEFAULTS)


@dataclass(frozen=True)
class SigningRecord(Published):
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
        answers_of: dict[str, str] = {}
        for weights, answers in zip(self.reference_weights, self.reference_answers, strict=True):
            if answers_of.setdefault(weights, answers) != answers:
                raise InputError(f"reference_weights names {weights} twice, with different answers.")

    def to_json(self) -> dict[str, Any]:
        content = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {"format": SIGNING_FORMAT, **content}

    @classmethod
    def from_text(cls, text: str | bytes) -> SigningRecord:
        """The record in a JSON file as `to_json` writes it; InputError otherwise."""
        return cls.from_json(strict_json(text, "The signing record"))

    @classmethod
    def from_json(cls, value: object) -> SigningRecord:
        """The record in a JSON object as `to_json` writes it; InputError otherwise."""
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
