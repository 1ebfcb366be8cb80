"""Sentences about verdicts."""

from __future__ import annotations

import pytest

from taggants.reporting import summaries
from tests.reporting.certificates import question_certificate


def test_the_table_of_suspects_shows_e_values_covers_and_what_cannot_be_judged() -> None:
    named = {"guilty": 2.5, "clean": 0.0, "misread": 0.0}
    certificates = [
        question_certificate(effect=effect, suspect=name, covers=(64, 2 if name == "misread" else 60))
        for name, effect in named.items()
    ]
    rows = [line.split() for line in summaries.several_suspects(certificates).split("\n")[2:5]]
    assert [(row[0], row[4], " ".join(row[5:])) for row in rows] == [
        ("guilty", "60/64", "DETECTED"),
        ("clean", "60/64", "not detected"),
        ("misread", "2/64", "cannot be judged"),
    ]
    assert float(rows[0][3]) > 1e6
    assert 1 <= float(rows[1][3]) < 100
    assert float(rows[0][2]) == pytest.approx(3 * float(rows[0][1]), rel=0.1)


def test_looks_that_were_registered_lower_the_level_of_the_table() -> None:
    certificates = [
        question_certificate(effect=1.2, suspect=name, alpha=0.01, num_looks=looks)
        for name, looks in (("a", 1), ("b", 10_000))
    ]
    assert certificates[0].p_value == certificates[1].p_value < 0.005
    first, second = summaries.several_suspects(certificates).split("\n")[2:4]
    assert first.endswith("DETECTED")
    assert second.endswith("not detected")
