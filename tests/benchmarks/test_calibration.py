"""The calibration's own arithmetic, without its trainings: valid tests pass, the wrong one is caught, and a bad test would be."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import calibration
from taggants.detection.question import Question

QUESTION = Question("covers", tuple(range(8)), (32, 64, 128), (1, 1, 1), 0, 8, 10)
NUM_KEYS = 6


@pytest.fixture(scope="module")
def answers() -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Two answerers and a reference with one habit, as networks have it on keys."""
    random = np.random.default_rng(0)
    num_images = len(QUESTION.cover_ids) + NUM_KEYS * QUESTION.num_queries
    habit = random.normal(size=10)
    one, other, reference = (habit + random.normal(size=(num_images, 10)) for _ in range(3))
    other[::3, 2] = np.nan
    return {"one": one, "with NaN": other}, [reference]


def test_valid_tests_hold_and_the_wrong_one_is_caught(answers, capsys) -> None:
    assert calibration.report(QUESTION, NUM_KEYS, *answers, num_claims=4000)
    table = capsys.readouterr().out
    assert "24,000 draws of labels, 2 answerers, 6 keys, 25 queries a key" in table
    fails = [line for line in table.splitlines() if line.endswith("| FAILS |")]
    assert fails
    assert all(calibration.WRONG in line for line in fails)


def test_a_test_that_rejects_too_often_fails_the_check(answers, monkeypatch, capsys) -> None:
    honest = calibration.claims

    def generous(*given: object) -> dict[str, np.ndarray]:
        found = honest(*given)
        return found | {"question": found["question"] / 2}

    monkeypatch.setattr(calibration, "claims", generous)
    assert not calibration.report(QUESTION, NUM_KEYS, *answers, num_claims=4000)
    assert "valid tests hold their level: False" in capsys.readouterr().out
