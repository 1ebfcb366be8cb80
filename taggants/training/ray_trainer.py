"""One training run through Ray Train, or through its local mode in this process; checkpointed in the store of models.

State lies in storage, not with Ray: a run that is started again, by Ray after a lost worker or by its user after a kill, reads
the last state and goes on; one that is finished returns its result at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from taggants.data.source import ImageSource, read_side_by_side
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
from taggants.training.loop import EpochReport, Optimiser, TrainingState, accuracy, train
from taggants.training.recipes import Recipe

logger = logging.getLogger(__name__)

_SAVE_EVERY_S = 10.0
_READ_ROWS = 256


@dataclass(frozen=True)
class TrainingJob:
    """All that decides a trained model; pickles.

    train_fingerprint, test_fingerprint: of the data, so that other data make another identity.
    num_threads: torch threads; like the number of workers it changes rounding, so both are part of the identity.
    precision, channels_last: as in `Precision`. device: "cpu" or "cuda".
    keep_epochs: numbers of epochs after which a checkpoint is kept as well.
    image_size: images are resized and centre-cropped to this side in px; None: they have the model's size.
    """

    name: str
    spec: ModelSpec
    recipe: Recipe
    optimiser: Optimiser
    seed: int
    train_source: ImageSource
    test_source: ImageSource
    train_fingerprint: str
    test_fingerprint: str
    num_threads: int
    num_workers: int
    precision: str = "float32"
    channels_last: bool = False
    device: str = "cpu"
    keep_epochs: tuple[int, ...] = ()
    image_size: int | None = None

    @property
    def identity(self) -> str:
        """16 hex digits over everything but where the data lie: their content and how it is read count."""
        fields = asdict(replace(self, train_source=None, test_source=None))  # type: ignore[arg-type]
        fields["read"] = [list(source.how_read) for source in (self.train_source, self.test_source)]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TrainedModel:
    """A finished training run.

    path: of the checkpoint, under the store of models. accuracy: on the test split, in [0, 1]. seconds: it took.
    kept: path and SHA-256 of the checkpoints at `TrainingJob.keep_epochs`, in their order.
    """

    name: str
    path: str
    sha256: str
    accuracy: float
    num_epochs: int
    seconds: float
    kept: tuple[tuple[str, str], ...] = ()

    @property
    def checkpoints(self) -> tuple[tuple[str, str], ...]:
        """Path and SHA-256 of all its checkpoints, the finished one last."""
        return (*self.kept, (self.path, self.sha256))


def run_training(job: TrainingJob, models: Root, on_epoch: Callable[[EpochReport], None]) -> TrainedModel:
    """Trains the job's model under `models`/NAME-IDENTITY and returns it; a finished one is returned as it is.

    The identity is a hash of all that decides the model, so runs that need the same model share it.

    on_epoch: called after each epoch when training happens in this process (num_workers = 0).

    Raises:
        InputError: images of another shape than the model takes, labels beyond its classes, or a diverging loss.
    """
    folder = f"{job.name}-{job.identity[:12]}"
    result_path = f"{folder}/result.json"
    if models.exists(result_path):
        return _read_result(models, result_path)
    if job.num_workers == 0:
        threads = torch.get_num_threads()
        torch.set_num_threads(job.num_threads)
        try:
            _fit(
                lambda: _train_one(job, models, folder, 0, 1, on_epoch),
                num_workers=0,
                use_gpu=False,
                name=job.name,
                storage=None,
            )
        finally:
            torch.set_num_threads(threads)
    else:
        storage = models.child(".ray_train").uri
        _fit(
            lambda: _train_distributed(job, models, folder),
            num_workers=job.num_workers,
            use_gpu=job.device == "cuda",
            name=job.identity,
            storage=storage,
        )
    return _read_result(models, result_path)


def _read_result(models: Root, path: str) -> TrainedModel:
    """The finished run whose result lies at `path`, its checkpoint compared with the SHA-256 in the result."""
    folder = models.uri_of(path).rpartition("/")[0]
    try:
        fields = models.read_json(path)
        kept = tuple((str(kept_path), str(sha256)) for kept_path, sha256 in fields.pop("kept", ()))
        trained = TrainedModel(**fields, kept=kept)
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{models.uri_of(path)} is damaged; delete the folder {folder} to train it again") from None
    if not models.exists(trained.path) or models.sha256(trained.path) != trained.sha256:
        raise InputError(
            f"{models.uri_of(trained.path)} is not the model trained there; delete {folder} to train it again"
        )
    return trained


def _fit(
    train_function: Callable[[], None], *, num_workers: int, use_gpu: bool, name: str, storage: str | None
) -> None:
    """`train_function` on every worker of a TorchTrainer."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.WARNING)  # it greets every run of its local mode

    def guarded(_: dict[str, Any]) -> str | None:
        # Returned, not raised: bad input must reach the job as one sentence, and Ray would try it again.
        try:
            train_function()
        except InputError as error:
            return str(error)
        return None

    trainer = TorchTrainer(
        guarded,
        train_loop_config={},
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=name, storage_path=storage, failure_config=FailureConfig(max_failures=2 if num_workers else 0)
        ),
    )
    problem = trainer.fit().return_value
    if problem is not None:
        raise InputError(problem)


def _train_distributed(job: TrainingJob, models: Root, folder: str) -> None:
    import ray.train

    context = ray.train.get_context()
    torch.set_num_threads(job.num_threads)

    def report(epoch: EpochReport) -> None:
        ray.train.report({"epoch": epoch.epoch, "loss": epoch.loss})

    _train_one(job, models, folder, context.get_world_rank(), context.get_world_size(), report)


def _train_one(
    job: TrainingJob, models: Root, folder: str, rank: int, world_size: int, on_epoch: Callable[[EpochReport], None]
) -> None:
    """What one worker does: read, resume, train, and on rank 0 save."""
    images, labels = _read(job.train_source, job.image_size)
    _check_fits(job, images, labels)
    model = build_model(job.spec, job.seed)
    resume = _read_state(models, f"{folder}/state.safetensors", model)
    model.to(_device(job))
    wrapped: nn.Module = Precision(model, DTYPE_OF_PRECISION[job.precision], channels_last=job.channels_last)
    if world_size > 1:
        import ray.train.torch

        wrapped = ray.train.torch.prepare_model(wrapped, move_to_device=False)
    started = last_saved = time.monotonic()

    def end_of_epoch(report: EpochReport, state: TrainingState) -> None:
        nonlocal last_saved
        if rank == 0 and state.epochs_done in job.keep_epochs:  # before the state: a resumed run may come after it
            models.write_bytes(_kept_path(folder, state.epochs_done), checkpoint_bytes(model, job.spec))
        if rank == 0 and time.monotonic() - last_saved >= _SAVE_EVERY_S and state.epochs_done < report.num_epochs:
            models.write_bytes(f"{folder}/state.safetensors", _state_bytes(model, state))
            last_saved = time.monotonic()
        on_epoch(report)

    train(
        wrapped,
        images,
        labels,
        job.recipe,
        job.optimiser,
        seed=job.seed,
        resume=resume,
        rank=rank,
        world_size=world_size,
        on_epoch_end=end_of_epoch,
    )
    if rank != 0:
        return
    model.eval()
    checkpoint = checkpoint_bytes(model, job.spec)
    models.write_bytes(f"{folder}/model.safetensors", checkpoint)
    test_images, test_labels = _read(job.test_source, job.image_size)
    result = TrainedModel(
        name=job.name,
        path=f"{folder}/model.safetensors",
        sha256=hashlib.sha256(checkpoint).hexdigest(),
        accuracy=accuracy(model, test_images, test_labels),
        num_epochs=job.optimiser.num_epochs,
        seconds=time.monotonic() - started,
        kept=tuple((path, models.sha256(path)) for path in (_kept_path(folder, epoch) for epoch in job.keep_epochs)),
    )
    models.write_json(f"{folder}/result.json", asdict(result))
    models.delete(f"{folder}/state.safetensors")


def _kept_path(folder: str, epochs_done: int) -> str:
    return f"{folder}/epoch-{epochs_done:05d}.safetensors"


def _read(source: ImageSource, image_size: int | None) -> tuple[Tensor, Tensor]:
    """All images, uint8 [N, C, S, S], and their labels, int64 [N]."""
    if image_size is None:
        images, labels = source.read_all()
        return torch.from_numpy(images), torch.from_numpy(labels)
    labels = source.index().labels
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


def _check_fits(job: TrainingJob, images: Tensor, labels: Tensor) -> None:
    expected = (job.spec.channels, job.spec.image_size, job.spec.image_size)
    if tuple(images.shape[1:]) != expected:
        raise InputError(
            f"training images have shape {tuple(images.shape[1:])} but the model takes {expected}; use one size"
        )
    if int(labels.max()) >= job.spec.num_classes:
        raise InputError(
            f"label {int(labels.max())} is beyond the model's {job.spec.num_classes} classes; mend the labels"
        )


def _state_bytes(model: nn.Module, state: TrainingState) -> bytes:
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    tensors |= {f"optimiser.{name}": tensor.contiguous() for name, tensor in state.optimiser.items()}
    tensors["epochs_done"] = torch.tensor(state.epochs_done)
    return safetensors.torch.save(tensors)


def _read_state(models: Root, path: str, model: nn.Module) -> TrainingState | None:
    """Loads the weights into `model` and returns the rest; None when there is no state yet."""
    if not models.exists(path):
        return None
    try:
        tensors = safetensors.torch.load(models.read_bytes(path))
    except safetensors.SafetensorError:
        logger.warning("%s is damaged: training starts anew", models.uri_of(path))
        return None
    model.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
    optimiser = {name.removeprefix("optimiser."): t for name, t in tensors.items() if name.startswith("optimiser.")}
    return TrainingState(int(tensors["epochs_done"]), optimiser)


def load_trained(models: Root, trained: TrainedModel) -> nn.Module:
    """Returns the model in eval mode.

    Raises:
        InputError: the checkpoint is not the one that was trained.
    """
    return model_from_checkpoint(models.read_bytes(trained.path), models.uri_of(trained.path), trained.sha256)[0]
