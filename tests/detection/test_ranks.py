from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from taggants.detection import key_ranks, key_ranks_from_top
from taggants.errors import InputError


@given(st.integers(1, 5), st.integers(2, 7), st.data())
def test_rank_counts_the_classes_that_score_at_least_the_label(
    num_keys: int, num_classes: int, data: st.DataObject
) -> None:
    values = st.sampled_from([-np.inf, -1.5, 0.0, 0.25, 2.0, np.inf, np.nan])
    scores = data.draw(hnp.arrays(np.float64, (num_keys, num_classes), elements=values))
    labels = data.draw(hnp.arrays(np.int64, num_keys, elements=st.integers(0, num_classes - 1)))
    expected = []
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        is_broken = any(value != value for value in row)
        expected.append(num_classes if is_broken else sum(value >= row[label] for value in row))
    ranks = key_ranks(scores, labels)
    assert ranks.dtype == np.int64
    assert ranks.tolist() == expected


def test_a_constant_answer_gets_the_worst_rank() -> None:
    assert key_ranks(np.zeros((3, 10)), [0, 5, 9]).tolist() == [10, 10, 10]


def test_nan_in_another_class_spoils_only_its_row() -> None:
    scores = np.array([[3.0, np.nan, 1.0], [3.0, 2.0, 1.0]])
    assert key_ranks(scores, [0, 0]).tolist() == [3, 1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint8])
def test_other_real_types(dtype: Any) -> None:
    assert key_ranks(np.array([[1, 5, 3], [0, 0, 7]], dtype=dtype), [2, 2]).tolist() == [2, 1]


@given(st.integers(1, 4), st.integers(2, 6), st.data())
def test_rank_from_a_full_list_is_the_rank_from_its_scores(
    num_keys: int, num_classes: int, data: st.DataObject
) -> None:
    top = np.array([data.draw(st.permutations(range(num_classes))) for _ in range(num_keys)])
    labels = data.draw(hnp.arrays(np.int64, num_keys, elements=st.integers(0, num_classes - 1)))
    scores = -np.argsort(top, axis=1)  # the score falls with the position in the list
    full = key_ranks(scores, labels)
    assert key_ranks_from_top(top, labels, num_classes).tolist() == full.tolist()
    for m in range(1, num_classes + 1):
        short = key_ranks_from_top(top[:, :m], labels, num_classes)
        assert short.tolist() == [rank if rank <= m else num_classes for rank in full.tolist()]


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros(3), [0], "scores has shape"),
        (np.zeros((0, 3)), [], "scores has shape"),
        (np.zeros((2, 1)), [0, 0], "scores has shape"),
        (np.zeros((1, 3), dtype=complex), [0], "scores has shape"),
        (np.zeros((1, 3), dtype=bool), [0], "scores has shape"),
        (np.array([["a", "b"]]), [0], "scores has shape"),
        (np.zeros((2, 3)), [0], "labels has shape"),
        (np.zeros((2, 3)), [[0], [1]], "labels has shape"),
        (np.zeros((2, 3)), [0.0, 1.0], "labels has shape"),
        (np.zeros((2, 3)), [0, 3], r"labels holds a value outside 0\.\.2"),
        (np.zeros((2, 3)), [-1, 0], r"labels holds a value outside 0\.\.2"),
    ],
)
def test_wrong_scores_or_labels_are_refused(scores: Any, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        key_ranks(scores, labels)


@pytest.mark.parametrize(
    ("top", "labels", "message"),
    [
        ([0, 1], [0, 1], "top_labels has shape"),
        (np.zeros((2, 0), int), [0, 1], "top_labels has shape"),
        ([[0, 1, 2, 3]], [0], "top_labels has shape"),
        ([[0.0, 1.0]], [0], "top_labels has shape"),
        ([[0, 3]], [0], r"top_labels holds a value outside 0\.\.2"),
        ([[-1, 0]], [0], r"top_labels holds a value outside 0\.\.2"),
        ([[0, 1], [2, 2]], [0, 1], "twice in row 1"),
        ([[0, 1], [2, 1]], [0], "labels has shape"),
        ([[0, 1]], [3], r"labels holds a value outside 0\.\.2"),
    ],
)
def test_wrong_lists_are_refused(top: Any, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        key_ranks_from_top(top, labels, 3)
