"""A few timed steps of each stage on this machine, with models of random weights and keys of random noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from taggants.config import TrainingConfig
from taggants.crafting.shard import on_canvas
from taggants.crafting.signing_set import SigningSet, craft_signing_set, key_gradients
from taggants.data.set_codec import codec_for
from taggants.data.source import read_for_models
from taggants.errors import InputError
from taggants.models import DTYPE_OF_PRECISION, ModelSpec, Precision, build_model
from taggants.run import Run, model_spec, signing_size
from taggants.stages.crafting_settings import optimisation_of
from taggants.stages.model_training import training_job
from taggants.training.examples import InMemory
from taggants.training.loop import train
from taggants.training.scores import gradient_norms, losses

_ENOUGH_S = 2.0
_MOST_STEPS = 60
_NUM_WARM_UP = 2
_NUM_IMAGES = 256


@dataclass(frozen=True)
class Timings:
    """Seconds on one worker: per image read; per image that a surrogate, a reference and a victim is trained on; per image scored
    on one surrogate; per sample-step of crafting. Means over architectures; None where the device is not on this machine."""

    read_s: float
    surrogate_s: float | None
    reference_s: float | None
    victim_s: float | None
    score_s: float | None
    sample_step_s: float | None


NO_TIME = Timings(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Where nothing is left to do."""


class _Enough(Exception):
    """Ends what is being timed."""


class _Clock:
    """Takes the time of steps after the first ones, until there is enough to tell."""

    def __init__(self, device: str) -> None:
        self._is_cuda = device == "cuda"
        self._ticks = [self._now()]

    def __call__(self, *_: object) -> None:
        self._ticks.append(self._now())
        if len(self._ticks) > _NUM_WARM_UP + 1 and self._ticks[-1] - self._ticks[_NUM_WARM_UP] > _ENOUGH_S:
            raise _Enough
        if len(self._ticks) > _MOST_STEPS:
            raise _Enough

    @property
    def step_s(self) -> float:
        """The mean, since slow steps belong to a run as well."""
        warm_up = min(_NUM_WARM_UP, len(self._ticks) - 2)
        return (self._ticks[-1] - self._ticks[warm_up]) / (len(self._ticks) - 1 - warm_up)

    def _now(self) -> float:
        if self._is_cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time() / torch.get_num_threads()  # as on an idle machine, whatever else runs here now


def time_stages(run: Run) -> Timings:
    """Returns what one unit of each stage takes here: ten seconds or so.

    Raises:
        InputError: an image cannot be read, or a model does not take these images.
    """
    config, crafting = run.config, run.config.crafting
    labels = run.index.labels
    fit = np.flatnonzero(run.fitness.is_fit)
    sample_ids = fit[labels[fit] == labels[fit[0]]][:_NUM_IMAGES].tolist()
    started = time.perf_counter()
    images = torch.from_numpy(read_for_models(run.sources[0], sample_ids, config.data.image_size))
    read_s = (time.perf_counter() - started) / len(sample_ids)
    threads = torch.get_num_threads()
    try:
        given = run.given_surrogates
        trained = _distinct([t for index, t in enumerate(config.surrogate_trainings) if index not in given])
        surrogates = [_training_s(run, training, images) for training in trained]
        references = _mean([_training_s(run, training, images) for training in _distinct(config.reference_trainings)])
        evaluation = config.evaluation
        victim = (
            _training_s(run, evaluation.training, images) if evaluation.num_victims + evaluation.num_controls else 0.0
        )
        torch.set_num_threads(crafting.num_threads)
        if crafting.device == "cuda" and not torch.cuda.is_available():
            return Timings(read_s, _mean(surrogates), references, victim, None, None)
        specs = [*(model_spec(run, training) for training in trained), *(model.spec for model in given.values())]
        per_architecture = [_crafting_s(run, spec, images, sample_ids) for spec in dict.fromkeys(specs)]
    finally:
        torch.set_num_threads(threads)
    if not per_architecture:
        return Timings(read_s, 0.0, references, victim, 0.0, 0.0)
    scores, steps = zip(*per_architecture, strict=True)
    return Timings(read_s, _mean(surrogates), references, victim, _mean(scores), _mean(steps))


def _distinct(trainings: Sequence[TrainingConfig]) -> list[TrainingConfig]:
    return list({(training.model, training.patch_size, training.recipe): training for training in trainings}.values())


def _mean(seconds: list[float | None] | tuple[float | None, ...]) -> float | None:
    known = [value for value in seconds if value is not None]
    if len(known) < len(seconds):
        return None
    return sum(known) / len(known) if known else 0.0


def _training_s(run: Run, training: TrainingConfig, images: torch.Tensor) -> float | None:
    """Seconds for each image of an epoch in one process."""
    if training.device == "cuda" and not torch.cuda.is_available():
        return None
    torch.set_num_threads(training.num_threads)
    source = run.sources[0]
    job = training_job(run, "timed", _in_memory(training), source, "", 0)
    model = build_model(job.spec, 0).to(training.device)
    dtype = DTYPE_OF_PRECISION[training.precision]
    wrapped = Precision(model, dtype, channels_last=training.channels_last, is_first_order=True, is_compiled=False)
    batch = min(training.batch_size, run.index.num_rows)
    rows = torch.arange(max(2, min(20, -(-run.index.num_rows // batch))) * batch) % len(images)
    examples = InMemory(images[rows], torch.arange(len(rows)) % run.index.num_classes)
    clock = _Clock(training.device)
    _until_enough(
        lambda: train(wrapped, examples, job.recipe, replace(job.optimiser, num_epochs=50), seed=0, after_step=clock)
    )
    return clock.step_s / batch


def _in_memory(training: TrainingConfig) -> TrainingConfig:
    return training.model_copy(update={"loader": "memory", "init_from": None})


def _crafting_s(run: Run, spec: ModelSpec, images: torch.Tensor, sample_ids: list[int]) -> tuple[float, float]:
    """Seconds to score an image on one surrogate, and for each sample-step."""
    config, crafting = run.config, run.config.crafting
    device = crafting.device
    model = build_model(spec, 0).to(device).eval()
    function = losses if config.signing.selection == "loss" else gradient_norms
    scored = images[:64].to(device)
    labels = torch.zeros(len(scored), dtype=torch.int64, device=device)
    score_s = _seconds(lambda: function(model, scored, labels), device) / len(scored)
    optimisation = replace(optimisation_of(config, run.model_size[1]), num_restarts=1, num_steps=_MOST_STEPS + 1)
    wrapped = Precision(
        model,
        DTYPE_OF_PRECISION[crafting.precision],
        channels_last=crafting.channels_last,
        is_first_order=optimisation.engine.is_first_order,
        is_compiled=False,
    )
    ids = sample_ids[: min(signing_size(run), max(1, crafting.microbatch // crafting.num_views))]
    canvas, sizes = on_canvas(run.sources[0].read_sized(ids))
    signing_set = SigningSet(
        images=canvas.to(device),
        labels=torch.zeros(len(ids), dtype=torch.int64, device=device),
        image_ids=torch.tensor(ids, device=device),
        sizes=None if sizes is None else sizes.to(device),
        codec=codec_for(run.sources[0].read_encoded(ids)).to(device),
    )
    noise = torch.randint(256, tuple(images.shape[1:]), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    models: list[nn.Module] = [wrapped]
    keys = key_gradients(models, noise.to(device), torch.tensor(0, device=device))
    clock = _Clock(device)
    _until_enough(lambda: craft_signing_set(models, signing_set, keys, optimisation, seed=0, on_step=clock))
    return score_s, clock.step_s / (len(ids) * optimisation.num_views)


def _seconds(action: Callable[[], object], device: str) -> float:
    action()
    clock = _Clock(device)
    action()
    clock()
    return clock.step_s


def _until_enough(action: Callable[[], object]) -> None:
    try:
        action()
    except _Enough:
        pass
    except InputError as error:
        if "diverged" not in str(error):  # on a few images of random labels it may
            raise
