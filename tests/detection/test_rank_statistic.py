from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from taggants.detection import key_ranks, rank_p_value, rank_scores
from taggants.errors import InputError


def score(rank: int) -> int:
    return math.floor(64 * math.log(rank) + 0.5)


def exact_p_value(ranks: list[int], num_classes: int) -> Fraction:
    # Counts rank vectors in whole numbers, key by key.
    observed = sum(score(rank) for rank in ranks)
    one_key = Counter(score(rank) for rank in range(1, num_classes + 1))
    counts = Counter({0: 1})
    for _ in ranks:
        counts_after: Counter[int] = Counter()
        for total, ways in counts.items():
            for added, added_ways in one_key.items():
                if total + added <= observed:
                    counts_after[total + added] += ways * added_ways
        counts = counts_after
    return Fraction(sum(counts.values()), num_classes ** len(ranks))


@pytest.mark.parametrize(("num_keys", "num_classes"), [(1, 2), (1, 9), (2, 7), (3, 5), (4, 4), (6, 2)])
def test_p_value_is_the_share_of_all_rank_vectors_at_least_as_good(num_keys: int, num_classes: int) -> None:
    vectors = list(itertools.product(range(1, num_classes + 1), repeat=num_keys))
    sums = [sum(score(rank) for rank in vector) for vector in vectors]
    for vector, observed in list(zip(vectors, sums, strict=True))[:: max(1, len(vectors) // 40)]:
        share = Fraction(sum(total <= observed for total in sums), len(vectors))
        assert rank_p_value(vector, num_classes) == pytest.approx(float(share), rel=1e-12, abs=0)
        assert exact_p_value(list(vector), num_classes) == share


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.integers(2, 60), st.data())
def test_p_value_equals_whole_number_counting(num_keys: int, num_classes: int, data: st.DataObject) -> None:
    ranks = data.draw(st.lists(st.integers(1, num_classes), min_size=num_keys, max_size=num_keys))
    exact = exact_p_value(ranks, num_classes)
    assert rank_p_value(ranks, num_classes) == pytest.approx(float(exact), rel=1e-11, abs=0)


def test_p_value_keeps_its_relative_precision_far_out() -> None:
    ranks = [1] * 16 + [2, 3, 5, 40]
    exact = exact_p_value(ranks, 200)
    assert float(exact) < 1e-30
    assert rank_p_value(ranks, 200) == pytest.approx(float(exact), rel=1e-11, abs=0)


def test_all_labels_first_gives_the_probability_of_one_vector() -> None:
    assert rank_p_value([1] * 10, 10) == pytest.approx(1e-10, rel=1e-12, abs=0)
    assert rank_p_value([1] * 90, 1000) == pytest.approx(1e-270, rel=1e-11, abs=0)
    assert rank_p_value([1] * 200, 1000) == 1e-300  # 1e-600, below the doubles
    assert rank_p_value([1] * 101 + [2], 1000) == 1e-300  # 103e-306


@pytest.mark.parametrize(("num_keys", "num_classes"), [(1, 2), (10, 10), (100, 1000), (7, 1_000_000)])
def test_all_labels_last_gives_one(num_keys: int, num_classes: int) -> None:
    assert rank_p_value([num_classes] * num_keys, num_classes) == 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.data())
def test_a_worse_rank_never_lowers_the_p_value(ranks: list[int], data: st.DataObject) -> None:
    worse = list(ranks)
    index = data.draw(st.integers(0, len(ranks) - 1))
    worse[index] = data.draw(st.integers(ranks[index], 50))
    assert rank_p_value(worse, 50) >= rank_p_value(ranks, 50) * (1 - 1e-12)
    assert rank_p_value(ranks[::-1], 50) == rank_p_value(ranks, 50)


def test_monte_carlo_agrees() -> None:
    rng = np.random.default_rng(0)
    num_keys, num_classes, num_draws = 20, 1000, 100_000
    sums = rank_scores(num_classes)[rng.integers(0, num_classes, (num_draws, num_keys))].sum(axis=1)
    for scale in (0.45, 0.55, 0.7):
        ranks = np.maximum(1, (np.linspace(0.02, 1.4, num_keys) * scale * num_classes).astype(int))
        p_value = rank_p_value(ranks, num_classes)
        estimate = (sums <= rank_scores(num_classes)[ranks - 1].sum()).mean()
        assert 1e-3 < p_value < 0.999
        assert abs(estimate - p_value) < 4 * math.sqrt(p_value * (1 - p_value) / num_draws)


@pytest.mark.parametrize(("num_keys", "scale"), [(4, 0.1), (4, 0.3), (4, 0.9), (12, 0.3), (12, 0.9)])
def test_fishers_chi_square_is_the_limit_of_many_classes(num_keys: int, scale: float) -> None:
    # With u = rank / C nearly uniform, -2 sum ln u is nearly chi-square with 2 K degrees of freedom. Not so far
    # out, where finite C tells, for there no key can give more than ln C.
    num_classes = 1_000_000
    ranks = (np.linspace(0.05, 1.0, num_keys) * scale * num_classes).astype(int)
    log_sum = (rank_scores(num_classes)[ranks - 1].sum() + 0.5) / 64  # up to the middle between two lattice points
    fisher = float(chi2.sf(2 * (num_keys * math.log(num_classes) - log_sum), 2 * num_keys))
    assert rank_p_value(ranks, num_classes) == pytest.approx(fisher, rel=0.005, abs=0)


def test_rounding_to_64_steps_per_nat_costs_next_to_nothing() -> None:
    uniforms = np.random.default_rng(0).random((20, 12)) * 0.5
    ratios = [
        rank_p_value(np.ceil(row * 1_000_000).astype(int), 1_000_000) / chi2.sf(-2 * np.log(row).sum(), 24)
        for row in uniforms
    ]
    assert np.abs(np.log(ratios)).max() < 0.05
    assert abs(np.mean(np.log(ratios))) < 0.02


def test_p_values_are_super_uniform_for_suspects_that_ignore_the_labels() -> None:
    rng = np.random.default_rng(1)
    num_keys, num_classes, num_draws = 6, 20, 4000
    smooth = rng.normal(size=(num_keys, num_classes))
    collapsed = np.broadcast_to(rng.normal(size=num_classes), (num_keys, num_classes))
    suspects: dict[str, Any] = {
        "scores of its own": smooth,
        "same scores for every key": collapsed,
        "two decimals, some ties": np.round(smooth, 1),
        "yes or no, mostly ties": (smooth > 0.5).astype(float),
        "one row broken": np.where(np.arange(num_keys)[:, None] == 0, np.nan, smooth),
        "silent": np.zeros((num_keys, num_classes)),
    }
    # The p-value depends on the sum of scores alone: one call per sum.
    table: dict[int, float] = {}
    for name, scores in suspects.items():
        p_values = []
        for labels in rng.integers(0, num_classes, (num_draws, num_keys)):
            ranks = key_ranks(scores, labels)
            total = int(rank_scores(num_classes)[ranks - 1].sum())
            if total not in table:
                table[total] = rank_p_value(ranks, num_classes)
            p_values.append(table[total])
        for alpha in (0.01, 0.05, 0.2, 0.5):
            rejected = (np.array(p_values) <= alpha).mean()
            assert rejected < alpha + 4 * math.sqrt(alpha * (1 - alpha) / num_draws), name
            if name in ("scores of its own", "same scores for every key"):  # no ties: exact, up to the lattice's steps
                assert rejected > 0.9 * alpha - 4 * math.sqrt(alpha * (1 - alpha) / num_draws), name


def test_scores_cannot_differ_between_platforms() -> None:
    num_classes = 1_000_000
    positions = 64 * np.log(np.arange(1, num_classes + 1)) + 0.5  # the score is the floor of this
    distances = np.abs(positions - np.round(positions))
    # A logarithm wrong by several units in the last place moves a position by less than 1e-12.
    assert distances.min() > 1e-9
    scores = rank_scores(num_classes)
    with localcontext(prec=40):  # the ranks nearest to a boundary, and the first ones, in 40 digits
        for rank in [*range(1, 100), *(np.argsort(distances)[:50] + 1).tolist()]:
            exact = 64 * Decimal(rank).ln() + Decimal("0.5")
            assert abs(exact - round(exact)) > 1e-9
            assert scores[rank - 1] == math.floor(exact)


def test_first_scores() -> None:
    assert rank_scores(10).tolist() == [0, 44, 70, 89, 103, 115, 125, 133, 141, 147]


def test_a_hundred_keys_of_a_thousand_classes_are_quick() -> None:
    start = time.process_time()
    p_value = rank_p_value(np.full(100, 900), 1000)
    assert p_value > 0.99
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("ranks", "num_classes", "message"),
    [
        ([0, 1], 10, r"outside 1\.\.10"),
        ([11], 10, r"outside 1\.\.10"),
        ([], 10, "ranks has shape"),
        ([[1, 2]], 10, "ranks has shape"),
        ([1.0], 10, "ranks has shape"),
        ([1], 1, "num_classes is 1"),
        ([1], 1_000_001, "num_classes is 1000001"),
    ],
)
def test_wrong_ranks_are_refused(ranks: Any, num_classes: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rank_p_value(ranks, num_classes)
