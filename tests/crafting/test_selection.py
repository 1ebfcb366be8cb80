from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taggants.crafting.selection import (
    check_capacity,
    check_class_sizes,
    drawn_from_top,
    images_per_key,
    random_priorities,
    signing_sets,
)
from taggants.errors import InputError
from taggants.keys import KeySpec, derive_keys
from taggants.stages.plan import selection_seed


@given(
    num_keys=st.integers(1, 8),
    per_key=st.integers(1, 5),
    num_classes=st.integers(2, 5),
    seed=st.integers(0, 10_000),
)
def test_sets_are_disjoint_of_the_keys_class_and_do_not_depend_on_later_keys(num_keys, per_key, num_classes, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(num_classes), num_keys * per_key))
    key_labels = rng.integers(0, num_classes, num_keys)
    priorities = rng.random(len(labels))
    sets = signing_sets(labels, key_labels, per_key, priorities)
    together = np.concatenate(sets)
    assert len(np.unique(together)) == num_keys * per_key
    for ids, label in zip(sets, key_labels, strict=True):
        assert (labels[ids] == label).all()
    fewer = signing_sets(labels, key_labels[:-1], per_key, priorities) if num_keys > 1 else []
    assert all(np.array_equal(a, b) for a, b in zip(fewer, sets, strict=False))


def test_highest_priority_goes_first_and_equal_ones_by_sample_id():
    labels = np.array([0, 1, 0, 0, 1, 0])
    priorities = np.array([0.5, 9.0, 0.7, 0.5, 8.0, 0.5])
    sets = signing_sets(labels, np.array([0, 0]), 2, priorities)
    assert [ids.tolist() for ids in sets] == [[2, 0], [3, 5]]


@pytest.mark.parametrize(
    ("budget", "per_key", "expected"),
    [(0.1, None, 10), (0.001, None, 0), (None, 7, 7), (0.3, None, 30), (1.0, None, 100)],
)
def test_budget_is_shared_among_keys_and_rounded_down(budget, per_key, expected):
    if expected == 0:
        with pytest.raises(InputError, match=r"raise it to at least 0\.01"):
            images_per_key(1000, 10, budget=budget, per_key=per_key)
    else:
        assert images_per_key(1000, 10, budget=budget, per_key=per_key) == expected


def test_too_small_a_class_is_named():
    with pytest.raises(InputError, match="class 1 has 3 images, too few for its keys at 2 images each"):
        check_capacity(np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 1, 1]), 2)


def test_key_of_a_class_without_images_is_refused():
    with pytest.raises(InputError, match="class 3 has 0 images"):
        check_capacity(np.array([0, 1, 2]), np.array([3]), 1)


def test_random_priorities_are_a_function_of_the_seed():
    assert np.array_equal(random_priorities(9, 1), random_priorities(9, 1))
    assert not np.array_equal(random_priorities(9, 1), random_priorities(9, 2))


def test_class_that_could_not_carry_one_key_is_refused_before_keys_are_drawn():
    labels = np.array([0, 0, 0, 2, 2, 2])
    with pytest.raises(InputError, match="class 1 has 0 images but a key needs 2"):
        check_class_sizes(labels, 3, 2)
    check_class_sizes(np.array([0, 0, 1, 1]), 2, 2)


def test_random_choices_come_from_the_secret():
    first, other = (derive_keys(bytes([byte]) * 32, KeySpec(2, 10, 1, 8, "block", {"cell_size": 1})) for byte in (1, 2))
    more = derive_keys(bytes([1]) * 32, KeySpec(5, 10, 1, 8, "block", {"cell_size": 1}))
    seeds = [selection_seed(keys, seed) for keys, seed in ((first, 0), (other, 0), (first, 1))]
    assert len(set(seeds)) == 3
    assert selection_seed(more, 0) == seeds[0]  # of more keys, the first sign the same images
    assert all(seed.bit_length() > 200 for seed in seeds)


@given(fraction=st.sampled_from([0.1, 0.25, 0.5, 1.0]), seed=st.integers(0, 1000))
def test_the_pool_is_the_top_of_each_class_in_an_order_of_the_seed(fraction, seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 3, 60), rng.integers(0, 9, 60).astype(float)
    drawn = drawn_from_top(scores, labels, fraction, seed)
    assert np.array_equal(drawn, drawn_from_top(scores, labels, fraction, seed))
    for label in range(3):
        ids = np.flatnonzero(labels == label)
        ranked = sorted(ids, key=lambda i: (-scores[i], i))
        num = int(np.ceil(fraction * len(ids)))
        chosen = sorted(ids, key=lambda i: -drawn[i])
        assert set(chosen[:num]) == set(ranked[:num])
        assert chosen[num:] == ranked[num:]
    other = drawn_from_top(scores, labels, fraction, seed + 1)
    assert fraction < 0.25 or not np.array_equal(np.argsort(drawn), np.argsort(other))
