from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taggants.detection import (
    Certificate,
    binomial_p_value,
    certify,
    describe,
    rank_p_value,
    software_versions,
)
from taggants.errors import InputError

RANKS = [1, 1, 2, 1, 9, 40, 1, 3, 700, 1]
ARGUMENTS: dict[str, Any] = {
    "suspect": "victim-resnet18",
    "suspect_sha256": "ef" * 32,
    "keys_commitment": "ab" * 32,
    "registration_sha256": "cd" * 32,
    "dataset_fingerprint": "12" * 32,
    "num_keys": 10,
    "num_classes": 1000,
    "top_k": 10,
    "alpha": 1e-6,
    "statistic": "rank",
    "created_at": datetime(2025, 1, 31, 12, 0, 5, tzinfo=UTC),
    "software": {"taggants": "0.1.0", "numpy": "2.0.0"},
}


def certificate(ranks: Any = RANKS, **changes: Any) -> Certificate:
    return certify(ranks, **{**ARGUMENTS, **changes})


def test_certify_computes_hits_and_p_values() -> None:
    built = certificate(np.array(RANKS))
    assert built.ranks == tuple(RANKS)
    assert built.num_hits == 8
    assert built.p_value_hits == binomial_p_value(8, 10, 10, 1000)
    assert built.p_value_rank == rank_p_value(RANKS, 1000)
    assert built.created_at == "2025-01-31T12:00:05Z"


def test_the_registered_statistic_decides() -> None:
    # Ranks just below the top 1: no hit, yet far too good for chance.
    ranks = [2] * 10
    by_rank = certificate(ranks, top_k=1)
    by_hits = certificate(ranks, top_k=1, statistic="hits")
    assert by_rank.p_value == by_rank.p_value_rank < 1e-6
    assert by_rank.is_detected
    assert by_hits.p_value == by_hits.p_value_hits == 1.0
    assert not by_hits.is_detected


def test_detection_includes_alpha_itself() -> None:
    p_value = certificate().p_value
    assert certificate(alpha=p_value).is_detected
    assert not certificate(alpha=math.nextafter(p_value, 0)).is_detected


def test_times_are_written_in_utc_and_need_a_zone() -> None:
    east = datetime(2025, 1, 31, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert certificate(created_at=east).created_at == "2025-01-30T23:30:00Z"
    with pytest.raises(InputError, match="must have a time zone"):
        certificate(created_at=datetime(2025, 1, 31))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 30), st.booleans())
def test_round_trip(ranks: list[int], top_k: int, is_black_box: bool) -> None:
    built = certificate(
        ranks, num_keys=len(ranks), num_classes=30, top_k=top_k, suspect_sha256=None if is_black_box else "0" * 64
    )
    assert Certificate.from_json(json.loads(json.dumps(built.to_json()))) == built


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("p_value_rank", 1e-30),
        ("p_value_rank", 0.5),
        ("p_value_hits", 1e-30),
        ("num_hits", 7),
        ("num_hits", 10),
    ],
)
def test_numbers_that_disagree_with_the_ranks_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{field} is .* but its ranks give"):
        Certificate.from_json({**certificate().to_json(), field: value})


def test_a_changed_rank_top_k_or_class_count_is_noticed() -> None:
    content = certificate().to_json()
    for changed in ({"ranks": [2, *RANKS[1:]]}, {"top_k": 1}, {"num_classes": 2000}):
        with pytest.raises(InputError, match="but its ranks give"):
            Certificate.from_json({**content, **changed})


def test_last_digits_of_another_platform_are_accepted() -> None:
    content = certificate().to_json()
    content["p_value_rank"] *= 1 + 1e-11
    assert Certificate.from_json(content).p_value_rank == content["p_value_rank"]


def test_left_out_keys_are_refused() -> None:
    with pytest.raises(InputError, match="one for every registered key"):
        certificate(RANKS[:9])
    content = certificate().to_json()
    with pytest.raises(InputError, match="ranks has 9 entries"):
        Certificate.from_json({**content, "ranks": RANKS[:9]})


def test_missing_unknown_and_foreign_fields_are_refused() -> None:
    content = certificate().to_json()
    cases: list[Any] = [{**content, "more": 1}, None, [], "text"]
    cases += [{other: content[other] for other in content if other != name} for name in content]
    for broken in cases:
        with pytest.raises(InputError, match="JSON object with only the fields"):
            Certificate.from_json(broken)
    with pytest.raises(InputError, match="format is"):
        Certificate.from_json({**content, "format": "taggants-certificate/2"})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("suspect", "", "suspect is"),
        ("suspect", "a\nDecision   DETECTED", "suspect is"),
        ("suspect", "\x1b[2J", "suspect is"),
        ("suspect", "x" * 201, "suspect is"),
        ("suspect_sha256", "EF" * 32, "suspect_sha256 is"),
        ("keys_commitment", "ab", "keys_commitment is"),
        ("registration_sha256", None, "registration_sha256 is"),
        ("dataset_fingerprint", 5, "dataset_fingerprint is"),
        ("num_keys", 10.0, "num_keys is"),
        ("num_classes", 1, "num_classes is"),
        ("top_k", 0, "top_k is"),
        ("top_k", 1001, "top_k is"),
        ("alpha", 1.0, "alpha is"),
        ("alpha", "1e-6", "alpha is"),
        ("statistic", "best", "statistic is"),
        ("ranks", "1111111111", "ranks must be a JSON list"),
        ("ranks", [1.0] * 10, "a rank is"),
        ("ranks", [0] * 10, "a rank is"),
        ("ranks", [True] * 10, "a rank is"),
        ("num_hits", 11, "num_hits is"),
        ("p_value_hits", 0.0, "p_value_hits is"),
        ("p_value_rank", float("nan"), "p_value_rank is"),
        ("p_value_rank", 2.0, "p_value_rank is"),
        ("created_at", "yesterday", "created_at is"),
        ("created_at", "2025-01-31T12:00:05+01:00", "created_at is"),
        ("created_at", 0, "created_at is"),
        ("software", [], "software a JSON object"),
        ("software", {"numpy": 2}, "a software version is"),
    ],
)
def test_wrong_fields_are_refused_by_name(field: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Certificate.from_json({**certificate().to_json(), field: value})


def test_certificate_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        certificate().num_hits = 10  # type: ignore[misc]


def test_description_of_a_detection() -> None:
    text = describe(certificate())
    for part in (
        "victim-resnet18",
        "10 secret keys",
        "out of 1000 classes",
        "does not depend on the key labels",
        "8 of 10 labels in the top 10; 0.1 expected under the null",
        f"p (rank)   {certificate().p_value_rank:.2e}   <- registered, decides",
        "DETECTED: p <= alpha = 1e-06",
        "every image was used",
        "unlawful",
        "No detection is no proof",
        "i.i.d.",
        "committed to before",
        "single registered test",
    ):
        assert part in " ".join(text.split("\n")) or part in " ".join(text.split())
    assert text.count("<- registered") == 1
    assert "NOT DETECTED" not in text


def test_description_of_no_detection_by_hits() -> None:
    text = describe(certificate([500] * 10, statistic="hits"))
    assert "NOT DETECTED: p > alpha = 1e-06" in text
    assert "p (hits)   1.00e+00   <- registered, decides" in text


@settings(max_examples=20, deadline=None)
@given(
    st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=200).filter(str.isprintable),
    st.sampled_from([1, 10, 100]),
    st.sampled_from(["rank", "hits"]),
)
def test_description_fits_one_screen(suspect: str, num_keys: int, statistic: str) -> None:
    ranks = [1] * num_keys
    text = describe(
        certificate(ranks, suspect=suspect, num_keys=num_keys, num_classes=1_000_000, top_k=1000, statistic=statistic)
    )
    lines = text.split("\n")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 90
    assert suspect[:60] in lines[0]


def test_description_says_when_the_p_value_is_a_bound() -> None:
    text = describe(certificate([1] * 100, num_keys=100, num_classes=100_000, top_k=1))
    assert "p (rank)   at most 1e-300" in text


def test_software_versions_name_what_computes() -> None:
    assert set(software_versions()) == {"taggants", "python", "numpy", "scipy"}
    assert certificate(software=software_versions()).software["numpy"] == np.__version__
