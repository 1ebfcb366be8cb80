from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from taggants.detection import exact_p_value, hits_needed, rank_p_value
from taggants.detection.power import NUM_DRAWS, effect_of_table, power, rank_probabilities
from taggants.detection.sequential import running_e_values
from taggants.errors import InputError


def simulated_rows(effect: float, num_draws: int, num_keys: int, num_classes: int) -> np.ndarray:
    """Evidence [num_draws, num_keys, num_classes], small where favoured; the label is class 0."""
    rows = np.random.default_rng(1).normal(size=(num_draws, num_keys, num_classes))
    rows[..., 0] -= effect
    return rows


@pytest.mark.parametrize("effect", [0.0, 0.7, 3.0])
def test_ranks_have_the_probabilities_of_simulated_ones(effect: float) -> None:
    rows = simulated_rows(effect, 1, 200_000, 7)[0]
    shares = np.bincount((rows <= rows[:, :1]).sum(axis=1) - 1, minlength=7) / len(rows)
    assert rank_probabilities(effect, 7) == pytest.approx(shares, abs=4 * 0.5 / np.sqrt(len(rows)))


@pytest.mark.parametrize("statistic", ["rank", "hits", "question", "sequential"])
def test_without_an_effect_power_is_the_size(statistic: str) -> None:
    assert rank_probabilities(0.0, 12) == pytest.approx(np.full(12, 1 / 12), abs=1e-12)
    (found,) = power(statistic, 0.0, 12, [8], 0.05, top_k=2)
    error = 0 if statistic in ("rank", "hits") else 3 * np.sqrt(0.05 * 0.95 / NUM_DRAWS)
    assert 0.0 < found <= 0.05 + error + 1e-12


def test_power_is_the_chance_of_all_ranks_that_the_test_rejects() -> None:
    probabilities = rank_probabilities(1.2, 6)
    expected = sum(
        float(np.prod(probabilities[np.array(ranks) - 1]))
        for ranks in itertools.product(range(1, 7), repeat=3)
        if rank_p_value(ranks, 6) <= 0.02
    )
    assert power("rank", 1.2, 6, [3], 0.02) == pytest.approx([expected], rel=1e-9)


def test_power_of_hits_is_a_binomial_tail() -> None:
    needed = hits_needed(1e-3, 16, 1, 10)
    assert needed is not None
    expected = scipy.stats.binom.sf(needed - 1, 16, rank_probabilities(1.0, 10)[0])
    assert power("hits", 1.0, 10, [16], 1e-3) == pytest.approx([expected], rel=1e-9)


@pytest.mark.parametrize(("effect", "num_keys", "num_classes"), [(1.2, 10, 20), (0.8, 20, 50), (2.0, 5, 10)])
def test_simulated_power_is_the_share_of_real_p_values(effect: float, num_keys: int, num_classes: int) -> None:
    """Of finer tables and other draws, within Monte Carlo error."""
    rows, labels = simulated_rows(effect, 400, num_keys, num_classes), np.zeros(num_keys, dtype=int)
    standardised = (rows - rows.mean(axis=2, keepdims=True)) / rows.std(axis=2, keepdims=True)
    by_sum = np.mean([exact_p_value(np.floor(64 * table).astype(int), labels) <= 1e-3 for table in standardised])
    assert power("question", effect, num_classes, [num_keys], 1e-3) == pytest.approx([by_sum], abs=0.12)
    by_e_value = np.mean([running_e_values(table, labels).max() >= np.log(1e3) for table in rows])
    assert power("sequential", effect, num_classes, [num_keys], 1e-3) == pytest.approx([by_e_value], abs=0.12)


def test_power_rises_with_keys_effect_and_labels_that_are_named() -> None:
    curve = power("question", 1.0, 20, [20, 5, 10], 1e-3)
    assert curve[1] < curve[2] < curve[0]
    by_labels = [power("rank", 1.0, 20, [16], 1e-3, top_m=top_m)[0] for top_m in (1, 5, None)]
    assert by_labels == sorted(by_labels)
    assert power("rank", 1.5, 20, [16], 1e-3)[0] > by_labels[-1] > power("rank", 0.5, 20, [16], 1e-3)[0]
    assert power("one of a plug-in", 1.0, 20, [16], 1e-3) is None


@pytest.mark.parametrize("num_classes", [4, 10, 100])
def test_the_effect_is_found_again_in_simulated_tables(num_classes: int) -> None:
    rows = simulated_rows(1.3, 1, 4000, num_classes)[0]
    effect, error = effect_of_table(rows, np.zeros(len(rows), dtype=int))
    assert effect == pytest.approx(1.3, abs=4 * error + 0.08)  # the formula takes means of a quotient apart
    parts = [effect_of_table(part, np.zeros(len(part), dtype=int)) for part in np.split(rows, 100)]
    assert np.std([part[0] for part in parts]) == pytest.approx(np.mean([part[1] for part in parts]), rel=0.3)


def test_rows_that_name_one_class_have_a_finite_effect() -> None:
    """The label in half of the rows, another class in the others."""
    rows = np.repeat(np.eye(10)[[0, 3]], 5, axis=0)
    effect, _ = effect_of_table(-rows, np.zeros(10, dtype=int))
    assert 1 < effect < 3
    assert effect_of_table(-rows[:5], np.zeros(5, dtype=int)) == (8.0, 0.0)
    assert effect_of_table([[5, 5, 5, 5]] * 2, [1, 0]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: power("rank", -1.0, 10, [5], 0.1), "effect is -1.0"),
        (lambda: power("rank", 1.0, 10**6, [5], 0.1), "num_classes is 1000000"),
        (lambda: power("rank", 1.0, 10, [0], 0.1), "num_keys is"),
        (lambda: power("rank", 1.0, 10, [], 0.1), "num_keys is"),
        (lambda: power("rank", 1.0, 10, [5], 1e-15), "level is 1e-15"),
    ],
)
def test_what_is_out_of_range_is_refused(call, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        call()
