"""One configured run: its data, keys and folder, and what can be checked of them before any work.

runs/<config hash>/ config.json  registration.json  plan.json  attempts/  commits/  signed/
                    certificates/<suspect>.json  contact_sheet.png
runs/models/<name>-<identity>/  shared by the runs that need the same model
runs/datasets/                  the digits and subsets
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
from functools import cached_property

from taggants.augmentation import CropAndFlip
from taggants.config import Config, DataConfig, TrainingConfig
from taggants.data.digits import write_digits
from taggants.data.parquet_source import DatasetIndex, ParquetSource
from taggants.data.subset import write_subset
from taggants.errors import InputError
from taggants.export import check_originals
from taggants.keys import KeySet, KeySpec, Registration, load_key_set
from taggants.manifest import RunFolder
from taggants.models import ModelSpec, check_model
from taggants.signing import check_classes, images_per_key
from taggants.storage import Root


class Run:
    """One configured run: its dataset, keys and run folder; everything is read or derived when first asked for."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.root = Root(config.output.root).child(config.hash)
        self.folder = RunFolder(self.root)
        self.models = Root(config.output.root).child("models")

    @cached_property
    def sources(self) -> tuple[ParquetSource, ParquetSource]:
        """The training and test files; digits and subsets are first written under the output root, once."""
        return _sources(self.config.data, Root(self.config.output.root).child("datasets"))

    @cached_property
    def index(self) -> DatasetIndex:
        return self.sources[0].index()

    @cached_property
    def model_size(self) -> tuple[int, int]:
        """(channels, height = width) of the images.

        Raises:
            InputError: the first image is not square.
        """
        channels, height, width = self.sources[0].read_images([0]).shape[1:]
        if height != width:
            raise InputError(
                f"images are {height} x {width} px; only square images are supported so far: crop or resize them"
            )
        return int(channels), int(height)

    @property
    def keys_root(self) -> Root:
        return Root(self.config.keys.root)

    @property
    def key_spec(self) -> KeySpec:
        keys = self.config.keys
        channels, image_size = self.model_size
        return KeySpec(
            num_keys=keys.num_keys,
            num_classes=self.index.num_classes,
            channels=channels,
            image_size=image_size,
            family=keys.family,
            cell_size=keys.cell_size,
        )

    @cached_property
    def keys(self) -> KeySet:
        """The keys of the configured key file.

        Raises:
            InputError: no key file yet, one that fails its commitment, or one of another spec.
        """
        path = f"{self.config.keys.name}.json"
        key_set = load_key_set(self.keys_root, path, self.config.keys.num_keys)
        if key_set.spec != self.key_spec:
            raise InputError(
                f"key file {self.keys_root.uri_of(path)} holds {_spec_text(key_set.spec)} but the config asks for "
                f"{_spec_text(self.key_spec)}; choose another keys.name or the same fields"
            )
        return key_set

    def write_config(self) -> None:
        """Writes the resolved configuration, its hash, the git commit and the versions: the first file of a run."""
        self.root.write_json(
            "config.json",
            {
                "config": self.config.model_dump(mode="json"),
                "config_hash": self.config.hash,
                "git_commit": _git_commit(),
                "versions": {
                    name: importlib.metadata.version(name) for name in ("taggants", "torch", "ray", "numpy", "timm")
                },
            },
        )


def _sources(data: DataConfig, prepared: Root) -> tuple[ParquetSource, ParquetSource]:
    def source(root: Root, files: str) -> ParquetSource:
        names = (files,) if files.endswith(".parquet") else files
        return ParquetSource(root, names, data.image_column, data.label_column, data.channels)

    if data.source == "digits":
        root = prepared.child("digits")
        write_digits(root)
    else:
        assert data.root is not None, "checked by the configuration"
        root = Root(data.root)
    train, test = source(root, data.train), source(root, data.test)
    if data.num_classes is None and data.images_per_class is None:
        return train, test
    num_classes = data.num_classes or train.index().num_classes
    content = f"{train.index().fingerprint} {test.index().fingerprint} {data.image_column} {data.label_column}"
    part = f"{hashlib.sha256(content.encode()).hexdigest()[:12]}-{num_classes}-{data.images_per_class or 'all'}"
    subset = prepared.child(f"subset-{part}")
    write_subset(train, subset, "train.parquet", num_classes=num_classes, images_per_class=data.images_per_class)
    write_subset(test, subset, "test.parquet", num_classes=num_classes, images_per_class=None)
    return source(subset, "train.parquet"), source(subset, "test.parquet")


def _spec_text(spec: KeySpec) -> str:
    size = f"{spec.channels}x{spec.image_size}x{spec.image_size}"
    return f"{spec.num_keys} {spec.family} keys of {size} px (cell {spec.cell_size}) for {spec.num_classes} classes"


def _git_commit() -> str | None:
    answer = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=os.path.dirname(__file__)
    )
    return answer.stdout.strip() or None


def check(run: Run) -> None:
    """Checks what can be known before any work: the keys' spec, the models and the augmentations against the images.

    Raises:
        InputError: the first misfit.
    """
    config = run.config
    channels, image_size = run.model_size
    test = run.sources[1]
    if test.read_images([0]).shape[1:] != (channels, image_size, image_size):
        raise InputError(
            f"test images have shape {test.read_images([0]).shape[1:]} but training images {channels, image_size, image_size}; "
            "use one size for both"
        )
    if int(test.index().labels.max()) >= run.index.num_classes:
        raise InputError(
            f"test label {int(test.index().labels.max())} is beyond the {run.index.num_classes} classes of the training data"
        )
    check_originals(run.sources[0], [0])
    check_classes(run.index.labels, run.index.num_classes, signing_size(run))
    assert run.key_spec.num_classes == run.index.num_classes
    if config.detection.top_k >= run.index.num_classes:
        raise InputError(
            f"detection.top_k = {config.detection.top_k} must be below the number of classes, {run.index.num_classes}"
        )
    for section in (config.surrogate, config.crafting, config.evaluation.training):
        CropAndFlip(section.crop_padding, section.flip).check(image_size)
    for training in (*config.surrogate.trainings, config.evaluation.training):
        check_model(model_spec(run, training))


def model_spec(run: Run, training: TrainingConfig) -> ModelSpec:
    """Returns what a training section builds for the images of this run."""
    channels, image_size = run.model_size
    return ModelSpec(training.model, run.index.num_classes, channels, image_size)


def signing_size(run: Run) -> int:
    """Returns the number of images that carry one key."""
    signing = run.config.signing
    return images_per_key(
        run.index.num_rows, run.config.keys.num_keys, budget=signing.budget, per_key=signing.images_per_key
    )


def read_registration(run: Run) -> Registration:
    """Returns the registration of the run folder.

    Raises:
        InputError: there is none, or it was changed.
    """
    if not run.root.exists("registration.json"):
        raise InputError(
            f"run folder {run.root.uri} has no registration.json; run jobs/craft.py with this configuration first"
        )
    try:
        return Registration.from_json(run.root.read_json("registration.json"))
    except InputError as error:
        raise InputError(f"{run.root.uri_of('registration.json')}: {error}") from error
