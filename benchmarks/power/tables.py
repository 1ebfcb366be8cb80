"""Records of the power bench as tables, for Markdown and for the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from statistics import fmean, median

from benchmarks.power.comparison import (
    COMPARED,
    Harm,
    accuracy_harm,
    compare,
    flip_harm,
    geometric_mean,
    pairs,
    uniformity,
)
from benchmarks.power.findability import IMAGE_TRAITS, TRAITS
from benchmarks.power.records import FLIP_LEVELS, PS, Record
from taggants.sweep.formatting import level, levels, percent
from taggants.sweep.power import proportion

ALPHAS = (1e-3, 1e-6)
NAMES = {"bare": "bare key", "question": "question", "own": "own references", "top_5": "top 5"}
_NOTHING = "\u2013"


@dataclass(frozen=True)
class Table:
    """name: an id. rows: as many texts as `head` has; the first `num_words` are names, the others figures."""

    name: str
    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_words: int = 2

    @property
    def groups(self) -> list[tuple[str, list[tuple[str, ...]]]]:
        """The rows that have their first text in common, one after the other, without it."""
        return [(first, [row[1:] for row in rows]) for first, rows in groupby(self.rows, key=itemgetter(0))]

    def markdown(self) -> str:
        lines = [self.head, ("---",) * len(self.head), *self.rows]
        shown = ("| " + " | ".join(text.replace("|", r"\|") for text in line) + " |" for line in lines)
        return "\n".join([f"### {self.title}", self.note, "", *shown])


def tables(records: Sequence[Record], baseline: str | None) -> list[Table]:
    """Returns all tables of at least one record; the comparison only where the baseline was measured."""
    found = [power_table(records), controls_table(records), harm_table(records), findability_table(records)]
    if baseline is not None and any(record.cell == baseline for record in records):
        found.insert(0, comparison_table(records, baseline))
    return [*found, draws_table(records)]


def comparison_table(records: Sequence[Record], baseline: str) -> Table:
    rows = []
    compared = compare(records, baseline)
    for cell in dict.fromkeys(one.cell for one in compared):
        own = [one for one in compared if one.cell == cell]
        for one in own:
            means = (_short(one.means[name]) for name in COMPARED)
            times = (_times(one.times_smaller[name]) for name in COMPARED)
            rows.append((cell, one.kind, f"{one.num_victims} ({one.num_draws})", *means, *times))
        if cell != baseline:
            overall = []
            for name in COMPARED:
                smaller = [one.times_smaller[name] for one in own]
                overall.append(f"{_times(geometric_mean(smaller))} (least {_times(min(smaller))})")
            rows.append((cell, f"mean over {len(own)}", "", *("" for _ in COMPARED), *overall))
    head = ("cell", "victim", "victims (draws)", *(f"p, {NAMES[name]}" for name in COMPARED))
    return Table(
        "comparison",
        f"Beside {baseline!r}",
        "Geometric means of p over victims and draws, and how many times smaller they are than the baseline's with the "
        "same kind of victim, over the draws that both have. Last line of a cell: geometric mean over kinds, and the least.",
        (*head, *(f"times smaller, {NAMES[name]}" for name in COMPARED)),
        tuple(rows),
    )


def power_table(records: Sequence[Record]) -> Table:
    tested = ("question", "own")
    head = ["cell", "victim", "victims", *(f"median log10 p, {NAMES[name]}" for name in PS)]
    head += [f"{NAMES[name]} at {level(alpha)}" for name in tested for alpha in ALPHAS]
    rows = []
    for (cell, kind), own in pairs(records).items():
        victims = [victim for record in own for victim in record.victims]
        row = [cell, kind, str(len(victims))]
        row += [f"{median(math.log10(getattr(victim, name)) for victim in victims):.1f}" for name in PS]
        for name in tested:
            for alpha in ALPHAS:
                found = proportion(sum(getattr(victim, name) <= alpha for victim in victims), len(victims))
                row.append(f"{found.count} of {found.total} [{percent(found.low)}, {percent(found.high)}]")
        rows.append(tuple(row))
    note = (
        "Over draws and victims. Share detected with its exact 95% interval (Clopper and Pearson), which takes victims for "
        "independent; those of one draw share keys and signed data."
    )
    return Table("power", "Power", note, tuple(head), tuple(rows))


def controls_table(records: Sequence[Record]) -> Table:
    rows = [
        (NAMES[one.name], str(one.num_values), str(one.num_draws), _short(one.smaller), _short(one.two_sided))
        for one in uniformity(records)
    ]
    note = (
        "Kolmogorov-Smirnov test of all p-values of controls. It takes them for independent, but only draws are: those of"
        " one draw are of the same labels in all cells, and of models with like habits. A control with the same keys in "
        "several cells counts once. Ties, many from five labels alone, make the two-sided p too small."
    )
    head = ("test", "p-values", "draws", "against smaller p", "two-sided")
    return Table("controls", "Controls", note, head, tuple(rows), num_words=1)


def harm_table(records: Sequence[Record]) -> Table:
    head = ["cell", "victim", "clean models", "accuracy of clean", "of victims", "within"]
    for flip_level in FLIP_LEVELS:
        head += [f"flips at {flip_level}: clean", "victims", "within"]
    rows = []
    for (cell, kind), own in pairs(records).items():
        accuracy = accuracy_harm(own)
        row = [cell, kind, str(accuracy.num_clean), *_harm_texts(accuracy)]
        for flip_level in FLIP_LEVELS:
            row += _harm_texts(flip_harm(own, flip_level))
        rows.append(tuple(row))
    note = (
        "Clean models are the controls and the references of the victim's kind: their mean, and the 95% prediction "
        "interval of one more (Student's t); within: victims in it. Of unharmed victims one in twenty is outside. Flips: "
        "share of test images of other classes that a key's pattern, so many levels strong, turns to the key's label. Each "
        "draw has its own interval of flips; the widest is shown."
    )
    return Table("harm", "Harm", note, tuple(head), tuple(rows))


def _harm_texts(harm: Harm) -> tuple[str, str, str]:
    if harm.interval is None:
        return f"{harm.clean:.3f}", f"{harm.victims:.3f}", _NOTHING
    low, high = (min(1.0, max(0.0, end)) for end in harm.interval)
    return f"{harm.clean:.3f} [{low:.3f}, {high:.3f}]", f"{harm.victims:.3f}", f"{harm.within} of {harm.num_victims}"


def findability_table(records: Sequence[Record]) -> Table:
    head = ("cell", "victim", "epsilon", "images a key", "PSNR, dB", "SSIM", "LPIPS", *TRAITS)
    rows = []
    for (cell, kind), own in pairs(records).items():
        lpips = [record.lpips for record in own if record.lpips is not None]
        row = [cell, kind, levels(own[0].epsilon), str(own[0].images_per_key)]
        row += [f"{fmean(r.psnr_db for r in own):.1f}", f"{fmean(r.ssim for r in own):.3f}"]
        row.append(f"{fmean(lpips):.3f}" if lpips else _NOTHING)
        for name in TRAITS:
            sides = ([getattr(record.findability[name], side) for record in own] for side in ("signed", "reference"))
            row.append("{:.2f} ({:.2f})".format(*map(fmean, sides)))
        rows.append(tuple(row))
    note = (
        "AUC of traits by which somebody who knows the method but not the secret may look for signed images among all of "
        f"their classes: 0.5 finds none. In brackets, for {', '.join(IMAGE_TRAITS)}: the originals with Gaussian noise of "
        "the same PSNR; for the others, which take a model that was trained on the data: the originals on controls, which"
        " is how far the chosen images stood out before they were signed."
    )
    return Table("findability", "Findability", note, head, tuple(rows))


def draws_table(records: Sequence[Record]) -> Table:
    head = ["cell", "victim", "draw", *(NAMES[name] for name in PS), "question of controls", "own of controls"]
    head += ["flips (controls)", "accuracy (controls)", "alignment", "gain"]
    rows = []
    for r in records:
        row = [r.cell, r.kind, str(r.draw)]
        row += [_listed(getattr(victim, name) for victim in r.victims) for name in PS]
        row += [_listed(getattr(control, name) for control in r.controls) for name in ("question", "own")]
        both = (r.victims, r.controls)
        rates = [[fmean(m.flips[i] for m in models) for i in range(len(FLIP_LEVELS))] for models in both]
        row.append(", ".join(f"{signed:.3f} ({clean:.3f})" for signed, clean in zip(*rates, strict=True)))
        row.append("{:.3f} ({:.3f})".format(*(fmean(m.accuracy for m in models) for models in both)))
        row += [_NOTHING if r.alignment is None else f"{r.alignment:.3f}", f"{r.gain:.3f}"]
        rows.append(tuple(row))
    note = "p of each victim, flips at " + ", ".join(map(str, FLIP_LEVELS)) + " levels, means of accuracies."
    return Table("draws", "Every draw", note, tuple(head), tuple(rows))


def _listed(values: Iterable[float]) -> str:
    return ", ".join(map(_short, values))


def _short(p: float) -> str:
    return f"{p:.2g}" if p >= 0.01 else f"{p:.1e}".replace("e-0", "e-")


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if 100 <= ratio < 1e6 else f"{ratio:.2g}".replace("e+0", "e").replace("e+", "e")
