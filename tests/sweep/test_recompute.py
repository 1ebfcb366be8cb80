"""The report's numbers against those that a separate script takes from the certificates."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from benchmarks.recompute_sweep import recompute
from taggants.detection import Evidence, certify
from taggants.sweep.power import cell_power, false_positives
from taggants.sweep.results import SweepResults, Trained
from tests.detection.registrations import registered
from tests.sweep.test_power import cell


def assert_equal_numbers(sweep_json: Path) -> None:
    """Compares `taggants.sweep.power` on sweep.json with `recompute` on the certificates."""
    results = SweepResults.from_json(json.loads(sweep_json.read_text()))
    recomputed = recompute(sweep_json)
    assert list(recomputed["cells"]) == [one.name for one in results.cells]
    for one in results.cells:
        found, expected = cell_power(one, results.alphas), recomputed["cells"][one.name]
        assert [victim.p_value for victim in one.victims] == pytest.approx(expected["p_values"], rel=1e-9)
        assert [victim.num_hits for victim in one.victims] == expected["hits"]
        for alpha, power in zip(results.alphas, found.power, strict=True):
            assert vars(power) == pytest.approx(expected["power"][alpha])
        assert found.log10_p is not None
        assert found.log10_p.estimate == pytest.approx(expected["median_log10_p"])
    for rate in false_positives(results):
        if rate.num_keys is not None:
            assert vars(rate.rate) == pytest.approx(recomputed["false_positives"][rate.num_keys][rate.alpha])


@pytest.mark.parametrize("statistic", ["rank", "hits"])
def test_numbers_are_those_of_the_certificates(tmp_path: Path, statistic) -> None:
    random = np.random.default_rng(3)

    def tested(name: str, index: int, num_keys: int, share: float, run: str) -> Trained:
        # A model answers the same keys in the same way, whichever cell asks.
        own = np.random.default_rng([index, num_keys]) if name == "control" else random
        ranks = np.where(own.random(num_keys) < share, own.integers(1, 4, num_keys), own.integers(1, 11, num_keys))
        registration = registered(num_keys=num_keys, num_classes=10, top_k=2, alpha=1e-3, statistic=statistic)
        certificate = certify(
            Evidence(10, tuple(ranks.tolist())),
            registration,
            suspect=f"{name}-{index}",
            suspect_sha256=f"{index:064x}",
            created_at=datetime.now(UTC),
            software={},
        )
        path = f"{run}/certificates/{name}-{index}.json"
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(json.dumps(certificate.to_json()))
        return Trained(f"{name}-{index}", index, 0.9, certificate.num_hits, certificate.p_value, path, 1.0, 0.8)

    cells = []
    for name, num_keys in (("a", 4), ("b", 4), ("c", 9)):
        victims = tuple(tested("victim", i, num_keys, 0.7, name) for i in range(4))
        controls = tuple(tested("control", i, num_keys, 0.0, name) for i in range(3))
        cells.append(replace(cell(name, [], []), num_keys=num_keys, victims=victims, controls=controls))
    results = SweepResults({}, "", (0.3, 1e-2, 1e-3), 0.8, statistic, 10, "f", {}, "", tuple(cells), top_k=2)
    file = tmp_path / "sweeps" / "hash" / "sweep.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(results.to_json()))
    assert_equal_numbers(file)
