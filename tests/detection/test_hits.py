from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taggants.detection import STATISTICS, Evidence, hits_needed, hits_p_value
from taggants.errors import InputError
from tests.detection import binomial
from tests.detection.registrations import registered


def exact_tail(num_hits: int, num_keys: int, top_k: int, num_classes: int) -> Fraction:
    p = Fraction(top_k, num_classes)
    return sum(
        (math.comb(num_keys, hits) * p**hits * (1 - p) ** (num_keys - hits) for hits in range(num_hits, num_keys + 1)),
        Fraction(0),
    )


@given(st.integers(1, 40), st.integers(2, 1000), st.data())
def test_p_value_is_the_exact_tail(num_keys: int, num_classes: int, data: st.DataObject) -> None:
    num_hits = data.draw(st.integers(0, num_keys))
    top_k = data.draw(st.integers(1, num_classes))
    exact = exact_tail(num_hits, num_keys, top_k, num_classes)
    p_value = hits_p_value(num_hits, num_keys, top_k, num_classes)
    if top_k < num_classes:  # else every rank is a hit
        assert p_value == pytest.approx(float(exact), rel=1e-12, abs=0)
        assert p_value == pytest.approx(
            binomial.binomial_p_value(num_hits, num_keys, top_k, num_classes), rel=1e-10, abs=0
        )
    else:
        assert p_value == 1.0


def test_p_value_is_the_share_of_label_vectors_with_as_many_hits() -> None:
    num_keys, num_classes, top_k = 4, 5, 2
    for num_hits in range(num_keys + 1):
        vectors = list(itertools.product(range(num_classes), repeat=num_keys))
        share = sum(sum(label < top_k for label in vector) >= num_hits for vector in vectors) / len(vectors)
        assert hits_p_value(num_hits, num_keys, top_k, num_classes) == pytest.approx(share, rel=1e-12, abs=0)


def test_limits() -> None:
    assert hits_p_value(0, 10, 1, 10) == 1.0
    assert hits_p_value(10, 10, 10, 10) == 1.0
    assert hits_p_value(1000, 1000, 1, 1000) == 1e-300  # 1e-3000, below the doubles


@pytest.mark.parametrize(
    ("num_classes", "top_k", "num_keys", "hits"),
    [
        (10, 1, 10, 8),
        (10, 1, 20, 11),
        (10, 1, 40, 16),
        (10, 1, 100, 28),
        (100, 1, 10, 5),
        (100, 1, 20, 6),
        (100, 1, 100, 9),
        (1000, 1, 10, 3),
        (1000, 1, 20, 4),
        (1000, 10, 10, 5),
        (1000, 10, 20, 6),
    ],
)
def test_hits_needed_for_one_in_a_million(num_classes: int, top_k: int, num_keys: int, hits: int) -> None:
    assert hits_needed(1e-6, num_keys, top_k, num_classes) == hits
    assert exact_tail(hits, num_keys, top_k, num_classes) <= Fraction(1, 10**6)
    assert exact_tail(hits - 1, num_keys, top_k, num_classes) > Fraction(1, 10**6)


@given(st.floats(1e-12, 0.5), st.integers(1, 30), st.integers(2, 100), st.data())
def test_hits_needed_is_the_first_count_that_suffices(
    alpha: float, num_keys: int, num_classes: int, data: st.DataObject
) -> None:
    top_k = data.draw(st.integers(1, num_classes))
    enough = [h for h in range(num_keys + 1) if binomial.binomial_p_value(h, num_keys, top_k, num_classes) <= alpha]
    assert hits_needed(alpha, num_keys, top_k, num_classes) == (enough[0] if enough else None)


def test_hits_needed_is_none_when_all_keys_are_too_few() -> None:
    assert hits_needed(1e-6, 5, 1, 10) is None
    assert hits_needed(1e-6, 100, 10, 10) is None


def test_labels_without_replacement_would_break_the_binomial() -> None:
    # A suspect that answers ten keys with ten classes in some order: without replacement it matches one time in 10!.
    truth = Fraction(1, math.factorial(10))
    claimed = hits_p_value(10, 10, 1, 10)
    assert float(truth) / claimed == pytest.approx(2755.73, abs=0.01)


def test_false_positives_stay_below_alpha_for_suspects_that_ignore_the_labels() -> None:
    rng = np.random.default_rng(0)
    num_keys, num_classes, top_k, num_draws = 10, 10, 1, 40_000
    labels = rng.integers(0, num_classes, (num_draws, num_keys))
    answers = {
        "one class for every key": np.zeros(num_keys, int),
        "another class for each key": np.arange(num_keys),
    }
    for answer in answers.values():
        num_hits = (labels == answer).sum(axis=1)
        p_values = np.array([hits_p_value(h, num_keys, top_k, num_classes) for h in range(num_keys + 1)])[num_hits]
        for alpha in (0.3, 0.1, 0.02):
            needed = hits_needed(alpha, num_keys, top_k, num_classes)
            assert needed is not None
            level = float(exact_tail(needed, num_keys, top_k, num_classes))
            assert level <= alpha
            deviation = math.sqrt(level * (1 - level) / num_draws)
            assert abs((p_values <= alpha).mean() - level) < 4 * deviation


def test_the_registered_statistic_counts_the_ranks_within_the_top_k() -> None:
    registration = registered(num_keys=6, num_classes=20, top_k=3)
    evidence = Evidence(20, (1, 3, 4, 20, 2, 7))
    assert STATISTICS["hits"].p_value(evidence, registration) == hits_p_value(3, 6, 3, 20)
    assert hits_p_value(3, 6, 3, 20) == pytest.approx(binomial.binomial_p_value(3, 6, 3, 20), rel=1e-12)


@pytest.mark.parametrize(
    "numbers", [(-1, 10, 1, 10), (11, 10, 1, 10), (0, 0, 1, 10), (1, 10, 0, 10), (1, 10, 11, 10), (1, 10, 1, 1)]
)
def test_out_of_range_is_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(InputError, match=" but must be an integer in "):
        hits_p_value(*numbers)
