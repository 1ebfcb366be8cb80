from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from taggants.detection.sequential import TILTS, running_e_values
from taggants.errors import InputError


def slow_e_value(table: list[list[int]], labels: list[int]) -> float:
    """Tilt by tilt, key by key, class by class."""
    products = []
    for tilt in TILTS:
        product = 1.0
        for row, label in zip(table, labels, strict=True):
            mean = sum(row) / len(row)
            spread = math.sqrt(sum((value - mean) ** 2 for value in row) / len(row)) or 1.0
            weights = [math.exp(tilt * (mean - value) / spread) for value in row]
            product *= weights[label] / (sum(weights) / len(row))
        products.append(product)
    return sum(products) / len(products)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda classes: st.lists(
            st.lists(st.integers(-500, 500), min_size=classes + 1, max_size=classes + 1), min_size=1, max_size=4
        )
    )
)
def test_the_mean_over_all_label_draws_is_one_after_every_key(table: list[list[int]]) -> None:
    draws = np.array(list(itertools.product(range(len(table[0])), repeat=len(table))))
    e_values = np.exp(running_e_values(table, draws))
    assert e_values.mean(axis=0) == pytest.approx(np.ones(len(table)), rel=1e-9)
    for labels, found in zip(draws.tolist()[::7], e_values[::7], strict=True):
        for num_keys in range(1, len(table) + 1):
            assert found[num_keys - 1] == pytest.approx(slow_e_value(table[:num_keys], labels[:num_keys]), rel=1e-9)


def test_looking_after_every_key_keeps_the_level_but_a_p_value_looked_at_so_does_not() -> None:
    generator = np.random.default_rng(0)
    num_draws, num_keys, num_classes = 50_000, 30, 10
    habit = np.tile(
        np.array([-300, 0, 0, 0, 0, 0, 40, 40, 40, 180]), (num_keys, 1)
    )  # one habit on all keys: the worst case
    draws = generator.integers(0, num_classes, (num_draws, num_keys))
    best = running_e_values(habit, draws).max(axis=1)
    for alpha in (0.1, 0.01, 0.001):
        assert binom.sf((best >= -math.log(alpha)).sum() - 1, num_draws, alpha) > 1e-5
    assert (best >= math.log(10)).mean() > 0.01  # it does reject
    z = np.cumsum(habit[0][draws], axis=1) / (habit[0].std() * np.sqrt(np.arange(1, num_keys + 1)))
    assert binom.sf((z.min(axis=1) <= -1.2816).sum() - 1, num_draws, 0.1) < 1e-5


def test_a_row_that_says_nothing_changes_nothing_and_evidence_adds_up() -> None:
    table = np.zeros((3, 5), dtype=int)
    assert running_e_values(table, [0, 3, 4]).tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    table[:, 2] = -100
    rising = running_e_values(table, [2, 2, 2])
    assert 0 < rising[0] < rising[1] < rising[2] < 3 * math.log(5) + 1e-9
    assert running_e_values(table, [0, 0, 0])[-1] < 0


@pytest.mark.parametrize(
    ("table", "labels", "sentence"),
    [
        ([[0.0, math.nan]], [0], "finite"),
        ([[0]], [0], "table has shape"),
        ([[0, 1]], [0, 1], "one for each of 1 keys"),
        ([[0, 1]], [2], r"outside 0\.\.1"),
        ([[0, 1]], [0.0], "must be integers"),
    ],
)
def test_bad_input_is_named(table: object, labels: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        running_e_values(table, labels)
