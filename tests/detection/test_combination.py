from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taggants.detection import holm
from taggants.errors import InputError


def test_example_by_hand() -> None:
    # By hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 raised to the step before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_capped_at_one_and_one_suspect_unchanged() -> None:
    assert holm([0.9, 0.6, 0.7]).tolist() == [1.0, 1.0, 1.0]
    assert holm([0.123]).tolist() == [0.123]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float]) -> None:
    # Adjusted p of i = the largest Bonferroni p of all subsets of suspects that contain i.
    suspects = range(len(p_values))
    subsets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(suspects, size)]
    closed = [max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in subsets if i in s) for i in suspects]
    assert holm(p_values) == pytest.approx(closed, rel=1e-12, abs=0)


def test_family_wise_error_stays_below_alpha() -> None:
    rng = np.random.default_rng(0)
    common = rng.random((4000, 1))
    for p_values in (rng.random((4000, 5)), np.repeat(common, 5, axis=1)):
        false_detections = np.array([(holm(row) <= 0.1).any() for row in p_values])
        assert false_detections.mean() < 0.1 + 4 * np.sqrt(0.09 / 4000)


@pytest.mark.parametrize("p_values", [[], [[0.1]], [0.1, float("nan")], [-0.1], [1.1], 0.5])
def test_wrong_p_values_are_refused(p_values: Any) -> None:
    with pytest.raises(InputError, match="p_values has shape"):
        holm(p_values)
