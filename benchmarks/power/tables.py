"""Records of the power bench as tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, median

import numpy as np
from scipy.stats import binomtest, kstest

from benchmarks.power.findability import TRAITS
from benchmarks.power.records import FLIP_LEVELS, PS, Record, Tested


def table(records: Sequence[Record]) -> str:
    """A line for each draw and kind of victim, then the share detected over draws."""
    head = ["cell", "draw", "victim", *PS, "question of controls", "own", "flips", "accuracy"]
    head += ["PSNR", "alignment", "gain", *TRAITS]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for r in records:
        cells = [r.cell, str(r.draw), r.kind]
        cells += [_listed(getattr(v, name) for v in r.victims) for name in PS]
        cells += [_listed(getattr(c, name) for c in r.controls) for name in ("question", "own")]
        rates = [[fmean(m.flips[i] for m in models) for i in range(len(FLIP_LEVELS))] for models in _both(r)]
        cells.append(", ".join(f"{victims:.3f} ({controls:.3f})" for victims, controls in zip(*rates, strict=True)))
        cells.append(", ".join(f"{fmean(m.accuracy for m in models):.3f}" for models in _both(r)))
        alignment = "" if r.alignment is None else f"{r.alignment:.3f}"
        cells += [f"{r.psnr_db:.1f}", alignment, f"{r.gain:.3f}"]
        cells += [f"{found.signed:.2f} ({found.noise:.2f})" for found in r.findability.values()]
        lines.append("| " + " | ".join(cells) + " |")
    head = ["cell", "victim", "models", *(f"median log10 p, {name}" for name in PS), "own <= 1e-3", "own <= 1e-6"]
    lines += ["", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for cell, kind in dict.fromkeys((r.cell, r.kind) for r in records):
        models = [v for r in records if (r.cell, r.kind) == (cell, kind) for v in r.victims]
        cells = [cell, kind, str(len(models))]
        cells += [f"{median(np.log10(getattr(m, name)) for m in models):.1f}" for name in PS]
        cells += [_share(sum(m.own <= alpha for m in models), len(models)) for alpha in (1e-3, 1e-6)]
        lines.append("| " + " | ".join(cells) + " |")
    # A control stands in several cells, with the same keys in some; only where draws differ are its p-values of other labels.
    of_controls = [p for *_, p in {(r.draw, r.kind, c.name, c.own) for r in records for c in r.controls}]
    p = kstest(of_controls, "uniform", alternative="greater").pvalue
    lines += ["", f"{len(of_controls)} p-values of controls, smaller than uniform ones: Kolmogorov-Smirnov p = {p:.2g}"]
    return "\n".join(lines)


def _both(record: Record) -> tuple[tuple[Tested, ...], tuple[Tested, ...]]:
    return record.victims, record.controls


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.2g}" for value in values)


def _share(count: int, total: int) -> str:
    interval = binomtest(count, total).proportion_ci(method="exact")
    return f"{count} of {total} [{interval.low:.2f}, {interval.high:.2f}]"
