"""What benchmarks/small_images.py makes of accuracies that are measured."""

from __future__ import annotations

import math

import pytest

from benchmarks.small_images import error_after, table


def test_power_laws_are_carried_on_exactly():
    without, floored = error_after({n: 0.9 * n**-0.3 for n in (2, 4, 8)}, 200)
    assert without == pytest.approx(0.9 * 200**-0.3)
    assert floored == pytest.approx(0.9 * 200**-0.3)  # whose floor is 0
    without, floored = error_after({n: 0.2 + 0.5 * n**-0.6 for n in (2, 4, 8)}, 200)
    assert floored == pytest.approx(0.2 + 0.5 * 200**-0.6)
    assert without < floored


def test_no_floor_is_told_without_three_doubled_numbers_that_slow_down():
    for errors in ({2: 0.5, 4: 0.4}, {2: 0.5, 4: 0.4, 9: 0.3}, {2: 0.5, 4: 0.4, 8: 0.2}, {2: 0.5, 4: 0.4, 8: 0.41}):
        without, floored = error_after(errors, 200)
        assert math.isnan(floored)
        assert 0 < without < 1


def test_the_table_carries_whole_data_only_on():
    rows = [
        ("a", "20 x 250", 30, 0.6, 10.0),
        ("a", "all", 2, 0.5, 10.0),
        ("a", "all", 4, 0.6, 20.0),
        ("b", "all", 2, 0.1, 5.0),
    ]
    lines = table(rows)
    assert "| a | 20 x 250 | 30 | 0.6000 | 10 |" in lines
    assert [line for line in lines if line.startswith("| a | -")] == ["| a | - | 0.89 |"]  # 0.5 * 0.8^log2(100)
    assert not any(line.startswith("| b | -") for line in lines)
