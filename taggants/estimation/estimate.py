"""Time, memory, storage requests and cost of the work that is left, from timed units."""

from __future__ import annotations

import math
import os
import resource
from dataclasses import asdict, dataclass
from typing import Any

import torch

from taggants.config import Config, TrainingConfig
from taggants.data.layouts import layout_of
from taggants.estimation.timing import Timings
from taggants.estimation.work import Training, Work
from taggants.run import Run
from taggants.storage.store import PIECE_BYTES

_RAY_START_S = 15.0


@dataclass(frozen=True)
class Stage:
    """seconds: wall clock, None where its device is not on this machine. device_hours: summed over workers.

    note: what there is to do, in words.
    """

    name: str
    note: str
    device: str
    seconds: float | None
    device_hours: float | None


@dataclass(frozen=True)
class Estimate:
    """memory_bytes: of one process at its peak, on the CPU. get_requests, put_requests: of storage, as S3 counts them."""

    work: Work
    stages: tuple[Stage, ...]
    memory_bytes: int
    get_requests: int
    put_requests: int

    @property
    def seconds(self) -> float | None:
        """Of all stages; None if one is not known."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    @property
    def gpu_hours(self) -> float | None:
        hours = [stage.device_hours for stage in self.stages if stage.device == "cuda"]
        known = [value for value in hours if value is not None]
        return sum(known) if len(known) == len(hours) else None

    def cost(self, price: float) -> float | None:
        """Returns what the GPU-hours cost at a price for each; without GPUs, the hours of the machine."""
        if any(stage.device == "cuda" for stage in self.stages):
            return None if self.gpu_hours is None else price * self.gpu_hours
        return None if self.seconds is None else price * self.seconds / 3600

    def to_json(self, price: float | None) -> dict[str, Any]:
        summary = {"seconds": self.seconds, "gpu_hours": self.gpu_hours}
        return asdict(self) | summary | {"price": price, "cost": None if price is None else self.cost(price)}


def estimate(run: Run, work: Work, timings: Timings) -> Estimate:
    """Returns what the work that is left takes, on as many workers side by side as the configuration and this machine allow."""
    config = run.config
    trainings = [training for training in work.trainings if not training.is_done]
    named = {role: [t for t in trainings if t.name.startswith(role)] for role in ("surrogate", "reference")}
    suspects = [training for training in trainings if not training.name.startswith(tuple(named))]
    stages = []

    def train(title: str, models: list[Training], section: TrainingConfig, unit_s: float | None, lanes: int) -> None:
        if not models:
            return
        lanes = min(lanes, len(models))
        waves = math.ceil(len(models) / lanes)
        images = sum(work.images * training.epochs for training in models) * waves * lanes / len(models)
        read_s = waves * _read_once_s(section, work, timings)
        lanes *= max(1, section.num_workers)
        stages.append(_stage(f"train {title}", _models(models), section.device, images, unit_s, lanes, read_s))

    train("surrogates", named["surrogate"], config.surrogate, timings.surrogate_s, 1)
    if work.candidates and not work.shards_done and not work.is_exported:
        lanes = _crafting_lanes(config) if config.execution.pool == "ray" else 1
        count = work.candidates * config.surrogate.num_models
        note = f"about {work.candidates:,} images"
        stages.append(
            _stage(
                "score candidates",
                note,
                config.crafting.device,
                count,
                timings.score_s,
                lanes,
                work.candidates * timings.read_s,
            )
        )
    if work.sample_steps_left:
        left = work.shards * work.rounds - work.shards_done
        lanes = min(_crafting_lanes(config), left)
        idle = math.ceil(left / lanes) * lanes / left  # of the last workers, while the others end
        note = f"{left} shards, {work.sample_steps_left:,} sample-steps"
        stages.append(
            _stage("craft", note, config.crafting.device, work.sample_steps_left * idle, timings.sample_step_s, lanes)
        )
    if not work.is_exported:
        stages.append(
            _stage("export", f"{work.images:,} images", "cpu", 3 * work.images * work.rounds, timings.read_s, 1)
        )
    lanes = _training_lanes(config, config.surrogate)
    train("references", named["reference"], config.surrogate, timings.reference_s, lanes)
    training = config.evaluation.training
    train("victims and controls", suspects, training, timings.victim_s, _training_lanes(config, training))
    if config.execution.pool == "ray" and stages and not os.environ.get("RAY_ADDRESS"):
        stages.append(Stage("start Ray", "on this machine", "cpu", _RAY_START_S, _RAY_START_S / 3600))
    gets, puts = _requests(run, work, len(trainings))
    return Estimate(work, tuple(stages), _memory_bytes(work, config), gets, puts)


def _stage(
    name: str, note: str, device: str, count: float, unit_s: float | None, lanes: int, fixed_s: float = 0.0
) -> Stage:
    if unit_s is None:
        return Stage(name, note, device, None, None)
    return Stage(name, note, device, count * unit_s / lanes + fixed_s, (count * unit_s + fixed_s) / 3600)


def _models(trainings: list[Training]) -> str:
    kinds = dict.fromkeys(f"{training.model}, {training.epochs} epochs" for training in trainings)
    return f"{len(trainings)} of {'; '.join(kinds)}"


def _read_once_s(training: TrainingConfig, work: Work, timings: Timings) -> float:
    """Both splits are decoded once by a training that holds them in memory; others read ahead of each step."""
    return timings.read_s * ((work.images if training.loader == "memory" else 0) + work.test_images)


def _crafting_lanes(config: Config) -> int:
    """Workers that craft side by side: as many as asked for, or as fit on this machine if no cluster is named."""
    execution = config.execution
    if execution.pool == "inline":
        return 1
    if os.environ.get("RAY_ADDRESS"):
        return execution.num_workers
    fits = [execution.num_workers]
    if execution.num_cpus:
        fits.append(int((os.cpu_count() or 1) / execution.num_cpus))
    if execution.num_gpus:
        fits.append(int(max(1, torch.cuda.device_count()) / execution.num_gpus))
    return max(1, min(fits))


def _training_lanes(config: Config, training: TrainingConfig) -> int:
    """Models that train side by side."""
    if config.execution.pool == "inline" or training.num_workers or training.loader == "ray":
        return 1
    lanes = (os.cpu_count() or 1) // training.num_threads
    if training.device == "cuda":
        lanes = min(lanes, int(max(1, torch.cuda.device_count()) / config.evaluation.gpus_per_model))
    return max(1, lanes)


def _memory_bytes(work: Work, config: Config) -> int:
    """What this process took for the timed steps, and the images that a training holds."""
    channels, size = work.image_size
    trainings = (config.surrogate, config.evaluation.training)
    held = work.images if any(training.loader == "memory" for training in trainings) else 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + (held + work.test_images) * channels * size**2


def _requests(run: Run, work: Work, num_models: int) -> tuple[int, int]:
    """GETs: the index and the export read every file, a training with its images in memory reads them once, another once an
    epoch. An image folder is an object per image; other files are read in pieces. PUTs: models, shards and the export."""
    source = run.sources[0]
    layout = layout_of(source)
    if layout.suffix is None:
        once = files = work.images
    else:
        sizes = [source.root.size_bytes(name) for name, _ in layout.files(source)]
        once, files = sum(math.ceil(size / PIECE_BYTES) for size in sizes), len(sizes)
    epochs = {
        training.name: training.epochs if section.loader != "memory" else 1
        for training in work.trainings
        for section in [
            run.config.surrogate
            if training.name.startswith(("surrogate", "reference"))
            else run.config.evaluation.training
        ]
    }
    models = sum(epochs[training.name] for training in work.trainings if not training.is_done)
    signed = 0 if work.is_exported else work.shards * work.rounds - work.shards_done
    gets = once * (1 + models + (0 if work.is_exported else 3)) + 3 * signed * work.images_per_key
    puts = 2 * num_models + 3 * signed + (0 if work.is_exported else files)
    return gets, puts
