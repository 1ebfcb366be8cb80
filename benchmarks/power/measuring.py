"""Crafts a cell of the power bench, trains its models, and asks them."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from benchmarks.power.cells import Bench, Cell
from benchmarks.power.claims import claimed, train_models
from benchmarks.power.findability import Searched, image_findability, model_findability
from benchmarks.power.records import FLIP_LEVELS, RECORD, Clean, Record, Tested
from taggants import pipeline
from taggants.crafting.methods import key_pattern
from taggants.crafting.plan import Plan
from taggants.crafting.shard import read_lpips
from taggants.data.source import read_for_models
from taggants.detection import Evidence, exact_p_value, key_ranks, rank_p_value
from taggants.detection.question import Question, balanced_covers
from taggants.errors import FailedShards, InputError
from taggants.evaluation.transfer import measure_transfer
from taggants.export import read_signed
from taggants.identity import identity
from taggants.keys import create_key_file
from taggants.perturbation.perceptual import image_quality
from taggants.reporting.progress import say
from taggants.run import Run
from taggants.seeds import hash_seed
from taggants.stages.check import check
from taggants.stages.craft import craft
from taggants.stages.evaluate import suspect_job
from taggants.stages.export import export
from taggants.stages.key_choice import chooser_of
from taggants.stages.keys import prepare_keys
from taggants.stages.model_training import surrogate_jobs, training_job
from taggants.stages.questions import reference_jobs
from taggants.storage import Root
from taggants.suspects import Answers, question_evidence
from taggants.training.job import TrainedModel, load_trained
from taggants.training.loop import predict_scores

_NUM_FLIP_COVERS, _TOP = 100, 5
_VERSION = 4  # of what is measured: raised, models are kept and asked again


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


class Busy(Exception):
    """Another process is crafting the cell."""


def measure_cell(bench: Bench, cell: Cell, *, only_done: bool = False, wait: bool = True) -> list[Record]:
    """Crafts a cell, trains its victims, controls and references, and measures them; what is done is found.

    only_done: leave out what is not done. wait: for another process that is crafting the cell.

    Raises:
        Busy: there is one, and not `wait`.
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
                made |= _crafted(run, cell, wait)
            record = _measure(bench, cell, kind, spec, run, made)
            stored.write_json(path, asdict(record))
        try:
            found = RECORD.validate_python(stored.read_json(path))
        except ValidationError as error:
            raise InputError(f"{stored.uri_of(path)} is no record of a cell; delete it to measure it again") from error
        if found.lpips is None and not only_done and bench.lpips_weights is not None:
            found = replace(found, lpips=_lpips(Run(config), bench.lpips_weights, made))
            if found.lpips is not None:
                stored.write_json(path, asdict(found))
        records.append(replace(found, cell=cell.name, kind=kind))  # whatever it was called when it was measured
    return records


def _crafted(run: Run, cell: Cell, wait: bool) -> dict[str, Any]:
    """The export, the exam and what the registered references answer."""
    check(run)
    run.write_config()
    path = f"{run.config.keys.name}.json"
    with claimed(run.keys_root, run.config.keys.name):
        if cell.draw and not run.keys_root.exists(path):
            text = f"Data Taggants power benchmark, draw {cell.draw}: public, so worthless as evidence"
            create_key_file(run.keys_root, path, run.key_spec, hashlib.sha256(text.encode()).digest(), chooser_of(run))
        prepare_keys(run)
    train_models(run, surrogate_jobs(run))
    first = run
    while first.before_retraining is not None:  # which is signed, too, and may be another cell
        first = first.before_retraining
    with claimed(Root(run.config.output.root).child("power"), first.config.hash, wait=wait) as is_mine:
        if not is_mine:
            raise Busy
        surrogates, plan = pipeline.prepare(run)
        drive = craft(run, plan, surrogates)
        if drive.failed:
            raise FailedShards(f"shards failed for good: {drive.failed}")
        exported = export(run, plan)
    exam = Exam(run)
    registered = [exam.scores(model) for model in train_models(run, reference_jobs(run))]
    searched = _searched(run, plan)
    found = image_findability(searched)
    return {
        "plan": plan,
        "export": exported,
        "exam": exam,
        "registered": registered,
        "searched": searched,
        "found": found,
    }


def _searched(run: Run, plan: Plan) -> Searched:
    ids = sorted(i for shard in plan.shards for i in shard.sample_ids)
    labels, size = run.index.labels, run.config.data.image_size
    others = np.setdiff1d(np.flatnonzero(np.isin(labels, run.keys.labels)), ids)
    originals, unsigned = (read_for_models(run.sources[0], rows, size) for rows in (ids, others.tolist()))
    signed = read_for_models(run.sources[0].at(run.root.child("signed")), ids, size)
    return Searched(originals, signed, unsigned, labels[ids], labels[others])


def _lpips(run: Run, weights: str, made: dict[str, Any]) -> float | None:
    """Mean distance of the taggants from their originals, as the export measures it; None, and said, where it cannot be measured.

    made: of the same cell; what it has is not done again.
    """
    if "lpips" not in made:
        made["lpips"] = None
        try:
            network = read_lpips(weights)
            ids = sorted(i for shard in run.folder.read_plan().shards for i in shard.sample_ids)
            exported = read_signed(run.sources[0], run.root.child("signed"), ids)
            originals = [torch.from_numpy(image) for image in run.sources[0].read_sized(ids)]
            made["lpips"] = image_quality(originals, [torch.from_numpy(exported[i]) for i in ids], network).lpips
        except InputError as error:
            say(f"power: LPIPS of {run.root.uri} is left out: {error}")
    found: float | None = made["lpips"]
    return found


def _measure(bench: Bench, cell: Cell, kind: str, spec: str, run: Run, made: Mapping[str, Any]) -> Record:
    exam: Exam = made["exam"]
    jobs = [suspect_job(run, "control", index) for index in range(bench.controls)]
    jobs += [
        training_job(
            run,
            f"reference-{index}",
            run.config.evaluation.training,
            run.sources[0],
            run.index.fingerprint,
            hash_seed(run.config.seed, 4, index),  # as `reference_jobs`, so that the two share models
        )
        for index in range(bench.references)
    ]
    jobs += [suspect_job(run, "victim", index) for index in range(cell.victims[kind])]
    models = iter(train_models(run, jobs))
    controls, references, victims = (
        list(itertools.islice(models, count)) for count in (bench.controls, bench.references, cell.victims[kind])
    )
    own = [exam.scores(model) for model in references]

    def clean(model: TrainedModel) -> dict[str, Any]:
        return {"name": model.name, "accuracy": model.accuracy, "flips": exam.flips(model)}

    def tested(model: TrainedModel) -> Tested:
        scores = exam.scores(model)
        return Tested(
            **clean(model),
            bare=exam.p_bare(scores),
            question=exam.p_question(scores, made["registered"]),
            own=exam.p_question(scores, own),
            top_5=exam.p_question(scores, own, _TOP),
        )

    clean_networks = [load_trained(run.models, model) for model in controls]
    signed_networks = [load_trained(run.models, model) for model in victims]
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
        gain=measure_transfer(run, made["plan"], clean_networks[0]).gain,
        findability=made["found"] | model_findability(made["searched"], signed_networks, clean_networks),
        victims=tuple(tested(model) for model in victims),
        controls=tuple(tested(model) for model in controls),
        references=tuple(Clean(**clean(model)) for model in references),
    )
