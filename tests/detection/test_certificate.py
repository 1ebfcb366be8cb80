from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taggants.detection import Certificate, Evidence, Registration, certify, describe, rank_p_value, software_versions
from taggants.errors import InputError
from tests.detection.binomial import binomial_p_value
from tests.detection.registrations import registered

RANKS = [1, 1, 2, 1, 9, 40, 1, 3, 700, 1]
ARGUMENTS: dict[str, Any] = {
    "suspect": "victim-resnet18",
    "suspect_sha256": "ef" * 32,
    "created_at": datetime(2025, 1, 31, 12, 0, 5, tzinfo=UTC),
    "software": {"taggants": "0.1.0", "numpy": "2.0.0"},
}


def certificate(ranks: Any = RANKS, **changes: Any) -> Certificate:
    """Changes of the arguments; all others are of the registration."""
    arguments = {name: changes.pop(name, value) for name, value in ARGUMENTS.items()}
    registration = registered(**changes)
    return certify(Evidence(registration.num_classes, tuple(ranks)), registration, **arguments)


def test_certify_computes_the_p_value_of_every_statistic() -> None:
    built = certificate()
    assert built.ranks == tuple(RANKS)
    assert built.num_hits == 8
    assert built.p_values["hits"] == pytest.approx(binomial_p_value(8, 10, 10, 1000), rel=1e-12)
    assert built.p_values["rank"] == rank_p_value(RANKS, 1000)
    assert built.created_at == "2025-01-31T12:00:05Z"


def test_the_registered_statistic_decides() -> None:
    # Ranks just below the top 1: no hit, yet far too good for chance.
    ranks = [2] * 10
    by_rank = certificate(ranks, top_k=1)
    by_hits = certificate(ranks, top_k=1, statistic="hits")
    assert by_rank.p_value == by_rank.p_values["rank"] < 1e-6
    assert by_rank.is_detected
    assert by_hits.p_value == by_hits.p_values["hits"] == 1.0
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


def changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a dotted path."""
    copy = json.loads(json.dumps(content))
    *parents, last = path.split(".")
    parent = copy
    for name in parents:
        parent = parent[name]
    parent[last] = value
    return copy


def with_hash(content: dict[str, Any]) -> dict[str, Any]:
    """A copy whose registration has the hash that belongs to it, as a forger would write it."""
    registration = {k: v for k, v in content["registration"].items() if k not in ("format", "registration_sha256")}
    return {**content, "registration": Registration(**registration).to_json()}


@pytest.mark.parametrize(
    ("path", "value"),
    [("p_values.rank", 1e-30), ("p_values.rank", 0.5), ("p_values.hits", 1e-30), ("p_values.hits", 0.25)],
)
def test_numbers_that_disagree_with_the_ranks_are_refused(path: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"p-value of '{path[9:]}' is .* but its evidence gives"):
        Certificate.from_json(changed(certificate().to_json(), path, value))


def test_a_changed_rank_top_k_or_class_count_is_noticed() -> None:
    content = certificate().to_json()
    with pytest.raises(InputError, match="but its evidence gives"):
        Certificate.from_json(changed(content, "evidence.ranks", [2, *RANKS[1:]]))
    for path, value in (("registration.top_k", 1), ("registration.num_classes", 2000)):
        with pytest.raises(InputError, match="does not match its registration_sha256"):
            Certificate.from_json(changed(content, path, value))
        with pytest.raises(InputError, match="but its evidence gives"):
            Certificate.from_json(with_hash(changed(content, path, value)))


def test_the_verdict_is_that_of_the_embedded_registration() -> None:
    content = certificate([500] * 10).to_json()
    for path, value in (("registration.alpha", 0.9), ("registration.statistic", "hits")):
        with pytest.raises(InputError, match="does not match its registration_sha256"):
            Certificate.from_json(changed(content, path, value))


def test_a_p_value_must_be_there_for_the_registered_statistic_and_of_a_known_one() -> None:
    content = certificate().to_json()
    with pytest.raises(InputError, match="p_values lacks 'rank'"):
        Certificate.from_json(changed(content, "p_values", {"hits": content["p_values"]["hits"]}))
    with pytest.raises(InputError, match="statistic 'best' does not exist"):
        Certificate.from_json(changed(content, "p_values.best", 1e-9))
    only = Certificate.from_json(changed(content, "p_values", {"rank": content["p_values"]["rank"]}))
    assert only.p_value == content["p_values"]["rank"]


def test_a_hostile_file_is_refused_within_a_second() -> None:
    many, classes = 100_000, 1_000_000
    registration = registered(num_keys=many, num_classes=classes)
    content = {
        **certificate().to_json(),
        "registration": registration.to_json(),
        "evidence": {"ranks": [classes // 2] * many, "table": None},
    }
    start = time.perf_counter()
    with pytest.raises(InputError, match="too many to convolve"):
        Certificate.from_json(content)
    assert time.perf_counter() - start < 5


def test_a_text_that_two_readers_could_take_for_two_certificates_is_refused() -> None:
    text = json.dumps(certificate().to_json())
    assert Certificate.from_text(text) == certificate() == Certificate.from_text(text.encode())
    for broken, sentence in (
        (text.replace('"suspect":', '"suspect": "another", "suspect":'), "names a field twice"),
        (text.replace('"top_k":', '"top_k": 5, "top_k":'), "names a field twice"),
        (text.replace("1e-06", "Infinity"), "holds Infinity"),
        (text + "x", "is not valid JSON"),
    ):
        with pytest.raises(InputError, match=sentence):
            Certificate.from_text(broken)


def test_last_digits_of_another_platform_are_accepted() -> None:
    content = certificate().to_json()
    content["p_values"]["rank"] *= 1 + 1e-11
    assert Certificate.from_json(content).p_values["rank"] == content["p_values"]["rank"]


def test_left_out_keys_are_refused() -> None:
    with pytest.raises(InputError, match="one for every key"):
        certificate(RANKS[:9])
    with pytest.raises(InputError, match="ranks has 9 entries"):
        Certificate.from_json(changed(certificate().to_json(), "evidence.ranks", RANKS[:9]))


def test_a_repeated_test_says_the_same_at_another_time() -> None:
    later = certificate(created_at=datetime(2026, 1, 1, tzinfo=UTC), software={"numpy": "3.0.0"})
    assert later != certificate()
    assert later.says_the_same_as(certificate())
    for other in (
        certificate([1] * 10),
        certificate(alpha=0.5),
        certificate(suspect="b"),
        certificate(suspect_sha256=None),
    ):
        assert not other.says_the_same_as(certificate())


def test_missing_unknown_and_foreign_fields_are_refused() -> None:
    content = certificate().to_json()
    cases: list[Any] = [{**content, "more": 1}, None, [], "text"]
    cases += [{other: content[other] for other in content if other != name} for name in content]
    for broken in cases:
        with pytest.raises(InputError, match="JSON object with only the fields"):
            Certificate.from_json(broken)
    with pytest.raises(InputError, match="format is"):
        Certificate.from_json({**content, "format": "taggants-certificate/1"})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("suspect", "", "suspect is"),
        ("suspect", "a\nDecision   DETECTED", "suspect is"),
        ("suspect", "\x1b[2J", "suspect is"),
        ("suspect", "x" * 201, "suspect is"),
        ("suspect_sha256", "EF" * 32, "suspect_sha256 is"),
        ("registration", None, "A registration must be a JSON object"),
        ("registration.keys_commitment", "ab", "keys_commitment is"),
        ("registration.dataset_fingerprint", 5, "dataset_fingerprint is"),
        ("registration.num_keys", 10.0, "num_keys is"),
        ("registration.num_classes", 1, "num_classes is"),
        ("registration.top_k", 0, "top_k is"),
        ("registration.top_k", 1001, "top_k is"),
        ("registration.alpha", 1.0, "alpha is"),
        ("registration.alpha", "1e-6", "alpha is"),
        ("registration.statistic", "best", "statistic is"),
        ("registration.statistic", ["rank"], "statistic is"),
        ("registration.registration_sha256", "00" * 32, "does not match its registration_sha256"),
        ("evidence", [1] * 10, "the lists ranks and table"),
        ("evidence.ranks", "1111111111", "the lists ranks and table"),
        ("evidence.ranks", [1.0] * 10, "a rank is"),
        ("evidence.ranks", [0] * 10, "a rank is"),
        ("evidence.ranks", [True] * 10, "a rank is"),
        ("p_values", [], "p_values must be a JSON object"),
        ("p_values.hits", 0.0, r"p_values\['hits'\] is"),
        ("p_values.hits", 1, r"p_values\['hits'\] is"),
        ("p_values.rank", float("nan"), r"p_values\['rank'\] is"),
        ("p_values.rank", 2.0, r"p_values\['rank'\] is"),
        ("created_at", "yesterday", "created_at is"),
        ("created_at", "2025-01-31T12:00:05+01:00", "created_at is"),
        ("created_at", 0, "created_at is"),
        ("software", [], "software must be a JSON object"),
        ("software", {"numpy": 2}, "a software version is"),
    ],
)
def test_wrong_fields_are_refused_by_name(field: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Certificate.from_json(changed(certificate().to_json(), field, value))


def test_certificate_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        certificate().suspect = "other"  # type: ignore[misc]


def test_description_of_a_detection() -> None:
    text = describe(certificate())
    for part in (
        "victim-resnet18",
        "10 secret keys",
        "out of 1000 classes",
        "does not depend on the key labels",
        "8 of 10 labels in the top 10; 0.1 expected under the null",
        f"p (rank)   {certificate().p_value:.2e}   <- registered, decides",
        "DETECTED: p <= alpha = 1e-06",
        "every image was used",
        "unlawful",
        "No detection does not prove",
        "i.i.d.",
        "committed to before",
        "single registered test",
    ):
        assert part in " ".join(text.split("\n")) or part in " ".join(text.split())
    assert text.count("<- registered") == 1
    assert "NOT DETECTED" not in text


def test_names_of_statistics_stand_apart_from_their_p_values() -> None:
    found = certificate()
    object.__setattr__(found, "p_values", {"rank": found.p_value, "hits": 0.5, "sequential": 0.25})
    lines = [line for line in describe(found).splitlines() if line.startswith("p (")]
    assert len(lines) == 3
    assert all(re.match(r"p \(\w+\) {2,}\d", line) for line in lines)
    assert len({re.match(r"p \(\w+\) +", line).end() for line in lines}) == 1  # type: ignore[union-attr]


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
    assert set(software_versions()) == {"taggants", "python", "numpy"}
    assert certificate(software=software_versions()).software["numpy"] == np.__version__
