"""What is to be trained, under which identity, and what a finished training leaves in the store of models."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from pydantic import TypeAdapter, ValidationError
from torch import nn

from taggants.data.source import ImageSource
from taggants.errors import InputError
from taggants.identity import identity
from taggants.models import ModelSpec, model_from_checkpoint
from taggants.storage import Root
from taggants.training.loop import Optimiser
from taggants.training.metrics import Metrics
from taggants.training.recipes import Recipe


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


TRAINING_VERSION: Final = 4
"""Version of the loop, raised with every change of the code after which the same job gives other weights."""


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
    loader, num_readers: as in the configuration. They decide nothing about the model but for loader "device", which augments
    on the device: on "cuda" that is another model, up to rounding.
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
    initial: InitialWeights | None = None
    ema_decay: float | None = None
    compile: bool = False
    loader: str = "memory"
    num_readers: int = 2

    @property
    def identity(self) -> str:
        """16 hex digits over everything but where the data lie: their content and how it is read count."""
        apart = {"train_source", "test_source", "initial", "loader", "num_readers"}
        decisive = {part.name: repr(getattr(self, part.name)) for part in fields(self) if part.name not in apart}
        decisive |= {
            "version": str(TRAINING_VERSION),
            "read": repr([list(source.how_read) for source in (self.train_source, self.test_source)]),
            "initial": "random" if self.initial is None else self.initial.sha256,
            # A GPU rounds blurs, means and shares of mixed images otherwise than a CPU.
            "augmented on": self.device if self.loader == "device" else "cpu",
        }
        return identity(decisive)[:16]

    @property
    def folder(self) -> str:
        """The folder of its files, under the store of models."""
        return f"{self.name}-{self.identity[:12]}"


@dataclass(frozen=True)
class TrainedModel:
    """A finished training run.

    path: of the checkpoint, under the store of models. accuracy: on the test split, in [0, 1]. seconds: it took.
    kept: path and SHA-256 of the checkpoints at `TrainingJob.keep_epochs`, in their order. metrics: on the test split.
    """

    name: str
    path: str
    sha256: str
    accuracy: float
    num_epochs: int
    seconds: float
    kept: tuple[tuple[str, str], ...]
    metrics: Metrics

    @property
    def checkpoints(self) -> tuple[tuple[str, str], ...]:
        """Path and SHA-256 of all its checkpoints, the finished one last."""
        return (*self.kept, (self.path, self.sha256))


_RESULT = TypeAdapter(TrainedModel)


def read_result(models: Root, path: str) -> TrainedModel:
    """Returns the finished run whose result lies at `path`, its checkpoint compared with the SHA-256 in the result.

    Raises:
        InputError: the result is damaged, or the checkpoint is another.
    """
    folder = models.uri_of(path).rpartition("/")[0]
    try:
        trained = _RESULT.validate_python(models.read_json(path))
    except (InputError, ValidationError):
        raise InputError(f"{models.uri_of(path)} is damaged; delete the folder {folder} to train it again") from None
    if not models.exists(trained.path) or models.sha256(trained.path) != trained.sha256:
        raise InputError(
            f"{models.uri_of(trained.path)} is not the model trained there; delete {folder} to train it again"
        )
    return trained


def load_trained(models: Root, trained: TrainedModel) -> nn.Module:
    """Returns the model in eval mode.

    Raises:
        InputError: the checkpoint is not the one that was trained.
    """
    return model_from_checkpoint(models.read_bytes(trained.path), models.uri_of(trained.path), trained.sha256)[0]
