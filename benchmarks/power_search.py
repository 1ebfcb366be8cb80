"""What gives power: changes of one configuration side by side, same keys and same seeds, as a table.

    TAGGANTS_DATA=/path/to/data python benchmarks/power_search.py benchmarks/power_search.yaml
    ... --rows base "random images" only these, for instance one half in each of two shells
    ... --most-victims 0            crafting and transfer only: minutes a row

The file names a preset, `settings` on top of it, `kinds` of models, how many `victims` of which kind to train, and `rows`:
settings on top of those, and other victims where they differ. "gain on KIND" is what signing adds to the alignment on a clean
control of that kind, which nothing was crafted on; it needs no victim. p: the exact rank statistic of each victim, hits in
brackets; referenced: the same against what the row's clean surrogates answer. Log-probability (of the key labels, mean over
keys) and accuracy: mean over victims, then of the control. Everything is found again in `output.root`, so a second call goes
on, and one over all rows prints the whole table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.special import log_softmax

from taggants import pipeline
from taggants.config import load_config
from taggants.detection import Certificate, referenced_p_value
from taggants.errors import FailedShards, InputError
from taggants.evaluation.transfer import Transfer, measure_transfer
from taggants.run import Run
from taggants.stages.check import check
from taggants.stages.craft import craft
from taggants.stages.evaluate import train_suspect
from taggants.stages.export import ExportResult, export
from taggants.stages.keys import prepare_keys
from taggants.stages.surrogates import train_surrogates
from taggants.stages.verify import verify
from taggants.suspects import CheckpointSuspect
from taggants.training.job import TrainedModel, load_trained


@dataclass(frozen=True)
class Row:
    """settings: on top of the search's. victims: how many to train, by kind."""

    name: str
    settings: tuple[str, ...]
    victims: Mapping[str, int]


@dataclass(frozen=True)
class Search:
    """kinds: settings of evaluation.training, by kind."""

    preset: str
    settings: tuple[str, ...]
    kinds: Mapping[str, tuple[str, ...]]
    rows: tuple[Row, ...]

    def run(self, row: Row, kind: str, *, as_the_kind: bool = False) -> Run:
        """as_the_kind: with controls of the plain kind, however the row trains its victims."""
        own = [s for s in row.settings if not (as_the_kind and s.startswith("evaluation."))]
        return Run(load_config(self.preset, [*self.settings, *self.kinds[kind], *own, "execution.pool=inline"]))


def read_search(path: str) -> Search:
    """Raises InputError where a row names no kind of the file."""
    tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    kinds = {name: tuple(settings) for name, settings in tree["kinds"].items()}
    rows = []
    for name, row in tree["rows"].items():
        victims = row.get("victims", tree["victims"])
        unknown = sorted(set(victims) - set(kinds))
        if unknown:
            raise InputError(f"row {name!r} trains victims of kind {unknown[0]!r}; the file knows {', '.join(kinds)}")
        rows.append(Row(name, tuple(row.get("settings", ())), victims))
    return Search(tree["preset"], tuple(tree["settings"]), kinds, tuple(rows))


@dataclass(frozen=True)
class Tested:
    """log_probability: that the model gives to the key labels, mean over keys, in nats; it moves before ranks do.

    p_referenced: against the row's clean surrogates.
    """

    model: TrainedModel
    certificate: Certificate
    log_probability: float
    p_referenced: float


@dataclass(frozen=True)
class Outcome:
    """transfers: to a control of each kind. victims, controls: tested ones, of the kinds of the row's victims."""

    export: ExportResult
    transfers: dict[str, Transfer]
    controls: dict[str, Tested]
    victims: dict[str, list[Tested]]


def search_row(search: Search, row: Row, most_victims: int) -> Outcome:
    """Crafts the row, measures its transfer to a control of each kind, and trains its victims; what is done is found."""
    run = search.run(row, next(iter(search.kinds)))
    check(run)
    run.write_config()
    prepare_keys(run)
    surrogates, plan = pipeline.prepare(run)
    drive = craft(run, plan, surrogates)
    if drive.failed:
        raise FailedShards(f"shards failed for good: {drive.failed}")
    exported = export(run, plan)
    transfers = {}
    for kind in search.kinds:
        control = train_suspect(search.run(row, kind, as_the_kind=True), "control", 0)
        transfers[kind] = measure_transfer(run, plan, load_trained(run.models, control))
    clean = search.run(replace(row, settings=(*row.settings, "surrogate.retrainings=0")), next(iter(search.kinds)))
    references = [
        CheckpointSuspect(run.models.uri_of(surrogate.path)).answers(run.keys.images)
        for surrogate in train_surrogates(clean)
    ]
    victims, controls = {}, {}
    for kind, count in row.victims.items():
        if num_victims := min(count, most_victims):
            of_kind = search.run(row, kind)
            victims[kind] = [tested(of_kind, "victim", index, references) for index in range(num_victims)]
            controls[kind] = tested(of_kind, "control", 0, references)
    return Outcome(exported, transfers, controls, victims)


def tested(run: Run, role: str, index: int, references: Sequence[NDArray[np.float64]]) -> Tested:
    model = train_suspect(run, role, index)
    suspect = CheckpointSuspect(run.models.uri_of(model.path), model.path.partition("/")[0])
    certificate = verify(run, suspect)
    scores, labels = suspect.answers(run.keys.images), run.keys.labels
    of_labels = log_softmax(scores, axis=1)[range(len(labels)), labels]
    return Tested(model, certificate, float(of_labels.mean()), referenced_p_value(scores, labels, references))


def p_values(models: Sequence[Tested]) -> str:
    return ", ".join(f"{m.certificate.p_values['rank']:.1e} ({m.certificate.num_hits})" for m in models)


def table(search: Search, outcomes: Mapping[str, Outcome]) -> str:
    """One line a row and kind of victim; rows without victims of a kind show their transfer alone."""
    head = ["row", "alignment", *(f"gain on {kind}" for kind in search.kinds), "PSNR"]
    head += [
        "victims",
        "p (hits)",
        "referenced p",
        "control p (hits)",
        "its referenced p",
        "log-probability",
        "accuracy",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, outcome in outcomes.items():
        gains = [f"{outcome.transfers[kind].gain:.3f}" for kind in search.kinds]
        crafted = [name, f"{outcome.export.alignment:.3f}", *gains, f"{outcome.export.quality.psnr_db:.1f}"]
        for kind, models in outcome.victims.items() or [("none", [])]:
            cells = [""] * 6
            if models:
                control = outcome.controls[kind]
                cells = [p_values(models), ", ".join(f"{model.p_referenced:.1e}" for model in models)]
                cells += [p_values([control]), f"{control.p_referenced:.1e}"]
                cells.append(f"{fmean(m.log_probability for m in models):.1f}, {control.log_probability:.1f}")
                cells.append(f"{fmean(m.model.accuracy for m in models):.3f}, {control.model.accuracy:.3f}")
            lines.append("| " + " | ".join([*crafted, kind, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("search", help="YAML file, see benchmarks/power_search.yaml")
    parser.add_argument("--rows", nargs="+", help="names; default all")
    parser.add_argument("--most-victims", type=int, default=100, help="of each kind in each row")
    given = parser.parse_args()
    search = read_search(given.search)
    unknown = sorted(set(given.rows or ()) - {row.name for row in search.rows})
    if unknown:
        sys.exit(f"no row {unknown[0]!r}; {given.search} has {', '.join(row.name for row in search.rows)}")
    outcomes: dict[str, Outcome] = {}
    failed: dict[str, str] = {}
    for row in search.rows:
        if given.rows is None or row.name in given.rows:
            try:
                outcomes[row.name] = search_row(search, row, given.most_victims)
            except (FailedShards, InputError) as error:
                failed[row.name] = str(error)
                continue
            print("\n" + table(search, {row.name: outcomes[row.name]}) + "\n", flush=True)
    print(table(search, outcomes))
    if failed:
        sys.exit("\n".join(f"row {name!r} failed: {reason}" for name, reason in failed.items()))


if __name__ == "__main__":
    main()
