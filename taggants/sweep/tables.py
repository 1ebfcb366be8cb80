"""What a sweep tells its user: a table of its cells, false positives, which cell to take, and what more keys would bring."""

from __future__ import annotations

from rich import box
from rich.table import Table

from taggants.errors import InputError
from taggants.sweep.power import (
    Extrapolation,
    Mean,
    Proportion,
    cell_power,
    extrapolate_cell,
    false_positives,
    recommend,
    strongest_cell,
)
from taggants.sweep.results import SweepResults


def cells_table(results: SweepResults) -> Table:
    """One row for each cell; power with its exact interval at each level, the change of accuracy in points with its own.

    Fits 80 columns with three levels.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("cell\nvictims", overflow="fold", min_width=7)
    for heading in ("budget\nimages", "PSNR\ndB", *(f"power at\n{alpha:g}" for alpha in results.alphas)):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("median\nlog10 p", "change\nof acc.", "sample\nsteps"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cell in results.cells:
        found = cell_power(cell, results.alphas)
        change, log10_p = found.accuracy_change, found.log10_p
        table.add_row(
            f"{cell.name}\n{len(cell.victims)}{', stopped' if cell.stopped else ''}",
            f"{cell.budget:.2%}\n{cell.num_signed}",
            f"{cell.psnr_db:.1f}",
            *(f"{power.count}/{power.total}\n{power.low:.2f}-{power.high:.2f}" for power in found.power),
            "" if log10_p is None else f"{log10_p.estimate:.1f}",
            "" if change is None else f"{100 * change.estimate:+.2f}{_plus_minus(change)}",
            f"{cell.sample_steps:,}",
        )
    return table


def false_positives_text(results: SweepResults) -> str:
    """Controls detected, for each number of keys at each level."""
    lines = ["False positives among distinct controls, which all answer the same nested keys (95% exact interval)"]
    for found in false_positives(results):
        keys = "all numbers of keys" if found.num_keys is None else f"{found.num_keys} keys"
        within = "within" if found.contains_alpha else "NOT within"
        lines.append(f"  {keys}, alpha {found.alpha:g}: {_share(found.rate)}; alpha is {within} the interval")
    return "\n".join(lines)


def recommendation_text(results: SweepResults) -> str:
    """Which cell to take at each level, and what twice its keys would bring."""
    lines = [f"Cheapest cell with power {results.wanted_power:g} (fewest sample-steps, then fewest signed images)"]
    for alpha in results.alphas:
        found = recommend(results, alpha)
        certain = found.certain or f"none (with {found.victims_needed} victims, all detected, a cell can)"
        lines.append(f"  alpha {alpha:g}: by its estimate {found.likely or 'none'}; by its lower bound {certain}")
    strongest = strongest_cell(results.cells)
    if strongest is None:
        return "\n".join(lines)
    lines.append(f"Twice the keys of {strongest.name}, the cell of the lowest median p:")
    for alpha in results.alphas:
        try:
            expected = extrapolate_cell(
                strongest, results, num_keys=2 * strongest.num_keys, num_classes=results.num_classes, alpha=alpha
            )
            lines.append(f"  alpha {alpha:g}: {_expected(expected)}")
        except InputError as error:
            lines.append(f"  no extrapolation: {error}")
            break
    return "\n".join(lines)


def _expected(found: Extrapolation) -> str:
    power, log10_p = found.power, found.log10_p
    return (
        f"power {power.estimate:.2f} [{power.low:.2f}, {power.high:.2f}], log10 p {log10_p.estimate:.1f} "
        f"[{log10_p.low:.1f}, {log10_p.high:.1f}], {found.sureness}"
    )


def _plus_minus(found: Mean) -> str:
    return "" if found.half_width is None else f"\n±{100 * found.half_width:.2f}"


def _share(found: Proportion) -> str:
    return f"{found.count}/{found.total} [{found.low:.2f}, {found.high:.2f}]"
