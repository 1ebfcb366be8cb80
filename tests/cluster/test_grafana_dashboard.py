from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

from taggants.crafting.ray_metrics import EXPORTED_NAMES

DASHBOARD: dict[str, Any] = json.loads((Path(__file__).parents[2] / "cluster/grafana-dashboard.json").read_text())
PANELS = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:ray_)?taggants_\w+", expression))


def test_dashboard_uses_exactly_the_exported_names() -> None:
    assert set().union(*map(names_in, EXPRESSIONS)) == EXPORTED_NAMES
    [run] = [variable for variable in DASHBOARD["templating"]["list"] if variable["name"] == "run"]
    assert names_in(run["query"]["query"]) <= EXPORTED_NAMES


def test_counters_are_read_as_rates_and_gauges_as_they_are() -> None:
    for expression in EXPRESSIONS:
        for name in names_in(expression):
            is_rate = re.search(rf"(rate|increase)\({name}\{{run=~\"\$run\"\}}\[\d+[mh]\]\)", expression) is not None
            assert is_rate == name.endswith("_total"), expression
            assert f'{name}{{run=~"$run"}}' in expression


def test_dashboard_has_what_grafana_needs() -> None:
    assert isinstance(DASHBOARD["schemaVersion"], int)
    assert isinstance(DASHBOARD["title"], str)
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", DASHBOARD["uid"])
    assert set(DASHBOARD["time"]) == {"from", "to"}
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "run"}
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["type"] in {"gauge", "stat", "timeseries"}
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert references == sorted(set(references))


def test_panels_lie_side_by_side() -> None:
    cells = [
        {(x, y) for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])}
        for p in (panel["gridPos"] for panel in PANELS)
    ]
    assert all(x < 24 for cell in cells for x, _ in cell)
    assert all(not one & other for one, other in itertools.combinations(cells, 2))
