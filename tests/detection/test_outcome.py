from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from math import comb
from typing import Any

import numpy as np
import pytest

from taggants.detection import Certificate, Evidence, certify, describe
from taggants.detection.outcome import EValue, LabelMap, PlainCovers, verdict_of
from taggants.detection.registration import SigningRecord
from taggants.detection.sequential import running_e_values
from taggants.errors import InputError
from tests.detection.test_registration import WITH_QUESTION

TABLE = np.array([[0, 5, 9], [7, 1, 3], [-4, 8, 2], [6, 0, 1]])
LABELS = np.array([0, 1, 0, 1])
REGISTRATION = replace(WITH_QUESTION, num_keys=4, alpha=0.6)  # level 0.05
SIGNING = SigningRecord(REGISTRATION.registration_sha256, "signed", ("01" * 32,) * 2, ("23" * 32,) * 2)


def certificate(evidence: Evidence | None = None, **changes: Any) -> Certificate:
    registration = changes.pop("registration", REGISTRATION)
    arguments: dict[str, Any] = {
        "suspect": "a",
        "suspect_sha256": None,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "software": {},
        "answers_sha256": "45" * 32,
        "signing": replace(SIGNING, registration_sha256=registration.registration_sha256),
        "covers": PlainCovers(30, 29),
        "look": 1,
    }
    return certify(evidence or Evidence.of_table(TABLE, LABELS), registration, **{**arguments, **changes})


@pytest.mark.parametrize("num_classes", [2, 10])
def test_chance_on_plain_covers_is_the_binomial_tail(num_classes: int) -> None:
    for right in range(31):
        tail = sum(comb(30, k) * (1 / num_classes) ** k * (1 - 1 / num_classes) ** (30 - k) for k in range(right, 31))
        assert PlainCovers(30, right).is_above_chance(num_classes) == (tail <= 0.01)


def test_verdicts() -> None:
    told, silent = Evidence.of_table(TABLE, LABELS), Evidence.of_table(TABLE * 0, LABELS)
    good, bad = PlainCovers(30, 30), PlainCovers(30, 10)
    assert verdict_of(0.05, 0.05, told, good) == "detected"
    assert verdict_of(0.06, 0.05, told, good) == "not detected"
    assert verdict_of(0.06, 0.05, told, None) == "not detected"
    assert verdict_of(0.06, 0.05, told, bad) == "cannot be judged"
    assert verdict_of(1.0, 0.05, silent, good) == "cannot be judged"
    assert verdict_of(0.05, 0.05, told, bad) == "detected"  # exact whatever else is said


def test_the_level_of_one_test_is_alpha_over_suspects_and_looks() -> None:
    assert REGISTRATION.level == pytest.approx(0.05)
    found = certificate()
    assert found.p_value == pytest.approx(1 / 81)  # the best label of every key
    assert found.verdict == "detected"
    assert not certificate(registration=replace(REGISTRATION, num_looks=30)).is_detected
    assert "DETECTED: p <= alpha = 0.6 / 12 registered tests" in describe(found)
    assert "It is test 13 of this run" in describe(certificate(look=13))


def test_the_e_value_is_that_of_the_table_in_whatever_order_its_rows_are_kept() -> None:
    found = certificate().e_value
    expected = running_e_values(TABLE, LABELS)
    assert found is not None
    assert found.log_maximum == pytest.approx(max(0, expected.max()))
    assert found.log_final == pytest.approx(expected[-1])
    assert certificate().p_values["sequential"] == pytest.approx(np.exp(-found.log_maximum))
    assert EValue.of(Evidence.of_table(-TABLE, LABELS), 0).log_maximum == 0.0


def test_a_suspect_that_knows_some_classes_and_a_stopped_test_are_certified_as_such() -> None:
    two = Evidence.of_table(TABLE[:3, :2], [0, 1, 0])
    mapped = certificate(two, label_map=LabelMap("names", (7, None, 0)), num_left_out=1)
    assert not mapped.is_stopped
    assert Certificate.from_text(json.dumps(mapped.to_json())) == mapped
    assert "1 keys are left out" in describe(mapped)
    first = Evidence.of_table(TABLE[:3], LABELS[:3])
    with pytest.raises(InputError, match="'question' needs the answers to all keys"):
        certificate(first)
    anytime = replace(REGISTRATION, statistic="sequential")
    stopped = certificate(first, registration=anytime)
    assert stopped.is_stopped
    assert set(stopped.p_values) == {"sequential"}
    assert Certificate.from_text(json.dumps(stopped.to_json())) == stopped


def changed(path: str, value: Any) -> str:
    content = json.loads(json.dumps(certificate().to_json()))
    *parents, last = path.split(".")
    parent = content
    for name in parents:
        parent = parent[name]
    parent[last] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("verdict", "not detected", "verdict is 'not detected' but its numbers say 'detected'"),
        ("covers.num_right", 31, "num_right of covers"),
        ("covers", [], "covers must be null or"),
        ("e_value.log_maximum", 50.0, "log_maximum of e_value is 50.0 but"),
        ("e_value.log_final", 50.0, "log_final of e_value is 50.0 but"),
        ("e_value.num_asked", 3, "e_value is of 3 keys but the evidence of 4"),
        ("e_value", None, "e_value must be a JSON object"),
        ("num_left_out", 1, "ranks has 4 entries and 1 keys are left out"),
        ("look", 0, "look is 0"),
        ("num_refused", -1, "num_refused is -1"),
        ("signing", None, "signing record must be"),
        ("signing.registration_sha256", "00" * 32, "completes another registration"),
        ("signing.reference_answers", ["00" * 32], "one entry for each reference"),
        ("label_map", {"kind": "names", "classes": [0, 1, 2], "sha256": "00"}, "does not match its sha256"),
        ("label_map", {"kind": "guess", "classes": [0, 1, 2], "sha256": "00"}, "kind of label_map"),
        ("label_map", {"kind": "names", "classes": [0, 0, 2], "sha256": "00"}, "for two of the owner's"),
        ("label_map", {"kind": "names", "classes": [0, None, None], "sha256": "00"}, "at least 2"),
        ("p_values.sequential", 1e-9, "p-value of 'sequential'"),
        ("answers_sha256", None, "answers_sha256 is None"),
    ],
)
def test_a_changed_certificate_is_refused(path: str, value: Any, sentence: str) -> None:
    assert Certificate.from_text(json.dumps(certificate().to_json())) == certificate()
    with pytest.raises(InputError, match=sentence):
        Certificate.from_text(changed(path, value))
