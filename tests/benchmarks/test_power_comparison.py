"""What the power bench concludes from its records, and the page that shows it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from benchmarks.power.comparison import accuracy_harm, compare, flip_harm, pairs, prediction_interval, uniformity
from benchmarks.power.page import render
from benchmarks.power.records import RECORD, Record
from benchmarks.power.tables import Table, findability_table, tables
from tests.benchmarks.power_records import BASELINE, KINDS, made_up
from tests.strict_html import Strict


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return made_up()


def with_p(record: Record, question: tuple[float, ...], **changed: object) -> Record:
    victims = tuple(replace(record.victims[0], question=p) for p in question)
    return replace(record, victims=victims, **changed)


def test_comparison_is_of_the_draws_that_both_have(records: list[Record]) -> None:
    one = records[0]
    made = [
        with_p(one, (1e-2, 1e-4), cell="old", kind="a", draw=1),  # geometric mean 1e-3
        with_p(one, (1e-9,), cell="old", kind="a", draw=2),
        with_p(one, (1e-1,), cell="old", kind="b", draw=1),
        with_p(one, (1e-6,), cell="new", kind="a", draw=1),
        with_p(one, (1e-20,), cell="new", kind="a", draw=3),
        with_p(one, (1e-1,), cell="new", kind="b", draw=1),
        with_p(one, (1e-1,), cell="new", kind="c", draw=1),
    ]
    found = {(c.cell, c.kind): c for c in compare(made, "old")}
    assert list(found) == [("old", "a"), ("old", "b"), ("new", "a"), ("new", "b")]
    assert found["new", "a"].num_draws == found["new", "a"].num_victims == 1
    assert found["new", "a"].means["question"] == pytest.approx(1e-6)
    assert found["new", "a"].times_smaller["question"] == pytest.approx(1e3)
    assert found["old", "a"].times_smaller["question"] == pytest.approx(1)
    last = tables(made, "old")[0].rows[-1]
    assert last[:3] == ("new", "mean over 2", "")
    assert last[6] == "32 (least 1)"


def test_a_control_with_the_same_keys_in_several_cells_counts_once(records: list[Record]) -> None:
    first = records[:3]  # three draws of one kind
    found = uniformity([*first, *(replace(record, cell="again") for record in first)])[0]
    assert (found.name, found.num_values, found.num_draws) == ("question", 6, 3)
    values = [control.question for record in first for control in record.controls]
    assert found.two_sided == pytest.approx(kstest(values, "uniform").pvalue)


@pytest.mark.parametrize(
    ("values", "is_smaller"), [(np.linspace(1e-3, 0.1, 40), True), (np.linspace(0.9, 1, 40), False)]
)
def test_false_alarms_fail_one_side_and_timid_controls_the_other(
    records: list[Record], values: np.ndarray, is_smaller: bool
) -> None:
    control = records[0].controls[0]
    controls = tuple(replace(control, name=f"control-{i}", question=float(p)) for i, p in enumerate(values))
    found = uniformity([replace(records[0], controls=controls)])[0]
    assert (found.smaller < 1e-6) == is_smaller
    assert found.two_sided < 1e-6


def test_prediction_intervals_cover_one_more_value_with_95_percent() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for *seen, new in random.normal(3, 2, (10000, 5)):
        found = prediction_interval(seen)
        assert found is not None
        inside += found[0] <= new <= found[1]
    assert inside / 10000 == pytest.approx(0.95, abs=0.008)  # 3.7 standard errors
    assert prediction_interval([1.0]) is None
    assert prediction_interval([1.0, 1.0]) == (1, 1)


def test_harm_is_counted_against_clean_models_of_the_kind(records: list[Record]) -> None:
    of = pairs(records)
    unharmed, harmed = (flip_harm(of[cell, "convnext"], 16) for cell in dict.fromkeys(cell for cell, _ in of))
    assert unharmed.within is not None
    assert harmed.within is not None
    assert unharmed.within > 6
    assert harmed.within == 0
    own = of[BASELINE, "convnext"]
    clean = {model.accuracy for record in own for model in record.clean}
    found = accuracy_harm(own)
    assert found.num_clean == len(clean) == 12
    assert found.clean == pytest.approx(np.mean(list(clean)))
    # Models that all draws share count once: twelve times the same four would narrow the interval.
    shared = [replace(record, controls=own[0].controls, references=own[0].references) for record in own]
    assert accuracy_harm(shared).num_clean == 4
    assert accuracy_harm(shared).interval == prediction_interval([model.accuracy for model in own[0].clean])
    alone = [replace(record, controls=record.controls[:1], references=()) for record in own[:1]]
    assert accuracy_harm(alone).within is None


def test_findability_stands_under_its_own_heading_when_read_back(records: list[Record]) -> None:
    stored = RECORD.dump_python(records[0], mode="json")
    stored["findability"] = dict(sorted(stored["findability"].items()))  # as JSON with sorted keys is
    table = findability_table([RECORD.validate_python(stored)])
    found = records[0].findability["noise level"]
    assert table.rows[0][table.head.index("noise level")] == f"{found.signed:.2f} ({found.reference:.2f})"


def test_tables_are_rectangles_and_markdown_keeps_their_cells(records: list[Record]) -> None:
    for table in tables(records, BASELINE):
        assert all(len(row) == len(table.head) for row in table.rows)
    assert r"\| today |" in tables(records, BASELINE)[0].markdown()
    assert tables(records, "not measured")[0].name == "power"


def test_the_page_is_strict_loads_nothing_and_escapes_names(records: list[Record]) -> None:
    page = render(records, BASELINE, "<script>alert(1)</script>")
    root = Strict(page).root
    assert "<script" not in page
    assert "<b>matching" not in page
    assert not re.search(r"(src|href)=\"(?!#)", page)
    ids = [element.get("id") for element in root.walk() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    assert all(element.get("href").removeprefix("#") in ids for element in root.all("a"))
    for element in root.walk():
        assert set(element.get("aria-labelledby").split()) <= set(ids)
    shown: list[Table] = tables(records, BASELINE)
    assert len(root.all("tr")) == sum(1 + len(table.rows) for table in shown)
    victims = [circle for circle in root.all("circle") if circle.inside("figure")]
    assert len(victims) == 3 * sum(len(record.victims) for record in records)
    for kind in KINDS:
        assert kind in root.text()
