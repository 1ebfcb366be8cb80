from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from taggants.detection import Evidence, exact_p_value
from taggants.errors import InputError


def test_a_table_keeps_what_the_p_value_needs_and_no_label() -> None:
    random = np.random.default_rng(0)
    table, labels = random.integers(-5, 6, (6, 12)), random.integers(0, 12, 6)
    evidence = Evidence.of_table(table, labels)
    assert exact_p_value(np.array(evidence.table), evidence.positions) == exact_p_value(table, labels)
    shuffled = [random.permutation(12) for _ in range(6)]
    moved = Evidence.of_table(
        np.stack([row[order] for row, order in zip(table, shuffled, strict=True)]),
        [int(np.flatnonzero(order == label)[0]) for order, label in zip(shuffled, labels, strict=True)],
    )
    assert moved == evidence


def test_ties_count_against_the_owner() -> None:
    assert Evidence.of_table([[0, 0, 0, 1]], [0]).ranks == (3,)


@pytest.mark.parametrize("evidence", [Evidence(3, (1, 3)), Evidence(3, (1, 3), ((0, 1, 1), (-4, 0, 9)))])
def test_round_trip(evidence: Evidence) -> None:
    assert Evidence.from_json(json.loads(json.dumps(evidence.to_json())), 3) == evidence


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"ranks": [0], "table": None}, "a rank is 0"),
        ({"ranks": [4], "table": None}, "a rank is 4"),
        ({"ranks": [True], "table": None}, "a rank is True"),
        ({"ranks": [1.0], "table": None}, "a rank is 1.0"),
        ({"ranks": "1", "table": None}, "only the lists ranks and table"),
        ({"ranks": [1]}, "only the lists ranks and table"),
        (None, "only the lists ranks and table"),
        ({"ranks": [1], "table": [1, 2, 3]}, "list of lists"),
        ({"ranks": [1], "table": [[1, 2]]}, "must have 3 values for each of the 1 keys"),
        ({"ranks": [1], "table": [[1, 2, 3]] * 2}, "must have 3 values for each of the 1 keys"),
        ({"ranks": [1], "table": [[3, 2, 1]]}, "must be sorted"),
        ({"ranks": [1], "table": [[1, 2, 3.0]]}, "a value of table is 3.0"),
        ({"ranks": [1], "table": [[1, 2, 2**41]]}, "a value of table is"),
    ],
)
def test_what_is_no_evidence_is_refused(value: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Evidence.from_json(value, 3)
