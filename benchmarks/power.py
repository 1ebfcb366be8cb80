"""What gives power, and at what harm: cells of one file side by side, by the registered question, as one table.

    TAGGANTS_DATA=/path/to/data python benchmarks/power.py benchmarks/power.yaml --cell "colour gratings, imprint"
    ... --set output.root=/elsewhere/runs         settings on top of the file's
    ... --table                                   only the table of the cells that are done; without --cell: all cells

The file names a `preset`, `settings` on top of it, `kinds` of models (settings of evaluation.training), how many `victims` of
which kind to train, how many `controls` and `references` of each kind, `draws` of keys, and `cells`: settings on top of those,
and other victims or draws where they differ. A draw is a number, which stands for a public secret: keys and labels that everybody
can repeat, worthless as evidence, with the same labels in all cells; without draws the configured keys are taken.

Models, crafted shards and scores are found again in `output.root`, so a second call goes on, and cells share what they can. What
was measured of a cell lies in `output.root`/power/, and is measured again only if the cell's settings changed.

Columns. `bare`: exact rank statistic on the keys' own images. `question`: the registered question with its references; `own`: the
same with clean models of the victim's kind as references instead; `top_5`: that, from the five best labels alone. `flips`: share
of natural images (not of the key's class) whose answer becomes the key's label, when L levels of the key's pattern are laid over
them, for L = 16, 32, 64; of controls in brackets. `gain`: what signing adds to the alignment on a control of the kind. The last
columns: AUC of the traits in findability.py, in brackets that of noise of the same PSNR.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy.stats import binomtest, kstest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.findability import TRAITS, Findability, findability
from taggants import pipeline
from taggants.config import Config, load_config
from taggants.crafting.methods import key_pattern
from taggants.data.source import read_for_models
from taggants.detection import Evidence, exact_p_value, key_ranks, rank_p_value
from taggants.detection.question import Question, balanced_covers
from taggants.errors import FailedShards, InputError
from taggants.evaluation.transfer import measure_transfer
from taggants.identity import identity
from taggants.keys import create_key_file
from taggants.reporting.progress import say
from taggants.run import Run
from taggants.seeds import hash_seed
from taggants.stages.check import check
from taggants.stages.craft import craft
from taggants.stages.evaluate import train_suspect
from taggants.stages.export import export
from taggants.stages.key_choice import chooser_of
from taggants.stages.keys import prepare_keys
from taggants.stages.model_training import train_model, training_job
from taggants.stages.questions import reference_jobs
from taggants.storage import Root
from taggants.suspects import Answers, question_evidence
from taggants.training.job import TrainedModel, load_trained
from taggants.training.loop import predict_scores

FLIP_LEVELS = (16, 32, 64)
PS = ("bare", "question", "own", "top_5")
_NUM_FLIP_COVERS, _TOP = 100, 5
_VERSION = 2  # of what is measured: raised, models are kept and asked again


@dataclass(frozen=True)
class Cell:
    """settings: on top of the bench's. victims: how many to train, by kind. draw: of keys; 0: as configured."""

    name: str
    settings: tuple[str, ...]
    victims: Mapping[str, int]
    draw: int


@dataclass(frozen=True)
class Bench:
    """kinds: settings of evaluation.training, by kind. controls, references: clean models of each kind."""

    preset: str
    settings: tuple[str, ...]
    kinds: Mapping[str, tuple[str, ...]]
    controls: int
    references: int
    cells: tuple[Cell, ...]

    def config(self, cell: Cell, kind: str) -> Config:
        settings = [*self.settings, *self.kinds[kind], *cell.settings, "execution.pool=inline"]
        config = load_config(self.preset, settings)
        if cell.draw:
            look = [section.model_dump(mode="json", exclude={"root", "name"}) for section in (config.keys, config.data)]
            name = f"power-{identity(look)[:8]}-{cell.draw}"
            public = {"name": name, "root": f"{config.output.root}/power/keys"}
            config = config.model_copy(update={"keys": config.keys.model_copy(update=public)})
        return config


def read_bench(path: str, settings: Sequence[str]) -> Bench:
    """Returns the cells of a file, one for each draw.

    Raises:
        InputError: a cell names a kind or a field that the file's head does not know.
    """
    tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    kinds = {name: tuple(own) for name, own in tree["kinds"].items()}
    cells = []
    for name, given in tree["cells"].items():
        unknown = sorted((set(given) - {"settings", "victims", "draws"}) | (set(given.get("victims", ())) - set(kinds)))
        if unknown:
            raise InputError(
                f"cell {name!r} names {unknown[0]!r}; it has settings, victims of {', '.join(kinds)}, draws"
            )
        for draw in given.get("draws", tree.get("draws", [0])):
            victims = given.get("victims", tree["victims"])
            cells.append(Cell(name, tuple(given.get("settings", ())), victims, int(draw)))
    if min(tree["controls"], *(count for cell in cells for count in cell.victims.values())) < 1:
        raise InputError(
            f"{path} asks for no control or no victim of a kind; ask for one at least, or leave the kind out"
        )
    shared = (*tree["settings"], *settings)
    return Bench(tree["preset"], shared, kinds, tree["controls"], tree.get("references", 0), tuple(cells))


@dataclass(frozen=True)
class Tested:
    """p-values and flip rates of one model, see the module's text; a flip rate for each of FLIP_LEVELS, mean over keys."""

    name: str
    accuracy: float
    bare: float
    question: float
    own: float
    top_5: float
    flips: tuple[float, ...]


@dataclass(frozen=True)
class Record:
    """What was measured of one cell with one kind of victim. spec: identity of all settings it was measured with."""

    cell: str
    draw: int
    kind: str
    spec: str
    run: str
    epsilon: float
    images_per_key: int
    psnr_db: float
    ssim: float
    lpips: float | None
    alignment: float | None
    gain: float
    findability: dict[str, Findability]
    victims: tuple[Tested, ...]
    controls: tuple[Tested, ...]


_RECORD = TypeAdapter(Record)


class Exam:
    """The images that all models of one run are shown, and what they come to."""

    def __init__(self, run: Run) -> None:
        self.run = run
        question = run.registration.question
        if question is None:
            raise InputError("the bench needs a question; set fields of detection.question in the file's settings")
        self.question: Question = question
        size = run.config.data.image_size
        covers = read_for_models(run.sources[1], list(question.cover_ids), size)
        asked = [question.queries(key, covers) for key in run.keys.images]
        self.images = np.concatenate([covers, *asked, run.keys.images])
        labels = run.sources[1].index().labels
        ids = balanced_covers(labels, min(_NUM_FLIP_COVERS, len(labels)), run.index.num_classes)
        self.flip_covers = read_for_models(run.sources[1], list(ids), size)

    def scores(self, model: TrainedModel) -> NDArray[np.float64]:
        """Of all images; float64 [N, C]."""
        return _scores(load_trained(self.run.models, model), self.images)

    def p_question(self, scores: NDArray[Any], references: Sequence[NDArray[Any]], top: int | None = None) -> float:
        count = len(self.images) - len(self.run.keys.images)
        given = [table[:count] for table in (scores, *references)]
        if top is not None:
            given[0] = np.argsort(-given[0], axis=1, kind="stable")[:, :top]
        suspect, *compared = (Answers.of(table, count, self.run.index.num_classes) for table in given)
        evidence: Evidence = question_evidence(self.question, suspect, compared, self.run.keys.labels)
        return exact_p_value(np.array(evidence.table), evidence.positions)

    def p_bare(self, scores: NDArray[Any]) -> float:
        labels = self.run.keys.labels
        return rank_p_value(key_ranks(scores[-len(labels) :], labels), scores.shape[1])

    def flips(self, model: TrainedModel) -> tuple[float, ...]:
        network, labels = load_trained(self.run.models, model), self.run.keys.labels
        plain = _scores(network, self.flip_covers).argmax(axis=1)
        rates = []
        for levels in FLIP_LEVELS:
            shares = []
            for key, label in zip(self.run.keys.images, labels, strict=True):
                pattern = key_pattern(torch.from_numpy(key.copy())).numpy()
                laid = np.clip(np.rint(self.flip_covers + levels * pattern), 0, 255).astype(np.uint8)
                is_now = _scores(network, laid).argmax(axis=1) == label
                shares.append(float(is_now[plain != label].mean()))
            rates.append(fmean(shares))
        return tuple(rates)


def _scores(model: torch.nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return predict_scores(model, torch.from_numpy(images)).numpy().astype(np.float64)


def measure_cell(bench: Bench, cell: Cell, *, only_done: bool = False) -> list[Record]:
    """Crafts a cell, trains its victims, controls and references, and measures them; what is done is found.

    only_done: leave out what is not done.
    """
    made: dict[str, Any] = {}  # once for all kinds
    records = []
    for kind, num_victims in cell.victims.items():
        config = bench.config(cell, kind)
        numbers = [num_victims, bench.controls, bench.references, FLIP_LEVELS, cell.draw, _VERSION]
        spec = identity([config.hash, config.evaluation.training.model_dump(mode="json"), numbers])
        stored, path = Root(config.output.root).child("power"), f"{spec[:16]}.json"
        if only_done and not stored.exists(path):
            continue
        if not stored.exists(path):
            say(f"power: {cell.name}, draw {cell.draw}, {kind}, {time.strftime('%H:%M:%S')}")
            run = Run(config)
            if not made:
                made |= _crafted(run, cell)
            record = _measure(bench, cell, kind, spec, run, made)
            stored.write_json(path, asdict(record))
        records.append(_RECORD.validate_python(stored.read_json(path)))
    return records


def _crafted(run: Run, cell: Cell) -> dict[str, Any]:
    """The export, the exam and what the registered references answer."""
    check(run)
    run.write_config()
    path = f"{run.config.keys.name}.json"
    if cell.draw and not run.keys_root.exists(path):
        text = f"Data Taggants power benchmark, draw {cell.draw}: public, so worthless as evidence"
        create_key_file(run.keys_root, path, run.key_spec, hashlib.sha256(text.encode()).digest(), chooser_of(run))
    prepare_keys(run)
    surrogates, plan = pipeline.prepare(run)
    drive = craft(run, plan, surrogates)
    if drive.failed:
        raise FailedShards(f"shards failed for good: {drive.failed}")
    exported, exam = export(run, plan), Exam(run)
    registered = [exam.scores(train_model(run, job)) for job in reference_jobs(run)]
    ids = sorted(i for shard in plan.shards for i in shard.sample_ids)
    labels = run.index.labels
    others = np.setdiff1d(np.flatnonzero(np.isin(labels, run.keys.labels)), ids)
    size = run.config.data.image_size
    images = [read_for_models(run.sources[0], rows, size) for rows in (ids, others.tolist())]
    signed = read_for_models(run.sources[0].at(run.root.child("signed")), ids, size)
    found = findability(images[0], signed, images[1], labels[ids], labels[others])
    return {"plan": plan, "export": exported, "exam": exam, "registered": registered, "findability": found}


def _measure(bench: Bench, cell: Cell, kind: str, spec: str, run: Run, made: Mapping[str, Any]) -> Record:
    exam: Exam = made["exam"]
    controls = [train_suspect(run, "control", index) for index in range(bench.controls)]
    own = []
    for index in range(bench.references):
        job = training_job(
            run,
            f"reference-{index}",
            run.config.evaluation.training,
            run.sources[0],
            run.index.fingerprint,
            hash_seed(run.config.seed, 4, index),  # as `reference_jobs`, so that the two share models
        )
        own.append(exam.scores(train_model(run, job)))
    victims = [train_suspect(run, "victim", index) for index in range(cell.victims[kind])]

    def tested(model: TrainedModel) -> Tested:
        scores = exam.scores(model)
        return Tested(
            name=model.name,
            accuracy=model.accuracy,
            bare=exam.p_bare(scores),
            question=exam.p_question(scores, made["registered"]),
            own=exam.p_question(scores, own),
            top_5=exam.p_question(scores, own, _TOP),
            flips=exam.flips(model),
        )

    gain = measure_transfer(run, made["plan"], load_trained(run.models, controls[0])).gain if controls else float("nan")
    exported = made["export"]
    return Record(
        cell=cell.name,
        draw=cell.draw,
        kind=kind,
        spec=spec,
        run=run.config.hash,
        epsilon=run.config.crafting.epsilon,
        images_per_key=len(made["plan"].shards[0].sample_ids),
        psnr_db=exported.quality.psnr_db,
        ssim=exported.quality.ssim,
        lpips=exported.quality.lpips,
        alignment=exported.alignment,
        gain=gain,
        findability=made["findability"],
        victims=tuple(tested(model) for model in victims),
        controls=tuple(tested(model) for model in controls),
    )


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", metavar="FILE", help="YAML, see benchmarks/power.yaml")
    parser.add_argument("--cell", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--table", action="store_true", help="measure nothing: only what is done")
    given = parser.parse_args()
    bench = read_bench(given.bench, given.set)
    names = dict.fromkeys(cell.name for cell in bench.cells)
    unknown = sorted(set(given.cell or ()) - set(names))
    if unknown:
        sys.exit(f"no cell {unknown[0]!r}; {given.bench} has {', '.join(names)}")
    records: list[Record] = []
    failed: dict[str, str] = {}
    for cell in bench.cells:
        if given.cell is None or cell.name in given.cell:
            try:
                measured = measure_cell(bench, cell, only_done=given.table)
            except (FailedShards, InputError) as error:
                failed[cell.name] = str(error)
                continue
            records += measured
            if measured and not given.table:
                print("\n" + table(measured) + "\n", flush=True)
    if records:
        print(table(records))
    if failed:
        sys.exit("\n".join(f"cell {name!r} failed: {reason}" for name, reason in failed.items()))


if __name__ == "__main__":
    main()
