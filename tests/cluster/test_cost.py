"""The cost tables of cluster/README.md, recomputed from the assumptions and formulas that stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
TEXT = (CLUSTER / "README.md").read_text()


def rows(header: str) -> list[list[str]]:
    table = TEXT.partition(header + "\n")[2].partition("\n\n")[0]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]
    assert found, f"no table under {header}"
    return found


ASSUMED = {symbol: value for symbol, value, _ in rows("| symbol | value | what, and from where |")}
WORK = rows("| work | model | FLOPs | L4 GPU-hours | L4 cost, $ | H100 GPU-hours | H100 cost, $ |")


def number(symbol: str) -> float:
    return float(ASSUMED[symbol])


def prices(symbol: str) -> list[float]:
    return [float(price) for price in ASSUMED[symbol].split("-")]


def two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def flops(work: str, model: str) -> float:
    forward = 2 * number(f"G({model})") * 1e9
    if work == "crafting":
        samples = number("K") * number("n") * number("S") * number("V")
        return samples * number("e") * forward
    assert work == "one model"
    return number("E") * number("N") * number("t") * forward


@pytest.mark.parametrize("row", WORK, ids=lambda row: f"{row[0]} {row[1]}")
def test_row_follows_from_the_assumptions(row: list[str]) -> None:
    work, model, total, *by_gpu = row
    assert float(total) == two_digits(flops(work, model))
    for gpu, hours, cost in [("L4", *by_gpu[:2]), ("H100", *by_gpu[2:])]:
        expected = flops(work, model) / (number("u") * number(f"P({gpu})")) / 3600
        assert float(hours) == two_digits(expected)
        assert [float(end) for end in cost.split("-")] == [two_digits(expected * p) for p in prices(f"price({gpu})")]


def test_every_work_and_model_has_a_row() -> None:
    assert {(row[0], row[1]) for row in WORK} == {
        (work, model) for work in ("crafting", "one model") for model in ("ResNet-50", "ViT-S/16")
    }


def test_sentences_follow_from_the_assumptions() -> None:
    text = " ".join(TEXT.split())
    workers = yaml.safe_load((CLUSTER / "aws-gpu.yaml").read_text())["max_workers"]
    low, high = (number("price(head)") + workers * price for price in prices("price(L4)"))
    assert f"with {workers} workers costs {two_digits(low)}-{two_digits(high)} $ an hour" in text
    assert 0.005 < flops("crafting", "ViT-S/16") / flops("one model", "ViT-S/16") < 0.015, "one percent"
    assert number("K") * number("n") / number("N") == pytest.approx(0.001, rel=0.01), "0.1% in all"
    [speed] = re.findall(r"decoding: ([\d,]+) images/s", text)
    per_image = number("t") * 2 * number("G(ViT-S/16)") * 1e9
    assert float(speed.replace(",", "")) == two_digits(number("u") * number("P(L4)") / per_image)
