import json

import pytest

from taggants.errors import InputError
from taggants.sweep.results import SweepResults
from tests.sweep.test_power import cell
from tests.sweep.test_power import results as results_of


def results() -> SweepResults:
    return results_of(cell("7x16", [1e-8, 0.2], [0.7], images_per_key=7, num_keys=16, num_images=1297))


def test_round_trip_through_text() -> None:
    found = results()
    assert SweepResults.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.cells[0].num_signed == 112
    assert found.cells[0].budget == pytest.approx(112 / 1297)


def test_other_files_are_refused() -> None:
    value = json.loads(json.dumps(results().to_json()))
    with pytest.raises(InputError, match="format must be"):
        SweepResults.from_json({**value, "format": "other"})
    with pytest.raises(InputError, match=r"cells\.0\.num_keys"):
        SweepResults.from_json({**value, "cells": [{**value["cells"][0], "num_keys": "many"}]})
