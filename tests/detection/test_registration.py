from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from taggants.detection import Registration
from taggants.detection.question import ONE_SLOPE, Question
from taggants.detection.registration import SigningRecord
from taggants.errors import InputError
from taggants.keys import Randomness
from tests.detection.registrations import registered

REGISTRATION = Registration(
    keys_commitment="ab" * 32,
    num_keys=10,
    num_classes=1000,
    dataset_fingerprint="cd" * 32,
    statistic="rank",
    top_k=10,
    alpha=1e-6,
)


def test_hash_is_over_the_canonical_json_of_the_rest() -> None:
    text = (
        '{"alpha":1e-06,"dataset_fingerprint":"'
        + "cd" * 32
        + '","format":"taggants-registration/1","keys_commitment":"'
        + "ab" * 32
        + '","num_classes":1000,"num_keys":10,"statistic":"rank","top_k":10}'
    )
    assert REGISTRATION.registration_sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert REGISTRATION.to_json() == {**json.loads(text), "registration_sha256": REGISTRATION.registration_sha256}


def test_a_text_that_two_readers_could_take_for_two_registrations_is_refused() -> None:
    text = json.dumps(REGISTRATION.to_json())
    assert Registration.from_text(text) == REGISTRATION
    for changed, sentence in (
        (text.replace('"alpha": 1e-06', '"alpha": 0.5, "alpha": 1e-06'), "names a field twice"),
        (text.replace("1e-06", "NaN"), "holds NaN"),
        (text[:-1], "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        (" " * 2**26 + text, "is longer than"),
    ):
        with pytest.raises(InputError, match=sentence):
            Registration.from_text(changed)


def test_round_trip() -> None:
    assert Registration.from_json(json.loads(json.dumps(REGISTRATION.to_json()))) == REGISTRATION


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("keys_commitment", "ac" * 32),
        ("num_keys", 9),
        ("num_classes", 999),
        ("dataset_fingerprint", "other"),
        ("statistic", "hits"),
        ("top_k", 5),
        ("alpha", 1e-5),
        ("registration_sha256", "00" * 32),
        ("registration_sha256", None),
    ],
)
def test_every_change_is_noticed(field: str, value: Any) -> None:
    with pytest.raises(InputError, match="does not match its registration_sha256"):
        Registration.from_json({**REGISTRATION.to_json(), field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("keys_commitment", "AB" * 32),
        ("keys_commitment", None),
        ("num_keys", 0),
        ("num_classes", 1),
        ("dataset_fingerprint", ""),
        ("dataset_fingerprint", 3),
        ("statistic", "best"),
        ("top_k", 0),
        ("top_k", 1001),
        ("alpha", 0.0),
        ("alpha", 1.0),
        ("alpha", float("nan")),
        ("alpha", "0.1"),
        ("alpha", True),
    ],
)
def test_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{field} is "):
        dataclasses.replace(REGISTRATION, **{field: value})


def test_missing_unknown_and_foreign_fields_are_refused() -> None:
    content = REGISTRATION.to_json()
    cases: list[Any] = [{**content, "more": 1}, {name: content[name] for name in list(content)[1:]}, None, []]
    for broken in cases:
        with pytest.raises(InputError, match="JSON object with only"):
            Registration.from_json(broken)
    with pytest.raises(InputError, match="format is"):
        Registration.from_json({**content, "format": "taggants-registration/3"})


QUESTION = Question("covers", (4, 2), (32, 128), (1, 1), 0, 2, 5)
WITH_QUESTION = registered(
    num_classes=3,
    top_k=1,
    statistic="question",
    question=QUESTION,
    references=("surrogate-0-0123456789abcdef", "reference-0-fedcba9876543210"),
    class_names=("cat", "dog", "owl"),
    image_shape=(3, 32, 32),
    keys_root="ef" * 32,
    number=2,
    num_suspects=3,
    num_looks=4,
    randomness=Randomness("drand mainnet", "4000000", "0a" * 32, "9b" * 32),
)


def test_a_registration_with_a_question_has_format_2_and_a_hash_for_ever() -> None:
    content = json.loads(json.dumps(WITH_QUESTION.to_json()))
    assert content["format"] == "taggants-registration/2"
    assert content["derivation"] == "taggants/v2"
    assert content["question"]["score"] == "floor(64 ln(rank) + 1/2)"
    assert content["registration_sha256"] == "cec760d7c05025a39a98dc34dd49bfc47055e43afd8f125c0ccf9ab64b6b216c"
    earlier = replace(WITH_QUESTION, question=replace(QUESTION, comparison=ONE_SLOPE))
    assert earlier.registration_sha256 == "74b5ff4ff04bf05afb9689c8806a613c54c3641a7b4999502107058dfa26c8b5"
    assert Registration.from_json(earlier.to_json()) == earlier
    assert Registration.from_json(content) == WITH_QUESTION
    nameless = replace(WITH_QUESTION, class_names=None)
    assert Registration.from_json(nameless.to_json()) == nameless


def test_every_field_of_format_2_is_under_the_hash() -> None:
    content = WITH_QUESTION.to_json()
    other: dict[str, Any] = {
        "references": ["surrogate-0-0123456789abcdef"],
        "class_names": ["cat", "owl", "dog"],
        "image_shape": [3, 32, 33],
        "keys_root": "ee" * 32,
        "number": 1,
        "num_suspects": 1,
        "num_looks": 1,
        "demonstration": True,
        "randomness.source": "NIST beacon",
        "randomness.round": "4000001",
        "randomness.value": "0b" * 32,
        "randomness.commitment_sha256": "9c" * 32,
    }
    question = content["question"]
    for name, value in question.items():
        if name not in ("score", "comparison"):
            changed = (
                value[::-1] if name == "cover_ids" else [v + 1 for v in value] if isinstance(value, list) else None
            )
            other[f"question.{name}"] = changed or ("other" if name == "covers_fingerprint" else value + 1)
    for name, value in other.items():
        outer, _, inner = name.partition(".")
        broken = {**content, outer: {**content[outer], inner: value} if inner else value}
        with pytest.raises(InputError, match="does not match its registration_sha256"):
            Registration.from_json(broken)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"question": None}, "must be left out without a question"),
        ({"references": ("a", "a")}, "names a model twice"),
        ({"image_shape": None}, "image_shape is None"),
        ({"image_shape": (3, 0, 3)}, "an extent of image_shape"),
        ({"class_names": ("cat", "dog")}, "class_names has 2 names but must have 3"),
        ({"keys_root": None}, "keys_root is None"),
        ({"number": 0}, "number is 0"),
        ({"num_suspects": True}, "num_suspects is True"),
        ({"num_looks": 0}, "num_looks is 0"),
        ({"demonstration": 1}, "demonstration is 1"),
        (
            {"references": tuple(f"reference-{i}-0123456789abcdef" for i in range(17))},
            "names 17 models but may name 16",
        ),
    ],
)
def test_a_question_without_what_belongs_to_it_is_named(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        replace(WITH_QUESTION, **change)


def test_foreign_values_in_the_json_of_format_2_are_refused() -> None:
    content = WITH_QUESTION.to_json()
    for change in (
        {"derivation": "taggants/v1"},
        {"preprocessing": "as you like"},
        {"randomness": None},
        {"randomness": {"source": "drand"}},
        {"references": "surrogate"},
        {"image_shape": None},
        {"class_names": "cat"},
        {"question": None},
        {"format": "taggants-registration/1"},
    ):
        with pytest.raises(InputError):
            Registration.from_json({**content, **change})


def test_a_signing_record_is_read_as_it_was_written_and_nothing_else_is() -> None:
    record = SigningRecord("ab" * 32, "signed", ("01" * 32,), ("23" * 32,))
    content = record.to_json()
    assert SigningRecord.from_text(json.dumps(content)) == record
    assert replace(record, signed_fingerprint="other").sha256 != record.sha256
    for broken in (
        {**content, "more": 1},
        {**content, "format": "taggants-signing/2"},
        {**content, "reference_weights": "01" * 32},
        {**content, "reference_weights": []},
        {**content, "reference_answers": ["x"]},
        {**content, "registration_sha256": "x"},
        [],
    ):
        with pytest.raises(InputError):
            SigningRecord.from_text(json.dumps(broken))
    twice = {**content, "reference_weights": ["01" * 32] * 2, "reference_answers": ["23" * 32, "45" * 32]}
    with pytest.raises(InputError, match=r"reference_weights names (01)+ twice, with different answers"):
        SigningRecord.from_json(twice)
    assert (
        SigningRecord.from_json({**twice, "reference_answers": ["23" * 32] * 2}).reference_weights == ("01" * 32,) * 2
    )
