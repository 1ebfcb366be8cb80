"""Recomputes the power of a sweep from its certificates alone: python benchmarks/recompute_sweep.py runs/sweeps/HASH/sweep.json

Of sweep.json only the names of the cells, the paths of their certificates and the levels are used; ranks come from the
certificates, all else from NumPy and SciPy. Nothing of the package is imported, so that a mistake in it is not repeated.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import convolve
from scipy.stats import beta, binom


def rank_p_value(ranks: list[int], num_classes: int) -> float:
    """P(sum of floor(64 ln r + 1/2) <= the observed one), ranks i.i.d. uniform."""
    scores = [math.floor(64 * math.log(rank) + 0.5) for rank in range(1, num_classes + 1)]
    one = np.zeros(max(scores) + 1)
    for score in scores:
        one[score] += 1 / num_classes
    distribution = np.ones(1)
    for _ in ranks:
        distribution = convolve(distribution, one, method="direct")
    observed = sum(scores[rank - 1] for rank in ranks)
    return min(1.0, max(1e-300, float(distribution[: observed + 1].sum())))


def table_p_value(table: list[list[int]], ranks: list[int]) -> float:
    """P(sum of one value of each row <= the observed one), values uniform in their rows; rows are ascending."""
    distribution, lowest = np.ones(1), 0
    for row in table:
        one = np.zeros(row[-1] - row[0] + 1)
        for value in row:
            one[value - row[0]] += 1 / len(row)
        distribution, lowest = convolve(distribution, one, method="direct"), lowest + row[0]
    observed = sum(row[rank - 1] for row, rank in zip(table, ranks, strict=True))
    return min(1.0, max(1e-300, float(distribution[: observed - lowest + 1].sum())))


def p_value(certificate: dict[str, Any]) -> float:
    """Of the registered statistic."""
    ranks, registered = certificate["evidence"]["ranks"], certificate["registration"]
    num_classes, top_k = registered["num_classes"], registered["top_k"]
    if registered["statistic"] == "rank":
        return rank_p_value(ranks, num_classes)
    if registered["statistic"] == "question":
        return table_p_value(certificate["evidence"]["table"], ranks)
    hits = sum(rank <= top_k for rank in ranks)
    return max(1e-300, float(binom.sf(hits - 1, len(ranks), top_k / num_classes)))


def share(count: int, total: int) -> dict[str, float]:
    """With the exact 95% interval from beta quantiles (Clopper and Pearson 1934)."""
    low = float(beta.ppf(0.025, count, total - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, total - count)) if count < total else 1.0
    return {"count": count, "total": total, "low": low, "high": high}


def recompute(sweep_json: Path) -> dict[str, Any]:
    """Returns {"cells": {name: {"power": {alpha: share}, "median_log10_p", "p_values", "hits"}},
    "false_positives": {K: {alpha: share}}}; power and p-values of victims by index."""
    sweep = json.loads(sweep_json.read_text())
    output_root = sweep_json.parent.parent.parent
    cells: dict[str, Any] = {}
    controls: dict[int, dict[str, float]] = {}
    for cell in sweep["cells"]:
        p_values, hits = [], []
        for victim in cell["victims"]:
            certificate = json.loads((output_root / victim["certificate"]).read_text())
            p_values.append(p_value(certificate))
            hits.append(sum(rank <= certificate["registration"]["top_k"] for rank in certificate["evidence"]["ranks"]))
        for control in cell["controls"]:
            certificate = json.loads((output_root / control["certificate"]).read_text())
            controls.setdefault(len(certificate["evidence"]["ranks"]), {})[certificate["suspect_sha256"]] = p_value(
                certificate
            )
        cells[cell["name"]] = {
            "power": {alpha: share(sum(p <= alpha for p in p_values), len(p_values)) for alpha in sweep["alphas"]},
            "median_log10_p": float(np.median(np.log10(p_values))),
            "p_values": p_values,
            "hits": hits,
        }
    return {
        "cells": cells,
        "false_positives": {
            num_keys: {alpha: share(sum(p <= alpha for p in tests.values()), len(tests)) for alpha in sweep["alphas"]}
            for num_keys, tests in sorted(controls.items())
        },
    }


if __name__ == "__main__":
    print(json.dumps(recompute(Path(sys.argv[1])), indent=1))
