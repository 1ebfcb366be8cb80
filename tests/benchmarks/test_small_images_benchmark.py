"""What benchmarks/small_images.py makes of accuracies that are measured."""

from __future__ import annotations

import sys

import pytest

from benchmarks.small_images import error_after, main, table


def test_power_laws_are_carried_on_exactly():
    assert error_after({n: 0.9 * n**-0.3 for n in (2, 4, 8)}, 200) == pytest.approx(0.9 * 200**-0.3)
    assert error_after({1: 0.5, 3: 0.4}, 9) == pytest.approx(0.32)  # a fifth less for every tripling


def test_the_table_carries_whole_data_on_and_says_how_far_the_line_missed_the_longest():
    rows = [("a", "all", n, 1 - error, 10.0) for n, error in ((2, 0.5), (4, 0.4), (8, 0.32))]
    rows += [("a", "20 x 250", 30, 0.6, 10.0), ("b", "all", 2, 0.1, 5.0), ("b", "all", 4, 0.2, 5.0)]
    lines = table(rows)
    assert "| a | 20 x 250 | 30 | 0.6000 | 10 |" in lines
    assert [line for line in lines if line.startswith("| a | 2, 4, 8 |")] == [
        "| a | 2, 4, 8 | 0.89 | 0.680 | 0.680 |"  # 0.5 * 0.8^log2(100) = 0.114
    ]
    assert not any(line.startswith("| b | 2,") for line in lines), "two points have no third to be checked by"


@pytest.mark.parametrize(
    ("words", "data", "said"),
    [
        (["--epochs", "0"], "/nowhere", "each must lie from 1 to 10,000"),
        ([], "", "set TAGGANTS_DATA"),
        (["--images", "all"], "/nowhere", "/nowhere/cifar100"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, words, data, said):
    monkeypatch.setenv("TAGGANTS_DATA", data)
    monkeypatch.setattr(sys, "argv", ["small_images.py", "--folder", str(tmp_path), *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert said in f"{ended.value.code} {capsys.readouterr().err}"
    assert ended.value.code != 0
    assert not list(tmp_path.rglob("*.safetensors"))
