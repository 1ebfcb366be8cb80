from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, monte_carlo_test

from taggants.detection import rank_p_value, referenced_p_value
from taggants.errors import InputError


def evidence(scores: list[list[float]], references: list[list[list[float]]]) -> list[list[int]]:
    """Slow and obvious: rank by counting, label by label."""

    def scored(row: list[float], label: int) -> int:
        return math.floor(64 * math.log(sum(value >= row[label] for value in row)) + 0.5)

    return [
        [
            len(references) * scored(row, label) - sum(scored(reference[key], label) for reference in references)
            for label in range(len(row))
        ]
        if len(set(row)) > 1
        else [0] * len(row)
        for key, row in enumerate(scores)
    ]


def share_of_draws(table: list[list[int]], labels: tuple[int, ...]) -> Fraction:
    """Of all label vectors, those whose sum is at most the observed one."""
    observed = sum(row[label] for row, label in zip(table, labels, strict=True))
    draws = list(itertools.product(*table))
    return Fraction(sum(sum(draw) <= observed for draw in draws), len(draws))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(1, 3), st.data())
def test_p_value_is_the_share_of_all_label_draws_at_least_as_good(
    num_keys: int, num_classes: int, num_references: int, data: st.DataObject
) -> None:
    tables = st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 2.5, 2.5, 7.0]), min_size=num_classes, max_size=num_classes),
        min_size=num_keys,
        max_size=num_keys,
    )
    scores, references = data.draw(tables), [data.draw(tables) for _ in range(num_references)]
    labels = tuple(data.draw(st.lists(st.integers(0, num_classes - 1), min_size=num_keys, max_size=num_keys)))
    expected = share_of_draws(evidence(scores, references), labels)
    assert referenced_p_value(scores, labels, references) == pytest.approx(float(expected), rel=1e-12)


def test_a_reference_without_opinion_leaves_the_rank_statistic() -> None:
    generator = np.random.default_rng(0)
    scores, labels = generator.random((6, 50)), generator.integers(0, 50, 6)
    ranks = (scores >= scores[np.arange(6), labels][:, None]).sum(1)
    alike = np.zeros((6, 50))
    assert referenced_p_value(scores, labels, [alike]) == pytest.approx(rank_p_value(ranks, 50), rel=1e-12)
    assert referenced_p_value(scores, labels, [alike, alike]) == pytest.approx(rank_p_value(ranks, 50), rel=1e-12)


def test_a_model_that_answers_as_the_reference_says_nothing() -> None:
    scores, labels = np.random.default_rng(1).random((8, 20)), np.arange(8)
    assert referenced_p_value(scores, labels, [scores]) == 1.0
    for silent in (np.full((8, 20), np.nan), np.zeros((8, 20))):
        assert referenced_p_value(silent, labels, [scores]) == 1.0  # however the reference ranks the labels
    half, reference = scores.copy(), np.random.default_rng(2).random((8, 20))
    half[4:] = 0
    alone = referenced_p_value(scores[:4], labels[:4], [reference[:4]])
    assert referenced_p_value(half, labels, [reference]) == pytest.approx(alone)


@pytest.mark.parametrize("num_references", [1, 3])
def test_it_holds_its_level_for_models_that_share_their_habit_over_all_keys(num_references: int) -> None:
    """The worst case for a test that took keys for independent: one answer for every key, alike in suspect and references."""
    generator = np.random.default_rng(num_references)
    num_draws, num_keys, num_classes = 4000, 10, 20
    habit = generator.normal(size=num_classes)
    scores = habit + 0.1 * generator.normal(size=(num_keys, num_classes))
    references = [habit + 0.5 * generator.normal(size=(num_keys, num_classes)) for _ in range(num_references)]
    draws = generator.integers(0, num_classes, (num_draws, num_keys))
    p_values = np.array([referenced_p_value(scores, labels, references) for labels in draws])
    for alpha in (0.1, 0.01, 0.001):
        rejected = int((p_values <= alpha).sum())
        assert binom.sf(rejected - 1, num_draws, alpha) > 1e-5
    assert (p_values <= 0.1).mean() > 0.07  # and it is no bound that never rejects


def test_scipy_s_monte_carlo_test_agrees() -> None:
    generator = np.random.default_rng(7)
    scores, reference = generator.normal(size=(5, 12)), generator.normal(size=(5, 12))
    table = np.array(evidence(scores.tolist(), [reference.tolist()]))
    for labels in generator.integers(0, 12, (3, 5)):
        outside = monte_carlo_test(
            labels.astype(float),
            lambda size: np.random.default_rng(3).integers(0, 12, size).astype(float),
            lambda drawn, axis: np.take_along_axis(
                np.broadcast_to(table, (*drawn.shape, 12)), drawn.astype(int)[..., None], -1
            )[..., 0].sum(axis),
            vectorized=True,
            n_resamples=40_000,
            alternative="less",
        )
        assert referenced_p_value(scores, labels, [reference]) == pytest.approx(outside.pvalue, abs=0.012)


def test_what_a_habit_hides_the_reference_shows() -> None:
    """All labels were raised, but classes that the habit prefers still rank before them."""
    generator = np.random.default_rng(5)
    habit = np.linspace(3, -3, 20)
    labels = np.arange(10, 20)  # unlucky: those that it ranks last
    raised = np.zeros(20)
    raised[labels] = 2.5
    reference = habit + 0.1 * generator.normal(size=(10, 20))
    scores = habit + raised + 0.1 * generator.normal(size=(10, 20))
    ranks = (scores >= scores[np.arange(10), labels][:, None]).sum(1)
    assert rank_p_value(ranks, 20) > 0.2
    assert referenced_p_value(scores, labels, [reference]) < 1e-2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"references": []}, "references holds no table"),
        ({"references": [np.zeros((3, 3))]}, "a reference has values of shape"),
        ({"references": [np.zeros((2, 4))]}, r"answers have shape \(2, 4\) but must have 3 columns"),
        ({"references": [np.zeros(3)]}, r"answers have shape \(3,\)"),
        ({"labels": [0, 3]}, "outside"),
        ({"labels": [0]}, "labels has shape"),
        ({"scores": np.zeros((2, 3), dtype=complex)}, "scores has shape"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], sentence: str) -> None:
    given = {"scores": np.zeros((2, 3)), "labels": [0, 1], "references": [np.zeros((2, 3))]} | change
    with pytest.raises(InputError, match=sentence):
        referenced_p_value(**given)
