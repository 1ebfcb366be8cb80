from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taggants.detection import exact, exact_p_value, rank_p_value, rank_scores
from taggants.errors import InputError
from tests.detection.binomial import binomial_p_value


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(2, 5), st.data())
def test_it_is_the_share_of_all_label_draws_with_a_sum_as_small(
    num_keys: int, num_classes: int, data: st.DataObject
) -> None:
    row = st.lists(st.integers(-3, 4), min_size=num_classes, max_size=num_classes)
    table = data.draw(st.lists(row, min_size=num_keys, max_size=num_keys))
    labels = data.draw(st.lists(st.integers(0, num_classes - 1), min_size=num_keys, max_size=num_keys))
    observed = sum(values[label] for values, label in zip(table, labels, strict=True))
    draws = [sum(draw) <= observed for draw in itertools.product(*table)]
    assert exact_p_value(table, labels) == pytest.approx(float(Fraction(sum(draws), len(draws))), rel=1e-12)


def test_keys_that_share_a_row_may_share_one_array() -> None:
    row, positions = rank_scores(30), np.array([0, 3, 2, 17])
    assert exact_p_value(row, positions) == exact_p_value(np.tile(row, (4, 1)), positions)
    assert exact_p_value(row, positions) == rank_p_value(positions + 1, 30)


def in_both_ways(monkeypatch: pytest.MonkeyPatch, values: np.ndarray, positions: np.ndarray) -> tuple[float, float]:
    """By direct convolution and by transforms."""
    found = []
    for work in (2**62, 0):
        monkeypatch.setattr(exact, "_MAX_DIRECT_WORK", work)
        found.append(exact_p_value(values, positions))
    return found[0], found[1]


@pytest.mark.parametrize("strength", [1, 1.3, 2, 5, 30])
def test_transforms_agree_with_direct_convolution_far_into_the_tail(
    monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    random = np.random.default_rng(3)
    positions = (random.integers(0, 200, 40) / strength).astype(np.int64)
    direct, transformed = in_both_ways(monkeypatch, rank_scores(200), positions)
    assert transformed == pytest.approx(direct, rel=1e-10)
    table = np.sort(random.integers(-500, 500, (40, 200)), axis=1)
    direct, transformed = in_both_ways(monkeypatch, table, positions)
    assert transformed == pytest.approx(direct, rel=1e-10)
    assert strength < 30 or direct < 1e-20


def test_transforms_agree_at_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    for positions in (np.zeros(90, int), np.array([0] * 89 + [1]), np.array([9] * 89 + [8])):
        direct, transformed = in_both_ways(monkeypatch, rank_scores(10), positions)
        assert transformed == pytest.approx(direct, rel=1e-10)


def test_ten_thousand_hits_take_no_time_and_are_binomial() -> None:
    for num_hits in (900, 1000, 1100, 1500):
        positions = np.array([0] * num_hits + [1] * (10_000 - num_hits))
        values = (np.arange(10) >= 1).astype(np.int64)
        expected = binomial_p_value(num_hits, 10_000, 1, 10)
        assert exact_p_value(values, positions) == pytest.approx(expected, rel=1e-9)


def test_a_thousand_keys_of_a_thousand_classes_give_a_p_value() -> None:
    """Direct convolution would take minutes; the normal limit is the reference."""
    scores = rank_scores(1000)
    positions = (np.random.default_rng(0).integers(0, 1000, 1000) * 0.9).astype(np.int64)
    deviation = (scores[positions].sum() - 1000 * scores.mean()) / (scores.std() * math.sqrt(1000))
    assert -4 < deviation < -1
    limit = 0.5 * math.erfc(-deviation / math.sqrt(2))
    assert exact_p_value(scores, positions) == pytest.approx(limit, rel=0.2)


@pytest.mark.parametrize(
    ("values", "positions", "sentence"),
    [
        (np.zeros((2, 3), int), [0], "with 1 keys and at least 2 classes"),
        (np.zeros((2, 3)), [0, 0], "values has shape"),
        (np.zeros((2, 1), int), [0, 0], "at least 2 classes"),
        (np.zeros((2, 3), int), [0, 3], r"outside 0\.\.2"),
        (np.zeros((2, 3), int), [-1, 0], r"outside 0\.\.2"),
        (np.zeros((2, 3), int), [0.0, 0.0], "positions has shape"),
        (np.zeros(3, int), [], "positions has shape"),
        (np.array([0, 2**30]), [0], "too many to convolve"),
        (np.array([0, 10_000]), [0] * 100_000, "too many to convolve"),
    ],
)
def test_bad_input_is_named(values: np.ndarray, positions: list[int], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        exact_p_value(values, positions)
