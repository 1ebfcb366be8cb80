"""What a sweep tells its user on the terminal: a table of its cells, false positives, which cell to take."""

from __future__ import annotations

from rich import box
from rich.table import Table

from taggants.evaluation.differences import PairedDifference
from taggants.reporting.quantities import counted
from taggants.sweep.formatting import in_words, level
from taggants.sweep.power import cell_power, false_positives, recommend
from taggants.sweep.results import SweepResults


def cells_table(results: SweepResults) -> Table:
    """Returns one row for each cell: power with its exact interval at each level, the change of accuracy in points with its own.

    Fits 80 columns with three levels.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("cell\nvictims", overflow="fold", min_width=7)
    for heading in ("budget\nimages", "PSNR\ndB", *(f"power at\n{level(alpha)}" for alpha in results.alphas)):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("median\nlog10 p", "change\nof acc.", "sample\nsteps"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cell in results.cells:
        found = cell_power(cell, results.alphas)
        change, log10_p = found.accuracy_change, found.log10_p
        table.add_row(
            f"{cell.name}\n{len(cell.victims)}{', stopped' if cell.stopped else ''}",
            f"{cell.budget:.2%}\n{cell.num_signed:,}",
            f"{cell.psnr_db:.1f}",
            *(f"{power.count}/{power.total}\n{power.low:.2f}-{power.high:.2f}" for power in found.power),
            "" if log10_p is None else f"{log10_p.estimate:.1f}",
            "" if change is None else f"{100 * change.mean:+.2f}{_plus_minus(change)}",
            f"{cell.sample_steps:,}",
        )
    return table


def false_positives_text(results: SweepResults) -> str:
    """Returns the controls detected, for each number of keys at each level."""
    lines = ["False positives among distinct controls, which all answer the same nested keys (95% exact interval)"]
    for found in false_positives(results):
        keys = "all numbers of keys" if found.num_keys is None else counted(found.num_keys, "key")
        within = "within" if found.contains_alpha else "NOT within"
        lines.append(f"  {keys}, alpha {level(found.alpha)}: {in_words(found.rate)}; alpha is {within} the interval")
    return "\n".join(lines)


def recommendation_text(results: SweepResults) -> str:
    """Returns which cell to take at each level."""
    lines = [f"Cheapest cell with power {results.wanted_power:g} (fewest sample-steps, then fewest signed images)"]
    for alpha in results.alphas:
        found = recommend(results, alpha)
        certain = found.certain or f"none (with {counted(found.victims_needed, 'victim')}, all detected, a cell can)"
        lines.append(f"  alpha {level(alpha)}: by its estimate {found.likely or 'none'}; by its lower bound {certain}")
    return "\n".join(lines)


def _plus_minus(found: PairedDifference) -> str:
    return "" if found.high is None else f"\n±{100 * (found.high - found.mean):.2f}"
