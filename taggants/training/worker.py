"""One process of a training: it reads, resumes, trains and saves.

State lies in storage, not with Ray: a run that is started again, by Ray after a lost worker or by its user after a kill, reads
the last state and goes on; one that is finished returns its result at once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import safetensors
import safetensors.torch
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from taggants.data.source import ImageSource, read_for_models, read_side_by_side
from taggants.errors import InputError
from taggants.models import (
    DTYPE_OF_PRECISION,
    ModelSpec,
    Precision,
    build_model,
    checkpoint_bytes,
    model_from_checkpoint,
)
from taggants.storage import Root
from taggants.text import logger_of
from taggants.training.examples import InMemory, TrainingExamples
from taggants.training.job import InitialWeights, TrainedModel, TrainingJob, read_result
from taggants.training.loop import EpochReport, TrainingState, predict_scores, train
from taggants.training.metrics import Metrics, measure
from taggants.training.streaming import RayLoader, TorchLoader

logger = logger_of(__name__)

_READ_ROWS = 256


def run_training(
    job: TrainingJob, models: Root, on_epoch: Callable[[EpochReport], None], *, save_every_s: float = 10.0
) -> TrainedModel:
    """Trains the job's model under `models`/NAME-IDENTITY and returns it; a finished one is returned as it is.

    The identity is a hash of all that decides the model, so runs that need the same model share it.

    on_epoch: called after each epoch when training happens in this process (num_workers = 0).
    save_every_s: seconds between states to resume from, which are saved at ends of epochs.

    Raises:
        InputError: images of another shape than the model takes, labels beyond its classes, initial weights of another
            model, or a diverging loss.
    """
    result_path = f"{job.folder}/result.json"
    if models.exists(result_path):
        return read_result(models, result_path)
    if job.num_workers > 0:
        from taggants.training.ray_trainer import train_distributed  # here alone: one process needs no Ray

        train_distributed(job, models, save_every_s)
    else:
        threads = torch.get_num_threads()
        torch.set_num_threads(job.num_threads)
        try:
            train_one(job, models, on_epoch, save_every_s)
        finally:
            torch.set_num_threads(threads)
    return read_result(models, result_path)


def train_one(
    job: TrainingJob,
    models: Root,
    on_epoch: Callable[[EpochReport], None],
    save_every_s: float,
    *,
    rank: int = 0,
    world_size: int = 1,
    distribute: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> None:
    """What one worker does: read, resume, train, and on rank 0 save.

    distribute: makes a model exchange its gradients with the other workers'.
    """
    folder = job.folder
    examples = _examples(job)
    model = build_model(job.spec, job.seed)
    if job.initial is not None:
        _load_initial(model, job.spec, job.initial)
    model.to(_device(job))
    wrapped: nn.Module = Precision(
        model,
        DTYPE_OF_PRECISION[job.precision],
        channels_last=job.channels_last,
        is_first_order=True,
        is_compiled=job.compile,
    )
    average = None if job.ema_decay is None else ModelEmaV3(model, decay=job.ema_decay, use_warmup=True)
    trained: nn.Module = model if average is None else average.module
    resume = _read_state(models, f"{folder}/state.safetensors", model, trained)
    if job.compile:
        wrapped.compile(dynamic=False)  # the last batch is smaller: two programs, both for fixed shapes
    wrapped = distribute(wrapped)
    started = last_saved = time.monotonic()

    def after_step(num_steps: int) -> None:
        if average is not None:
            average.update(model, step=num_steps)

    def end_of_epoch(report: EpochReport, state: TrainingState) -> None:
        nonlocal last_saved
        if rank == 0 and state.epochs_done in job.keep_epochs:  # before the state: a resumed run may come after it
            models.write_bytes(_kept_path(folder, state.epochs_done), checkpoint_bytes(trained, job.spec))
        if rank == 0 and time.monotonic() - last_saved >= save_every_s and state.epochs_done < report.num_epochs:
            models.write_bytes(f"{folder}/state.safetensors", _state_bytes(model, trained, state))
            last_saved = time.monotonic()
        on_epoch(report)

    train(
        wrapped,
        examples,
        job.recipe,
        job.optimiser,
        seed=job.seed,
        resume=resume,
        rank=rank,
        world_size=world_size,
        after_step=after_step,
        on_epoch_end=end_of_epoch,
    )
    if rank != 0:
        return
    trained.eval()
    checkpoint = checkpoint_bytes(trained, job.spec)
    models.write_bytes(f"{folder}/model.safetensors", checkpoint)
    metrics = _measure_on_test_split(job, trained)
    result = TrainedModel(
        name=job.name,
        path=f"{folder}/model.safetensors",
        sha256=hashlib.sha256(checkpoint).hexdigest(),
        accuracy=metrics.accuracy,
        num_epochs=job.optimiser.num_epochs,
        seconds=time.monotonic() - started,
        kept=tuple((path, models.sha256(path)) for path in (_kept_path(folder, epoch) for epoch in job.keep_epochs)),
        metrics=metrics,
    )
    models.write_json(f"{folder}/result.json", asdict(result))
    models.delete(f"{folder}/state.safetensors")


def _kept_path(folder: str, epochs_done: int) -> str:
    return f"{folder}/epoch-{epochs_done:05d}.safetensors"


def read_split(source: ImageSource, image_size: int | None) -> tuple[Tensor, Tensor]:
    """All images, uint8 [N, C, S, S], and their labels, int64 [N]."""
    if image_size is None:
        images, labels = source.read_all()
        return torch.from_numpy(images), torch.from_numpy(labels)
    labels = source.labels()
    images = np.empty((len(labels), *source.read_resized([0], image_size).shape[1:]), dtype=np.uint8)

    def fill(start: int) -> None:
        rows = range(start, min(start + _READ_ROWS, len(labels)))
        part = source.read_resized(rows, image_size)
        if part.shape[1:] != images.shape[1:]:  # assigning would broadcast grey images
            raise InputError(
                f"{source.place_of(start)} has {part.shape[1]} channels but sample 0 has {images.shape[1]}; set channels"
            )
        images[start : rows.stop] = part

    read_side_by_side(fill, range(0, len(labels), _READ_ROWS))  # decoding and resizing release the GIL
    return torch.from_numpy(images), torch.from_numpy(labels)


def _device(job: TrainingJob) -> torch.device:
    """The device of this process: the one that Ray gave it, where there are several."""
    if job.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(f"training {job.name} on cuda needs a CUDA device; set the section's device to cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _examples(job: TrainingJob) -> TrainingExamples:
    """Raises:
    InputError: images of another shape than the model takes, labels beyond its classes, or a recipe that needs another loader.
    """
    source, image_size = job.train_source, job.image_size
    is_in_memory = job.loader in ("memory", "device")
    if is_in_memory:
        images, labels = read_split(source, image_size)
        shape = tuple(images.shape[1:])
    else:
        labels = torch.from_numpy(source.labels())
        shape = read_for_models(source, [0], image_size).shape[1:]
    expected = (job.spec.channels, job.spec.image_size, job.spec.image_size)
    if shape != expected:
        raise InputError(f"training images have shape {shape} but the model takes {expected}; use one size")
    largest = max(int(labels.max()), int(job.test_source.labels().max()))
    if largest >= job.spec.num_classes:
        raise InputError(f"label {largest} is beyond the model's {job.spec.num_classes} classes; correct the labels")
    if is_in_memory:
        place = torch.device("cpu") if job.loader == "memory" else _device(job)
        return InMemory(images.to(place), labels.to(place))
    if job.loader == "torch":
        pinned = job.device == "cuda"
        return TorchLoader(source, image_size, labels, num_readers=job.num_readers, pinned=pinned)
    return RayLoader(source, image_size, labels, num_training_cpus=job.num_workers)


def _measure_on_test_split(job: TrainingJob, model: nn.Module) -> Metrics:
    if job.loader in ("memory", "device"):
        images, labels = read_split(job.test_source, job.image_size)
        return measure(predict_scores(model, images), labels)
    return measure_split(job.test_source, job.image_size, model)


def measure_split(source: ImageSource, image_size: int | None, model: nn.Module) -> Metrics:
    """Returns how a model does on a split, of which a few images at a time are in memory."""
    num_rows = source.num_rows
    parts = (range(start, min(start + _READ_ROWS, num_rows)) for start in range(0, num_rows, _READ_ROWS))
    scores = [predict_scores(model, torch.from_numpy(read_for_models(source, part, image_size))) for part in parts]
    return measure(torch.cat(scores), torch.from_numpy(source.labels()))


def _load_initial(model: nn.Module, spec: ModelSpec, initial: InitialWeights) -> None:
    """Loads the checkpoint into `model`, but for a head of another number of classes.

    Raises:
        InputError: the checkpoint is of another model, or changed since it was found.
    """
    root, file = Root.of_file(initial.uri)
    source, source_spec = model_from_checkpoint(root.read_bytes(file), initial.uri, initial.sha256)
    if replace(source_spec, num_classes=spec.num_classes, drop_path=spec.drop_path) != spec:
        raise InputError(
            f"init_from {initial.uri} holds {source_spec} but {spec} is to be trained; only num_classes and drop_path may differ"
        )
    own = model.state_dict()
    # Of two builds of one model that differ in their classes, only the head differs in shape.
    fitting = {name: tensor for name, tensor in source.state_dict().items() if tensor.shape == own[name].shape}
    model.load_state_dict(own | fitting)


def _state_bytes(model: nn.Module, trained: nn.Module, state: TrainingState) -> bytes:
    """trained: the average of the weights, or `model` itself."""
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    tensors |= {f"optimiser.{name}": tensor.contiguous() for name, tensor in state.optimiser.items()}
    if trained is not model:
        tensors |= {f"average.{name}": tensor.contiguous() for name, tensor in trained.state_dict().items()}
    tensors["epochs_done"] = torch.tensor(state.epochs_done)
    return safetensors.torch.save(tensors)


def _read_state(models: Root, path: str, model: nn.Module, trained: nn.Module) -> TrainingState | None:
    """Loads the weights into `model`, and their average into `trained`; returns the rest, None when there is no state yet."""
    if not models.exists(path):
        return None
    try:
        tensors = safetensors.torch.load(models.read_bytes(path))
    except safetensors.SafetensorError:
        logger.warning("%s is damaged: training starts anew", models.uri_of(path))
        return None

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    model.load_state_dict(part("model."))
    if trained is not model:
        trained.load_state_dict(part("average."))
    return TrainingState(int(tensors["epochs_done"]), part("optimiser."))
