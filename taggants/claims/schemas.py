"""JSON Schemas of the public files, read off the classes that read and write them.

    python -m taggants.claims.schemas docs/schemas

A schema says what a file looks like. Whether it is true, `taggants check` says.
"""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Final

from pydantic import TypeAdapter

from taggants.claims.disclosure import DISCLOSURE_FORMAT
from taggants.detection import Certificate, Registration
from taggants.detection.certificate import CERTIFICATE_FORMAT, CERTIFICATE_FORMAT_QUESTION
from taggants.detection.evidence import Evidence
from taggants.detection.outcome import EValue, LabelMap
from taggants.detection.question import COMPARISONS, SCORE, Question
from taggants.detection.registration import (
    DERIVATION,
    DERIVATION_RANDOMNESS,
    PREPROCESSING,
    REGISTRATION_FORMAT,
    REGISTRATION_FORMAT_QUESTION,
    SIGNING_FORMAT,
    SigningRecord,
)
from taggants.keys.commitment import COMMITMENT_FORMAT, KeysCommitment
from taggants.storage import Root

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_HASH: Final[dict[str, Any]] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_HASHES: Final = ("keys_commitment", "keys_root", "secret_commitment")  # besides all names that end in sha256
_TEXT: Final[dict[str, Any]] = {"type": "string"}
_VERDICTS: Final = ["detected", "not detected", "cannot be judged"]


def schemas() -> dict[str, dict[str, Any]]:
    """Returns the schema of each public file, by the name of its format without the product's, such as "certificate-3"."""
    return {
        "registration-1": _file(
            _registration(with_question=False), "A registration of a test that asks key images alone"
        ),
        "registration-2": _file(_registration(with_question=True), "A registration with a question"),
        "signing-1": _file(_object(SigningRecord, format={"const": SIGNING_FORMAT}), "A signing record"),
        "certificate-2": _file(_certificate(with_question=False), "A certificate of a test that asks key images alone"),
        "certificate-3": _file(_certificate(with_question=True), "A certificate of a test with a question"),
        "keys-commitment-1": _file(
            _object(KeysCommitment, format={"const": COMMITMENT_FORMAT}), "A commitment to a secret"
        ),
        "disclosure-1": _file(_disclosure(), "A disclosure of keys"),
    }


def _file(schema: dict[str, Any], title: str) -> dict[str, Any]:
    return {"$schema": _DIALECT, "title": title, **schema}


def _registration(*, with_question: bool) -> dict[str, Any]:
    if not with_question:
        later = {part.name for part in fields(Registration) if part.default is not MISSING}
        return _object(Registration, later, format={"const": REGISTRATION_FORMAT}, registration_sha256=_HASH)
    question = _object(Question, score={"const": SCORE}, comparison={"enum": [*COMPARISONS]})
    return _object(
        Registration,
        format={"const": REGISTRATION_FORMAT_QUESTION},
        registration_sha256=_HASH,
        derivation={"enum": [DERIVATION, DERIVATION_RANDOMNESS]},
        preprocessing={"const": PREPROCESSING},
        question=question,
        keys_root=_HASH,
        image_shape={"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 3, "maxItems": 3},
    )


def _certificate(*, with_question: bool) -> dict[str, Any]:
    common = {
        "registration": _registration(with_question=with_question),
        "evidence": _object(Evidence, {"num_classes"}),
    }
    if not with_question:
        later = {part.name for part in fields(Certificate) if part.default is not MISSING}
        return _object(Certificate, later, format={"const": CERTIFICATE_FORMAT}, **common)
    return _object(
        Certificate,
        format={"const": CERTIFICATE_FORMAT_QUESTION},
        answers_sha256=_HASH,
        signing=_object(SigningRecord, format={"const": SIGNING_FORMAT}),
        label_map={"anyOf": [_object(LabelMap, sha256=_HASH), {"type": "null"}]},
        e_value=_object(EValue),
        verdict={"enum": _VERDICTS},
        certificate_sha256=_HASH,
        look={"type": "integer", "minimum": 1},
        **common,
    )


def _disclosure() -> dict[str, Any]:
    key = {
        "index": {"type": "integer", "minimum": 0},
        "salt": _HASH,
        "label": {"type": "integer", "minimum": 0},
        "id": _HASH,
        "image": {"type": "string", "contentEncoding": "base64", "description": "bytes by channel, row and column"},
        "proof": {
            "type": "array",
            "items": _HASH,
            "maxItems": 32,
            "description": "hashes of a Merkle tree, lowest first",
        },
    }
    return _closed(
        {
            "format": {"const": DISCLOSURE_FORMAT},
            "registration_sha256": _HASH,
            "keys": {"type": "array", "items": _closed(key), "description": "proved keys; none with the secret"},
            "secret": {"anyOf": [_HASH, {"type": "null"}], "description": "that all keys are derived from"},
            "spec": {"type": ["object", "null"], "description": "what keys of the secret look like"},
        }
    )


def _object(
    kind: type, aside: set[str] | frozenset[str] = frozenset(), /, **others: Mapping[str, Any]
) -> dict[str, Any]:
    """The schema of what a class writes: its fields, described by its docstring, but for some, and others instead or besides."""
    described = _descriptions(kind)
    properties: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind).items():
        if name in aside or name not in {part.name for part in fields(kind)}:
            continue
        about = {"description": described[name]} if name in described else {}
        properties[name] = {**_of_type(name, hint), **about} if name not in others else {**others[name], **about}
    return _closed({**{name: dict(schema) for name, schema in others.items()}, **properties})


def _closed(properties: Mapping[str, Any]) -> dict[str, Any]:
    ordered = {name: properties[name] for name in sorted(properties)}
    return {"type": "object", "properties": ordered, "required": list(ordered), "additionalProperties": False}


def _of_type(name: str, hint: Any) -> dict[str, Any]:
    parts = typing.get_args(hint)
    if isinstance(hint, UnionType) and NoneType in parts:
        (inner,) = (part for part in parts if part is not NoneType)
        return {"anyOf": [_of_type(name, inner), {"type": "null"}]}
    if is_dataclass(hint) and isinstance(hint, type):
        return _object(hint)
    if hint is str and (name.endswith("sha256") or name in _HASHES):
        return _HASH
    return {key: value for key, value in TypeAdapter(hint).json_schema().items() if key != "default"}


def _descriptions(kind: type) -> dict[str, str]:
    """What the docstring's section Attributes says of each field, on one line."""
    section = (kind.__doc__ or "").partition("Attributes:\n")[2].partition("Raises:")[0]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=        \w)", "\n" + section.rstrip()):
        names, separator, text = entry.strip().partition(": ")
        if separator and re.fullmatch(r"\w+(, \w+)*", names):
            found |= {name: " ".join(text.split()) for name in names.split(", ")}
    return found


def main(folder: str) -> None:
    """Writes every schema into a folder."""
    for name, schema in schemas().items():
        Root(folder).write_json(f"{name}.schema.json", schema)


if __name__ == "__main__":
    main(sys.argv[1])
