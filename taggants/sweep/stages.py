"""The stages of a sweep; each reads what is done and does the rest. What is shared comes first, then cell by cell.

output root/  <config hash>/ ...               the run folder of each cell
              models/  scores/  crafted/       shared by all runs
              sweeps/<sweep hash>/config.json  cells/<name>.json  crafting/<config hash>.json  tune-<n>/  sweep.json
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from taggants import pipeline
from taggants.config import Config
from taggants.crafting.driver import DriveResult
from taggants.crafting.status import STATUS_PATH, Status
from taggants.detection import software_versions
from taggants.errors import FailedShards, InputError
from taggants.reporting.progress import say, stage
from taggants.run import Run
from taggants.stages.check import check
from taggants.stages.craft import craft
from taggants.stages.crafting_settings import optimisation_of
from taggants.stages.evaluate import suspect_job, train_suspect
from taggants.stages.export import export
from taggants.stages.keys import prepare_keys
from taggants.stages.questions import own_reference_jobs, record_signing
from taggants.stages.verify import certificate_path, verify
from taggants.storage import Root
from taggants.suspects import CheckpointSuspect
from taggants.sweep.cells import CellSpec, crafted_together, distinct_runs, expand, sweep_hash
from taggants.sweep.results import Cell, SweepResults, Trained
from taggants.training.job import TrainedModel, TrainingJob
from taggants.training.ray_trainer import run_trainings

_CELL = TypeAdapter(Cell)


class Sweep:
    """A configured sweep: its cells and its folder.

    Raises:
        InputError: a cell is not a valid configuration, or trains its models on several workers.
    """

    def __init__(self, config: Config) -> None:
        if config.evaluation.training.num_workers > 0:
            raise InputError(
                f"evaluation.training.num_workers = {config.evaluation.training.num_workers} but a sweep trains each model in "
                "one process, and several models side by side; set it to 0"
            )
        if config.evaluation.training.loader == "ray":
            raise InputError(
                "evaluation.training.loader = ray but the models that a sweep trains side by side leave no CPU to read for "
                "them; set it to memory or torch"
            )
        self.config = config
        self.cells = expand(config)
        self.hash = sweep_hash(self.cells)
        self.output = Root(config.output.root)
        self.root = self.output.child(f"sweeps/{self.hash}")

    @cached_property
    def first_run(self) -> Run:
        """The run of the cell with most keys."""
        return Run(distinct_runs(self.cells)[0].config)

    def record_path(self, cell_name: str) -> str:
        return f"cells/{cell_name}.json"

    def missing(self) -> list[CellSpec]:
        """Returns the cells without a record."""
        recorded = set(self.root.list("cells"))
        return [cell for cell in self.cells if self.record_path(cell.name) not in recorded]

    def read_cell(self, cell_name: str) -> Cell:
        """Returns the record of a finished cell.

        Raises:
            InputError: there is none, or it is damaged.
        """
        path = self.record_path(cell_name)
        try:
            return _CELL.validate_python(self.root.read_json(path))
        except ValidationError:
            raise InputError(
                f"{self.root.uri_of(path)} is damaged; delete it, and run the same command again to make it"
            ) from None


def register(sweep: Sweep) -> None:
    """Creates the key file with the most keys, and registers the test of every run, before any work.

    Raises:
        InputError: a run does not fit its data, or the key file.
    """
    cells = distinct_runs(sweep.cells)
    # Most keys first, for the key file; and once more at the end, for the picture of all keys beside it.
    for cell in [*cells, cells[0]]:
        run = Run(cell.config)
        check(run)
        prepare_keys(run)
        run.write_config()
    sweep.root.write_json(
        "config.json",
        {"config": sweep.config.model_dump(mode="json"), "cells": {c.name: c.config.hash for c in sweep.cells}},
    )


def craft_shared(sweep: Sweep) -> list[DriveResult]:
    """Trains the surrogates and crafts, on the configured pool, the cell with most keys of each group that still has work.

    The other cells of a group find its shards. Returns what the driver did for each; the caller looks for failed shards.
    """
    missing = {cell.name for cell in sweep.missing()}
    drives = []
    for group in crafted_together(sweep.cells):
        if not any(cell.name in missing for cell in group):
            continue
        run = Run(group[0].config)
        surrogates, plan = pipeline.prepare(run)
        _note_speed(sweep, run)  # of a run that was killed
        if len(run.folder.read_commits()) == len(plan.shards):  # actors take seconds to start
            continue
        say(f"sweep: crafting {run.config.keys.num_keys} keys for {', '.join(cell.name for cell in group)}")
        drives.append(craft(run, plan, surrogates))
        _note_speed(sweep, run)
    return drives


@dataclass(frozen=True)
class _Speed:
    """The speed of crafting, as measured over so many sample-steps."""

    sample_steps: int
    worker_seconds_per_sample_step: float


_SPEED = TypeAdapter(_Speed)
_STATUS = TypeAdapter(Status)
_T = TypeVar("_T")


def _note_speed(sweep: Sweep, run: Run) -> None:
    """Keeps what the run's status says of its speed, if it crafted more than when that was done before."""
    status = _read_or_none(_STATUS, run.root, STATUS_PATH)
    if status is None or not status.sample_steps_per_s:
        return
    path = f"crafting/{run.config.hash}.json"
    known = _read_or_none(_SPEED, sweep.root, path)
    if known is not None and known.sample_steps >= status.sample_steps:
        return
    execution = run.config.execution
    num_workers = min(execution.num_workers, status.num_shards) if execution.pool == "ray" else 1
    speed = _Speed(status.sample_steps, num_workers / status.sample_steps_per_s)
    sweep.root.write_json(path, _SPEED.dump_python(speed))


def _read_or_none(adapter: TypeAdapter[_T], root: Root, path: str) -> _T | None:
    """What a file says of speed; None where it is missing or damaged, since nothing else depends on it."""
    try:
        return adapter.validate_python(root.read_json(path))
    except (InputError, ValidationError):
        return None


def _seconds_per_sample_step(sweep: Sweep, cell: CellSpec) -> float:
    """Returns the speed of the group's crafting; the mean of all groups where this one found everything done, 0 where all did."""
    group = next(group for group in crafted_together(sweep.cells) if cell in group)
    paths = set(sweep.root.list("crafting"))
    own = f"crafting/{group[0].config.hash}.json"
    speeds = [_read_or_none(_SPEED, sweep.root, path) for path in ([own] if own in paths else sorted(paths))]
    known = [speed.worker_seconds_per_sample_step for speed in speeds if speed is not None]
    return float(np.mean(known)) if known else 0.0


def train_controls(sweep: Sweep) -> None:
    """Trains every control and reference that is not trained yet, side by side; all cells with one kind of victim share the
    controls, all with one question the references.
    """
    jobs: dict[str, TrainingJob] = {}
    for cell in sweep.missing():
        run = Run(cell.config)
        controls = [suspect_job(run, "control", index) for index in range(sweep.config.sweep.num_controls)]
        beside = [] if cell.config.surrogate.num_workers else own_reference_jobs(run)
        jobs |= {job.identity: job for job in (*controls, *beside)}
    if not jobs:
        return
    with stage("train controls and references", len(jobs), "models") as advance:
        run_trainings(
            list(jobs.values()),
            sweep.first_run.models,
            num_gpus=sweep.config.evaluation.gpus_per_model,
            on_trained=lambda done: advance(done, ""),
        )


@dataclass(frozen=True)
class Standing:
    """How a cell stands after a victim. power: share detected at the registered alpha, so far."""

    num_victims: int
    power: float
    median_log10_p: float
    accuracy: float


def run_cell(sweep: Sweep, cell: CellSpec, on_victim: Callable[[Standing], None]) -> Cell:
    """Exports the cell's signed data, trains and tests its victims and controls, and writes its record.

    Everything is done in this process; what is crafted or trained already is found. A finished cell is read.

    Raises:
        FailedShards: a shard failed for good.
        InputError: as the stages of the pipeline.
    """
    if sweep.root.exists(sweep.record_path(cell.name)):
        return sweep.read_cell(cell.name)
    inline = cell.config.execution.model_copy(update={"pool": "inline"})
    run = Run(cell.config.model_copy(update={"execution": inline}))
    surrogates, plan = pipeline.prepare(run)
    drive = craft(run, plan, surrogates)
    if drive.failed:
        shard, reason = sorted(drive.failed.items())[0]
        raise FailedShards(
            f"shard {shard} of cell {cell.name} failed for good: {reason}; fix the cause and start again"
        )
    exported = export(run, plan)
    record_signing(run)
    config = sweep.config.sweep
    controls = [_tested(sweep, run, "control", index) for index in range(config.num_controls)]
    victims: list[Trained] = []
    stopped = None
    for index in range(config.num_victims):
        victims.append(_tested(sweep, run, "victim", index))
        on_victim(_standing(victims, cell.config.detection.alpha))
        if config.stop_hopeless and index + 1 == config.stop_after < config.num_victims:
            least = min(victim.p_value for victim in victims)
            if least > config.stop_above:
                stopped = f"the first {index + 1} victims all had p > {config.stop_above:g} (least {least:.2g})"
                break
    optimisation = optimisation_of(cell.config, run.model_size[1])
    num_surrogates = sum(len(surrogate.checkpoints) for surrogate in surrogates)
    craftings = 1 + cell.config.surrogate.retrainings
    per_image = optimisation.sample_steps_per_image(num_surrogates)
    sample_steps = craftings * round(cell.config.crafting.optimised_share * exported.num_taggants) * per_image
    record = Cell(
        name=cell.name,
        images_per_key=exported.num_taggants // cell.config.keys.num_keys,
        num_keys=cell.config.keys.num_keys,
        epsilon=cell.config.crafting.epsilon,
        engine=cell.config.crafting.engine,
        surrogate="+".join(dict.fromkeys(training.model for training in cell.config.surrogate.trainings)),
        victim=cell.config.evaluation.training.model,
        recipe=cell.config.evaluation.training.recipe,
        num_images=run.index.num_rows,
        settings=cell.settings,
        run=cell.config.hash,
        alignment=exported.alignment,
        psnr_db=exported.quality.psnr_db,
        ssim=exported.quality.ssim,
        lpips=exported.quality.lpips,
        sample_steps=sample_steps,
        crafting_seconds=sample_steps * _seconds_per_sample_step(sweep, cell),
        victims=tuple(victims),
        controls=tuple(controls),
        stopped=stopped,
    )
    sweep.root.write_json(sweep.record_path(cell.name), _CELL.dump_python(record, mode="json"))
    return record


def _tested(sweep: Sweep, run: Run, role: str, index: int) -> Trained:
    """Returns a model, trained now or found, with its certificate."""
    model: TrainedModel = train_suspect(run, role, index)
    name = model.path.partition("/")[0]
    certificate = verify(run, CheckpointSuspect(run.models.uri_of(model.path), name))
    return Trained(
        name=name,
        index=index,
        accuracy=model.accuracy,
        num_hits=certificate.num_hits,
        p_value=certificate.p_value,
        certificate=f"{run.config.hash}/{certificate_path(run, certificate)}",
        seconds=model.seconds,
        worst_class_accuracy=model.metrics.worst_class_accuracy,
    )


def _standing(victims: Sequence[Trained], alpha: float) -> Standing:
    p_values = [victim.p_value for victim in victims]
    return Standing(
        num_victims=len(victims),
        power=float(np.mean([p <= alpha for p in p_values])),
        median_log10_p=float(np.median([math.log10(p) for p in p_values])),
        accuracy=float(np.mean([victim.accuracy for victim in victims])),
    )


def collect(sweep: Sweep, command: str) -> SweepResults:
    """Returns and writes the whole, once every cell has its record.

    Raises:
        InputError: a record is missing or damaged.
    """
    run = sweep.first_run
    config: dict[str, Any] = sweep.config.model_dump(mode="json")
    results = SweepResults(
        config=config,
        command=command,
        alphas=tuple(sorted(sweep.config.sweep.alphas, reverse=True)),
        wanted_power=sweep.config.sweep.wanted_power,
        statistic=sweep.config.detection.statistic,
        num_classes=run.index.num_classes,
        dataset_fingerprint=run.index.fingerprint,
        software=software_versions(),
        created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        cells=tuple(sweep.read_cell(cell.name) for cell in sweep.cells),
        top_k=sweep.config.detection.top_k,
    )
    sweep.root.write_json("sweep.json", results.to_json())
    return results
