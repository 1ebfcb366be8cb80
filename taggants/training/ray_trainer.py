"""Training runs: one in this process or through Ray Train, or several small ones side by side as Ray tasks.

State lies in storage, not with Ray: a run that is started again, by Ray after a lost worker or by its user after a kill, reads
the last state and goes on; one that is finished returns its result at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Final

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
from taggants.training.examples import InMemory, TrainingExamples
from taggants.training.loop import LATER, EpochReport, Optimiser, TrainingState, predict_scores, train
from taggants.training.metrics import Metrics, measure
from taggants.training.recipes import Recipe
from taggants.training.streaming import RayLoader, TorchLoader

logger = logging.getLogger(__name__)

_READ_ROWS = 256


@dataclass(frozen=True)
class InitialWeights:
    """A checkpoint to start from. uri: of its model.safetensors; sha256: 64 hex digits, which alone decide the result."""

    uri: str
    sha256: str


def find_initial_weights(uri: str) -> InitialWeights:
    """Returns the checkpoint at a path or s3:// URI, by its present content.

    Raises:
        InputError: there is none.
    """
    root, file = Root.of_file(uri)
    return InitialWeights(root.uri_of(file), root.sha256(file))


TRAINING_VERSION: Final = 3
"""Of the loop. Raised with every change of the code after which the same job gives other weights."""


@dataclass(frozen=True)
class TrainingJob:
    """All that decides a trained model; pickles.

    train_fingerprint, test_fingerprint: of the data, so that other data make another identity.
    num_threads: torch threads; like the number of workers it changes rounding, so both are part of the identity.
    precision, channels_last: as in `Precision`. device: "cpu" or "cuda".
    keep_epochs: numbers of epochs after which a checkpoint is kept as well.
    image_size: images are resized and centre-cropped to this side in px; None: they have the model's size.
    initial: the checkpoint to start from; its head only if it has as many classes. None: random weights.
    ema_decay: the trained model is the moving average of the weights after each step, with this decay, in (0, 1), at the end
    and min(ema_decay, 1 - n^(-2/3)) before, at the n-th step; None: the last weights.
    compile: by torch.compile.
    loader, num_readers: as in the configuration; they decide nothing about the model.
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
    initial: InitialWeights | None = field(default=None, metadata=LATER)
    ema_decay: float | None = field(default=None, metadata=LATER)
    compile: bool = field(default=False, metadata=LATER)
    loader: str = field(default="memory", metadata=LATER)
    num_readers: int = field(default=2, metadata=LATER)

    @property
    def identity(self) -> str:
        """16 hex digits over everything but where the data lie: their content and how it is read count."""
        decisive = _decisive_fields(
            replace(self, train_source=None, test_source=None, loader="memory", num_readers=2)  # type: ignore[arg-type]
        )
        decisive["version"] = TRAINING_VERSION
        decisive["read"] = [list(source.how_read) for source in (self.train_source, self.test_source)]
        if self.initial is not None:
            decisive["initial"] = self.initial.sha256
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """Of its files, under the store of models."""
        return f"{self.name}-{self.identity[:12]}"


def _decisive_fields(record: Any) -> dict[str, Any]:
    """As `asdict`, without later fields at their default: models trained before there were any keep their identity."""
    values = {part: getattr(record, part.name) for part in fields(record)}
    return {
        part.name: _decisive_fields(value) if is_dataclass(value) else value
        for part, value in values.items()
        if not (part.metadata.get("later") and value == part.default)
    }


@dataclass(frozen=True)
class TrainedModel:
    """A finished training run.

    path: of the checkpoint, under the store of models. accuracy: on the test split, in [0, 1]. seconds: it took.
    kept: path and SHA-256 of the checkpoints at `TrainingJob.keep_epochs`, in their order. metrics: on the test split; None
    where it was trained before they were taken.
    """

    name: str
    path: str
    sha256: str
    accuracy: float
    num_epochs: int
    seconds: float
    kept: tuple[tuple[str, str], ...] = ()
    metrics: Metrics | None = None

    @property
    def checkpoints(self) -> tuple[tuple[str, str], ...]:
        """Path and SHA-256 of all its checkpoints, the finished one last."""
        return (*self.kept, (self.path, self.sha256))


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
        return _read_result(models, result_path)
    if job.num_workers == 0:
        threads = torch.get_num_threads()
        torch.set_num_threads(job.num_threads)
        try:
            _train_one(job, models, 0, 1, on_epoch, save_every_s)
        finally:
            torch.set_num_threads(threads)
    else:
        storage = models.child(".ray_train").uri
        _fit(
            lambda: _train_distributed(job, models, save_every_s),
            num_workers=job.num_workers,
            use_gpu=job.device == "cuda",
            name=job.identity,
            storage=storage,
        )
    return _read_result(models, result_path)


def run_trainings(
    jobs: Sequence[TrainingJob],
    models: Root,
    *,
    num_gpus: float = 0.0,
    save_every_s: float = 10.0,
    on_trained: Callable[[int], None] = lambda num_done: None,
) -> list[TrainedModel]:
    """Trains several models side by side, as many as the cluster has room for, and returns them in the order of `jobs`.

    Each is one Ray task, which takes `num_threads` CPUs and trains as `run_training` does in one process: the bytes are the
    same. A task whose process is killed is started again by Ray and resumes. Needs a connected Ray.

    num_gpus: of each task, for jobs with device "cuda"; a fraction packs several on one GPU.
    on_trained: gets the number of models done so far.

    Raises:
        InputError: as `run_training`, of the first job that raised it; the others are stopped.
    """
    import ray
    from ray.exceptions import RayTaskError

    assert all(job.num_workers == 0 for job in jobs), "a distributed training has tasks of its own"
    # A node that is smaller than num_threads trains all the same, with more threads than CPUs.
    largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    train_one = ray.remote(max_retries=2)(_train_in_task)
    tasks = {
        folder: train_one.options(
            name=job.name,
            num_cpus=min(job.num_threads, largest) or job.num_threads,
            num_gpus=num_gpus if job.device == "cuda" else 0,
        ).remote(job, models, save_every_s)
        for folder, job in {job.folder: job for job in jobs}.items()
    }
    pending = list(tasks.values())
    try:
        while pending:
            done, pending = ray.wait(pending)
            ray.get(done)
            on_trained(len(tasks) - len(pending))
        trained = dict(zip(tasks, ray.get(list(tasks.values())), strict=True))
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    finally:
        for task in pending:
            ray.cancel(task, force=True)
    return [trained[job.folder] for job in jobs]


def _train_in_task(job: TrainingJob, models: Root, save_every_s: float) -> TrainedModel:
    return run_training(job, models, lambda report: None, save_every_s=save_every_s)


def _read_result(models: Root, path: str) -> TrainedModel:
    """The finished run whose result lies at `path`, its checkpoint compared with the SHA-256 in the result."""
    folder = models.uri_of(path).rpartition("/")[0]
    try:
        found = models.read_json(path)
        kept = tuple((str(kept_path), str(sha256)) for kept_path, sha256 in found.pop("kept", ()))
        metrics = found.pop("metrics", None)
        trained = TrainedModel(**found, kept=kept, metrics=metrics and _metrics_from_json(metrics))
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{models.uri_of(path)} is damaged; delete the folder {folder} to train it again") from None
    if not models.exists(trained.path) or models.sha256(trained.path) != trained.sha256:
        raise InputError(
            f"{models.uri_of(trained.path)} is not the model trained there; delete {folder} to train it again"
        )
    return trained


def _metrics_from_json(value: dict[str, Any]) -> Metrics:
    return Metrics(**value | {"class_accuracies": tuple(value["class_accuracies"])})


def _fit(train_function: Callable[[], None], *, num_workers: int, use_gpu: bool, name: str, storage: str) -> None:
    """`train_function` on every worker of a TorchTrainer."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

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
        run_config=RunConfig(name=name, storage_path=storage, failure_config=FailureConfig(max_failures=2)),
    )
    problem = trainer.fit().return_value
    if problem is not None:
        raise InputError(problem)


def _train_distributed(job: TrainingJob, models: Root, save_every_s: float) -> None:
    import ray.train

    context = ray.train.get_context()
    torch.set_num_threads(job.num_threads)

    def report(epoch: EpochReport) -> None:
        ray.train.report({"epoch": epoch.epoch, "loss": epoch.loss})

    _train_one(job, models, context.get_world_rank(), context.get_world_size(), report, save_every_s)


def _train_one(
    job: TrainingJob,
    models: Root,
    rank: int,
    world_size: int,
    on_epoch: Callable[[EpochReport], None],
    save_every_s: float,
) -> None:
    """What one worker does: read, resume, train, and on rank 0 save."""
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
        wrapped.compile()
    if world_size > 1:
        import ray.train.torch

        wrapped = ray.train.torch.prepare_model(wrapped, move_to_device=False)
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
    InputError: images of another shape than the model takes, or labels beyond its classes.
    """
    source, image_size = job.train_source, job.image_size
    if job.loader == "memory":
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
        raise InputError(f"label {largest} is beyond the model's {job.spec.num_classes} classes; mend the labels")
    if job.loader == "memory":
        return InMemory(images, labels)
    if job.loader == "torch":
        pinned = job.device == "cuda"
        return TorchLoader(source, image_size, labels, num_readers=job.num_readers, pinned=pinned)
    return RayLoader(source, image_size, labels, num_training_cpus=job.num_workers)


def _measure_on_test_split(job: TrainingJob, model: nn.Module) -> Metrics:
    if job.loader == "memory":
        images, labels = read_split(job.test_source, job.image_size)
        return measure(predict_scores(model, images), labels)
    source, num_rows = job.test_source, job.test_source.num_rows
    parts = (range(start, min(start + _READ_ROWS, num_rows)) for start in range(0, num_rows, _READ_ROWS))
    scores = [predict_scores(model, torch.from_numpy(read_for_models(source, part, job.image_size))) for part in parts]
    return measure(torch.cat(scores), torch.from_numpy(source.labels()))


def _load_initial(model: nn.Module, spec: ModelSpec, initial: InitialWeights) -> None:
    """Loads the checkpoint into `model`, but for a head of another number of classes.

    Raises:
        InputError: the checkpoint is of another model, or changed since it was found.
    """
    root, file = Root.of_file(initial.uri)
    source, source_spec = model_from_checkpoint(root.read_bytes(file), initial.uri, initial.sha256)
    if replace(source_spec, num_classes=spec.num_classes) != spec:
        raise InputError(
            f"init_from {initial.uri} holds {source_spec} but {spec} is to be trained; only num_classes may differ"
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


def load_trained(models: Root, trained: TrainedModel) -> nn.Module:
    """Returns the model in eval mode.

    Raises:
        InputError: the checkpoint is not the one that was trained.
    """
    return model_from_checkpoint(models.read_bytes(trained.path), models.uri_of(trained.path), trained.sha256)[0]
