"""One configured run: its data, keys and folder.

runs/<config hash>/ config.json  registration.json  plan.json  attempts/  commits/  status.json  signed/
                    certificates/<suspect>.json  contact_sheet.png
runs/models/<name>-<identity>/  shared by the runs that need the same model
runs/datasets/                  the digits, torchvision's datasets and subsets
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.util
import itertools
import os
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from taggants.config import Config, DataConfig, TrainingConfig, load_run_config
from taggants.crafting.plan import RunFolder
from taggants.crafting.selection import images_per_key
from taggants.data import open_source
from taggants.data.fitness import Fitness, fitness_of
from taggants.data.layouts import layout_of
from taggants.data.prepared import PREPARED
from taggants.data.source import DatasetIndex, ImageSource
from taggants.detection import Certificate, Registration
from taggants.errors import InputError
from taggants.export import ExportManifest, verify_export
from taggants.keys import KeySet, KeySpec, load_key_set
from taggants.models import ModelSpec, options_of
from taggants.provenance import git_commit, version
from taggants.storage import Root
from taggants.suspects import Owner
from taggants.training.given import GivenModel, given_model

if TYPE_CHECKING:
    from taggants.data.frameworks import DatasetKind


class Run:
    """One run: its configuration, dataset, secret keys and folder; everything is read or derived when first asked for.

    `taggants.sign` returns it, and `Run.open` finds it again. Of its members `open`, `uri`, `config`, `registration`,
    `certificates` and `dataset` are for users, the others for the stages.

    In a notebook it shows what it is, with pictures of some signed images: a notebook with that output tells which images are
    signed, so it is for the owner alone, as is the run folder. Keys are never shown.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.root = Root(config.output.root).child(config.hash)
        self.folder = RunFolder(self.root)
        self.models = Root(config.output.root).child("models")

    @classmethod
    def open(cls, uri: str | os.PathLike[str]) -> Run:
        """Returns the run in a folder, as `taggants.sign` or `taggants craft` made it.

        Args:
            uri: path or s3:// URI of the run folder.

        Raises:
            InputError: it is no run folder, was renamed, or was made by a version of taggants that configures otherwise.
        """
        return cls(load_run_config(os.fspath(uri)))

    @property
    def uri(self) -> str:
        """The run folder: an absolute path or s3:// URI."""
        return self.root.uri

    @property
    def registration(self) -> Registration:
        """The registration, to be published before the data.

        Raises:
            InputError: there is none yet, or it was changed.
        """
        return read_registration(self)

    def certificates(self) -> dict[str, Certificate]:
        """Returns the certificates of the run by the names of their files, each recomputed from its evidence.

        That is the name of the suspect, and with -2, -3, ... behind it for further tests of a suspect of that name.

        Raises:
            InputError: one was changed.
        """
        found = {}
        for path in self.root.list("certificates"):
            try:
                certificate = Certificate.from_text(self.root.read_bytes(path))
            except InputError as error:
                raise InputError(f"{self.root.uri_of(path)}: {error}") from error
            found[path.split("/")[1].removesuffix(".json")] = certificate
        return found

    def dataset(self, kind: DatasetKind | None = None) -> Any:
        """Returns the signed training split, the one to publish, with its encoded images in memory.

        `signed/` in the run folder holds the same in the dataset's own layout, with all its other columns and files.

        Args:
            kind: "huggingface": a `datasets.Dataset` with the columns image and label, images still encoded; "torch": a
                map-style dataset of (uint8 tensor [C, H, W], label); None: the first if the package datasets is installed,
                else the second.

        Raises:
            InputError: nothing was exported yet, a file differs from the export's manifest, or datasets is not installed.
        """
        from taggants.data.frameworks import TorchImages, as_hugging_face

        if kind is None:
            kind = "torch" if importlib.util.find_spec("datasets") is None else "huggingface"
        assert self.signed_manifest.num_rows == self.index.num_rows
        signed = self.sources[0].at(self.root.child("signed"))
        if kind == "huggingface":
            return as_hugging_face(signed)
        if kind == "torch":
            return TorchImages(signed)
        raise InputError(f"dataset kind {kind!r} does not exist; use 'huggingface' or 'torch'")

    def __repr__(self) -> str:
        return f"Run.open({self.uri!r})"

    def _repr_html_(self) -> str:
        """Returns a summary for a notebook, with the contact sheet as an inline picture; no key."""
        rows = {"run": self.uri}
        if self.root.exists("registration.json"):
            registration = self.registration
            rows["test"] = (
                f"{registration.num_keys} keys, {registration.num_classes} classes, {registration.statistic} statistic at "
                f"alpha {registration.alpha:g}"
            )
            rows["publish first"] = f"registration_sha256 {registration.registration_sha256}"
        is_exported = self.root.exists("signed/manifest.json")
        rows["signed dataset"] = self.root.uri_of("signed") if is_exported else "not exported yet"
        for name, certificate in self.certificates().items():
            decision = "DETECTED" if certificate.is_detected else certificate.verdict
            rows[f"suspect {name}"] = f"{decision}, p = {certificate.p_value:.2e} of this test alone"
        cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows.items())
        picture = ""
        if self.root.exists("contact_sheet.png"):
            data = base64.b64encode(self.root.read_bytes("contact_sheet.png")).decode()
            picture = (
                "<figcaption>Some signed images: this output tells that they are signed, keep it to yourself.</figcaption>"
                f'<img style="max-width: 100%" alt="originals and signed images" src="data:image/png;base64,{data}">'
            )
        return f"<figure><table>{cells}</table>{picture}</figure>"

    @cached_property
    def sources(self) -> tuple[ImageSource, ImageSource]:
        """The training and test files; what is no file yet, and subsets, are first written under the output root, once.

        Without a test split, both are the training files.
        """
        return _sources(self.config.data, Root(self.config.output.root).child("datasets"))

    @cached_property
    def index(self) -> DatasetIndex:
        return self.sources[0].index()

    @cached_property
    def fitness(self) -> Fitness:
        """Which training images can be signed, by their headers."""
        return fitness_of(self.sources[0])

    @cached_property
    def model_size(self) -> tuple[int, int]:
        """(channels, height = width) that models take: data.image_size, or the size of the images.

        Raises:
            InputError: data.image_size is null and the first image is not square.
        """
        data = self.config.data
        if data.image_size is not None:
            return data.channels, data.image_size
        channels, height, width = self.sources[0].read_images([0]).shape[1:]
        if height != width:
            raise InputError(
                f"images are {height} x {width} px, which is not square; set data.image_size to the side that models take"
            )
        return int(channels), int(height)

    @property
    def owner(self) -> Owner:
        """What models that others trained need to know of the dataset."""
        channels, image_size = self.model_size
        return Owner(self.index.num_classes, (channels, image_size, image_size), self.index.class_names)

    @cached_property
    def given_surrogates(self) -> dict[int, GivenModel]:
        """The surrogates that exist already, by their number, read when first asked for.

        Raises:
            InputError: one cannot be opened, or does not fit the dataset.
        """
        config = self.config
        return {
            index: given_model(
                f"surrogate-{index}", self._where_it_lies(named), training.model, training.patch_size, self.owner
            )
            for index, (named, training) in enumerate(
                zip(config.surrogate.weights, config.surrogate_trainings, strict=False)
            )
            if named is not None
        }

    @cached_property
    def given_references(self) -> list[GivenModel]:
        """The models of others that suspects are compared with, `public-0` and so on, read when first asked for.

        Raises:
            InputError: one cannot be opened, or does not fit the dataset.
        """
        question = self.config.detection.question
        return [
            given_model(
                f"public-{index}",
                self._where_it_lies(named),
                self.config.surrogate.model,
                None,
                self.owner,
                "detection.question.references",
            )
            for index, named in enumerate(question.references if question else ())
        ]

    def _where_it_lies(self, named: str) -> str:
        """A relative path that starts where the run was made, if nothing is there in the working directory."""
        if os.path.exists(named) or not self.root.exists("config.json"):
            return named
        there = os.path.join(str(self.root.read_json("config.json").get("directory", "")), named)
        return there if os.path.exists(there) else named

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
            parameters=keys.parameters,
        )

    @cached_property
    def keys(self) -> KeySet:
        """The keys of the configured key file.

        Raises:
            InputError: no key file yet, one that fails its commitment, or one of another spec.
        """
        path = f"{self.config.keys.name}.json"
        key_set = load_key_set(self.keys_root, path, self.config.keys.num_keys)
        choice = key_set.spec.choice
        pool = None if choice is None else choice.pool
        if replace(key_set.spec, choice=None) != self.key_spec or pool != self.config.keys.pool:
            raise InputError(
                f"key file {self.keys_root.uri_of(path)} holds {_spec_text(key_set.spec, pool)} but the config asks for "
                f"{_spec_text(self.key_spec, self.config.keys.pool)}; choose another keys.name or the same fields"
            )
        return key_set

    @cached_property
    def before_retraining(self) -> Run | None:
        """The same run with one retraining of its surrogates less, in a run folder of its own; None without retrainings."""
        surrogate = self.config.surrogate
        if surrogate.retrainings == 0:
            return None
        fewer = surrogate.model_copy(update={"retrainings": surrogate.retrainings - 1})
        earlier = Run(self.config.model_copy(update={"surrogate": fewer}))
        earlier.sources, earlier.fitness = self.sources, self.fitness  # read already
        return earlier

    @cached_property
    def signed_manifest(self) -> ExportManifest:
        """The manifest of `signed/`. Every file is read and checked when first asked for: once for all victims of this object.

        Raises:
            InputError: nothing exported yet, or a file differs from its manifest.
        """
        signed = self.root.child("signed")
        if not signed.exists("manifest.json"):
            raise InputError(f"{signed.uri} has no manifest.json; run `taggants craft` with this configuration first")
        return verify_export(signed)

    def write_config(self) -> None:
        """Writes the resolved configuration, its hash, the git commit and the versions, once keys and data are those that the run
        folder is registered for: it says where they lie."""
        self.root.write_json(
            "config.json",
            {
                "config": self.config.model_dump(mode="json"),
                "config_hash": self.config.hash,
                "directory": os.getcwd(),  # of relative roots
                "git_commit": git_commit(),
                "versions": {name: version(name) for name in ("taggants", "torch", "ray", "numpy", "timm")},
            },
        )


def _sources(data: DataConfig, prepared: Root) -> tuple[ImageSource, ImageSource]:
    layout = data.source
    if data.source in PREPARED:
        layout = "parquet"
        root = prepared.child(data.source if data.dataset is None else f"{data.source}-{data.dataset}")
        PREPARED[data.source].write(root, data.dataset, data.root)
    else:
        assert data.root is not None, "checked by the configuration"
        root = Root(data.root)

    def source(root: Root, layout: str, files: str) -> ImageSource:
        columns = {"image_column": data.image_column, "label_column": data.label_column}
        return open_source(layout, root, files, channels=data.channels, **columns)

    train = source(root, layout, data.train)
    test = train if data.test is None else source(root, layout, data.test)
    if data.num_classes is None and data.images_per_class is None:
        return train, test
    num_classes = data.num_classes or train.index().num_classes
    content = f"{train.index().fingerprint} {test.index().fingerprint} {data.image_column} {data.label_column}"
    part = f"{hashlib.sha256(content.encode()).hexdigest()[:12]}-{num_classes}-{data.images_per_class or 'all'}"
    subset = prepared.child(f"subset-{part}")
    layout_of(train).write_subset(
        train, subset, "train.parquet", num_classes=num_classes, images_per_class=data.images_per_class
    )
    train_part = source(subset, "parquet", "train.parquet")
    if data.test is None:
        return train_part, train_part
    layout_of(test).write_subset(test, subset, "test.parquet", num_classes=num_classes, images_per_class=None)
    return train_part, source(subset, "parquet", "test.parquet")


def _spec_text(spec: KeySpec, pool: int | None) -> str:
    size = f"{spec.channels}x{spec.image_size}x{spec.image_size}"
    parameters = ", ".join(f"{name} {value}" for name, value in spec.parameters.items())
    chosen = "" if pool is None else f", chosen out of {pool}"
    return f"{spec.num_keys} {spec.family} keys of {size} px ({parameters}) for {spec.num_classes} classes{chosen}"


def model_spec(run: Run, training: TrainingConfig) -> ModelSpec:
    """Returns what a training section builds for the images of this run."""
    channels, image_size = run.model_size
    options = {name: getattr(training, name) for name in options_of(training.model)}
    return ModelSpec(training.model, run.index.num_classes, channels, image_size, **options)


def signing_size(run: Run) -> int:
    """Returns the number of images that carry one key."""
    signing = run.config.signing
    return images_per_key(
        run.index.num_rows, run.config.keys.num_keys, budget=signing.budget, per_key=signing.images_per_key
    )


def registration_paths(run: Run) -> list[str]:
    """Returns the registrations in the run folder, the valid one last: `registration.json`, then `registration-2.json` and so
    on, each of which made the one before void."""
    numbered = (f"registration-{number}.json" for number in itertools.count(2))
    return list(itertools.takewhile(run.root.exists, itertools.chain(["registration.json"], numbered)))


def read_registration(run: Run) -> Registration:
    """Returns the valid registration of the run folder.

    Raises:
        InputError: there is none, or it was changed.
    """
    paths = registration_paths(run)
    if not paths:
        raise InputError(
            f"run folder {run.root.uri} has no registration.json; run `taggants craft` with this configuration first"
        )
    try:
        return Registration.from_text(run.root.read_bytes(paths[-1]))
    except InputError as error:
        raise InputError(f"{run.root.uri_of(paths[-1])}: {error}") from error
