from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest

from taggants.detection import Registration
from taggants.errors import InputError

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
