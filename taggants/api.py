"""What a notebook needs: sign a dataset, verify a suspect. Thin: the stages do the work."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from taggants import pipeline
from taggants.cli.configuration import preset_names, preset_path
from taggants.config import Config, config_from_tree, load_config
from taggants.data.frameworks import write_dataset
from taggants.data.inspection import inspect_dataset
from taggants.detection import Certificate
from taggants.errors import FailedShards, InputError
from taggants.evaluation.rehearsal import rehearse as rehearse_detection
from taggants.reporting import summaries
from taggants.reporting.progress import say
from taggants.run import Run
from taggants.stages import verify as verification
from taggants.stages.check import check
from taggants.stages.keys import prepare_keys
from taggants.stages.ray_connection import ray_cluster
from taggants.storage import Root
from taggants.suggestion import suggest
from taggants.suspects import CallableSuspect, Preprocessing, Suspect, open_suspect
from taggants.suspects.hugging_face import suspect_of
from taggants.suspects.module_suspect import ModuleSuspect

Predict: TypeAlias = Callable[[NDArray[np.uint8]], ArrayLike]

_OF_THE_DATASET = ("source", "root", "dataset", "train", "test", "image_column", "label_column")


def sign(
    dataset: Any,
    *,
    root: str | os.PathLike[str] = "runs",
    keys: str | os.PathLike[str] = "secrets",
    test: Any = None,
    config: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None,
    settings: Mapping[str, Any] | None = None,
    rehearse: bool = False,
) -> Run:
    """Signs a dataset and returns the run: draws secret keys, registers the test, trains surrogates, crafts, exports.

    Work goes on in this process, without Ray, unless the configuration sets execution.pool to ray. Interrupted, the same call
    finds what is done and does the rest. Publish `run.registration` before the data, and keep the keys' folder secret.

    Args:
        dataset: the training split. A path or s3:// URI of a folder, whose layout and splits are found out by looking
            (`taggants.data.inspection`), or of one Parquet file or tar; a Hugging Face `Dataset` or `DatasetDict`; or a torch
            map-style dataset of (image, label) without augmentation and normalisation, an image being a picture of Pillow or
            pixels as `taggants.data.frameworks.write_dataset` lists them. Objects are written once, as Parquet under
            `root`/datasets.
        root: folder or s3:// prefix of all runs.
        keys: private folder of the key file, apart from the runs; created if it is missing.
        test: the test split, for the accuracies of the models only: its name below the folder if that does not tell, or
            another object. Without a test split, accuracies are those on the training images.
        config: path of a YAML file, name of a preset, mapping of sections or `Config`; the dataset overrides its data section.
            None: a configuration suggested for the dataset (`taggants.suggestion`).
        settings: fields that override it, such as {"crafting.epsilon": "16/255"}.
        rehearse: also train victims and controls, certify each, and print the table.

    Raises:
        InputError: the dataset, a field or the keys do not fit; one sentence says what and what to do.
        FailedShards: a signing set failed for good.
    """
    run = Run(_configuration(dataset, test, os.fspath(root), os.fspath(keys), config, settings))
    check(run)
    say(summaries.opening(run))
    say(summaries.registered(run, prepare_keys(run)))
    run.write_config()
    with ray_cluster(run.config):
        signing = pipeline.sign(run)
        if signing.export is None:
            shard, reason = sorted(signing.drive.failed.items())[0]
            raise FailedShards(
                f"shard {shard} of run {run.uri} failed for good: {reason}; fix the cause and sign again, what is done is kept"
            )
        if rehearse:
            say(summaries.rehearsed(run, rehearse_detection(run)))
    return run


def verify(
    run: Run | str | os.PathLike[str],
    suspect: Suspect | Predict | nn.Module | Mapping[str, Any] | str | os.PathLike[str],
    *,
    name: str | None = None,
    label_map: str | None = None,
) -> Certificate:
    """Asks a suspect for its answers to the secret keys and returns the certificate, which is also filed in the run folder.

    Args:
        run: what `sign` returned, or the folder of a run.
        suspect: a function from images, uint8 [N, C, H, W] in the size of the keys, to scores [N, classes], higher is likelier,
            or to labels [N, m] or [N], the best first, as integers, called with at most 256 images at a time and without
            recording gradients; what `taggants verify` takes, such as the path of a model.safetensors or of a description
            file; the fields of such a description, {"kind": "onnx", "path": ...}; a torch module that takes pixels in [0, 1]
            in the size of the keys; or a `Suspect`, such as a `ModuleSuspect` of a module that takes others.
        name: of the suspect, for the certificate and its file; None: that of the function, or of the checkpoint.
        label_map: how the suspect's classes are those of the keys: "names", "fitted" or a file; None: they are the same.

    Raises:
        InputError: the run has no registration, its keys are missing or others, the suspect has another number of classes or
            answers in another shape.
    """
    if isinstance(run, str | os.PathLike):
        run = Run.open(run)
    if not isinstance(run, Run):
        raise InputError(f"a {type(run).__name__} is no run; give what taggants.sign returned, or the folder of a run")
    return verification.verify(run, _suspect(suspect, name, run), label_map=label_map)


def _configuration(
    dataset: Any,
    test: Any,
    root: str,
    keys: str,
    config: str | os.PathLike[str] | Mapping[str, Any] | Config | None,
    settings: Mapping[str, Any] | None,
) -> Config:
    if isinstance(dataset, str | os.PathLike):
        if test is not None and not isinstance(test, str):
            raise InputError("test must be the name of the test split below the dataset's folder, as dataset is a path")
        inspection = inspect_dataset(os.fspath(dataset), test=test)
    else:
        folder, has_test = write_dataset(dataset, test, Root(root).child("datasets"))
        inspection = inspect_dataset(folder.uri, train="train.parquet", test="test.parquet" if has_test else None)
    suggested = {section: dict(fields) for section, fields in suggest(inspection).tree.items()}
    tree = _tree(config)
    if tree is None:
        tree = suggested
    else:
        found = suggested["data"]
        given = {name: value for name, value in tree.get("data", {}).items() if name not in _OF_THE_DATASET}
        tree["data"] = found | given
        tree["keys"] = {"name": suggested["keys"]["name"]} | tree.get("keys", {})
    tree["execution"] = {"pool": "inline"} | tree.get("execution", {})
    tree["output"] = tree.get("output", {}) | {"root": Root(root).uri}
    tree["keys"] |= {"root": Root(keys).uri}
    return config_from_tree(tree, [f"{field}={json.dumps(value)}" for field, value in (settings or {}).items()])


def _tree(config: str | os.PathLike[str] | Mapping[str, Any] | Config | None) -> dict[str, Any] | None:
    """Returns what the configuration sets, without the defaults."""
    if config is None:
        return None
    if isinstance(config, Mapping):
        config = config_from_tree(dict(config))
    elif not isinstance(config, Config):
        path = os.fspath(config)
        config = load_config(preset_path(path) if path in preset_names() else path)
    return config.model_dump(mode="json", exclude_unset=True)


def _suspect(suspect: Any, name: str | None, run: Run) -> Suspect:
    if isinstance(suspect, str | os.PathLike | Mapping):
        named = suspect if isinstance(suspect, Mapping) else os.fspath(suspect)
        opened = open_suspect(named, verification.owner_of(run))
        opened.name = name or opened.name
        return opened
    if type(suspect).__module__.startswith("transformers.") and hasattr(suspect, "image_processor"):  # a pipeline
        spoken = name or type(suspect).__name__
        found = suspect_of(suspect.model, suspect.image_processor, spoken, verification.owner_of(run))
        found.name = name or found.name
        return cast(Suspect, found)
    if isinstance(suspect, nn.Module):
        shape = verification.owner_of(run).image_shape
        module = ModuleSuspect(suspect, type(suspect).__name__, Preprocessing(channels=shape[0]), image_shape=shape)
        module.name = name or module.name
        return module
    if not callable(suspect):
        if not hasattr(suspect, "answers"):
            raise InputError(f"a {type(suspect).__name__} is no suspect; give a function, a path or a Suspect")
        return cast(Suspect, suspect)
    if name is None:
        name = re.sub("[^A-Za-z0-9_-]+", "", getattr(suspect, "__name__", "")) or "function"
    return CallableSuspect(suspect, name, run.registration.num_classes)
