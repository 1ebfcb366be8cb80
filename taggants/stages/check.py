"""Stage: what can be known to fail before any work starts."""

from __future__ import annotations

import itertools
import unicodedata

import numpy as np
import torch

from taggants.augmentation import CropAndFlip
from taggants.config import Config
from taggants.crafting.selection import check_class_sizes
from taggants.data.fitness import fit_in_words
from taggants.data.layouts import layout_of
from taggants.data.source import DatasetIndex
from taggants.errors import InputError, check_text
from taggants.export import PNG_WRITTEN_ANEW, image_storage_of
from taggants.models import check_model
from taggants.reporting.progress import say
from taggants.run import Run, model_spec, signing_size
from taggants.stages.crafting_settings import augmentation_of, storage_policy_of
from taggants.stages.questions import question_of
from taggants.storage import Root
from taggants.suspects.recorded_answers import check_recordable
from taggants.text import one_line

_NUM_SIZES_CHECKED = 16


def check(run: Run) -> None:
    """Checks what can be known before any work: that the run and key folders can be written, then the keys' spec, the models
    and the augmentations against the images.

    Raises:
        InputError: the first misfit.
    """
    config = run.config
    _check_files(config)
    _check_devices(config)
    for root in (run.root, run.keys_root):
        root.check_writable()  # before the data are read, which may take an hour
        root.check_exclusive()
    image_size = run.model_size[1]
    if config.data.image_size is None:
        _check_one_size(run)
    _check_same_classes(run.index, run.sources[1].index())
    question = question_of(run)
    if question is not None:
        _check_class_names(run.index)
        num_asked = len(question.cover_ids) + config.keys.num_keys * question.num_queries
        check_recordable(num_asked, run.index.num_classes)
    source = run.sources[0]
    for name in run.index.files if layout_of(source).suffix else ():
        layout_of(source).check_rewritable(source, name)
    if source.skipped:
        listed = ", ".join(f"{count} {one_line(suffix, 40)}" for suffix, count in source.skipped.items())
        say(f"data    left out by their names, as torchvision and WebDataset do: {listed}")
    for line in fit_in_words(run.fitness, run.index.num_rows):
        say(f"data    {line}")
    if image_storage_of(source, None, storage_policy_of(config), source.layout).reencodes_png:
        say(f"check: {PNG_WRITTEN_ANEW}")
    check_class_sizes(run.index.labels, run.index.num_classes, signing_size(run), run.fitness.is_fit)
    assert run.key_spec.num_classes == run.index.num_classes
    if config.detection.top_k >= run.index.num_classes:
        raise InputError(
            f"detection.top_k = {config.detection.top_k} must be below the number of classes, {run.index.num_classes}"
        )
    for cropped in (config.surrogate, config.evaluation.training):
        CropAndFlip(cropped.crop_padding, cropped.flip).check(image_size)
    augmentation_of(config, image_size).check(image_size)
    trained = [("surrogate", t) for i, t in enumerate(config.surrogate.trainings) if i not in run.given_surrogates]
    kinds = "detection.question.kinds" if config.detection.question and config.detection.question.kinds else "surrogate"
    references = [(kinds, training) for training in config.reference_trainings]
    for name, training in (*trained, *references, ("evaluation.training", config.evaluation.training)):
        try:
            check_model(model_spec(run, training))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None


def _check_files(config: Config) -> None:
    """What is read hours later, or not at all."""
    for field, uri in (
        ("crafting.lpips_weights", config.crafting.lpips_weights),
        ("surrogate.init_from", config.surrogate.init_from),
        ("evaluation.training.init_from", config.evaluation.training.init_from),
        *(("keys.networks", uri) for uri in config.keys.networks),
    ):
        if uri is None:
            continue
        root, name = Root.of_file(uri)
        if not root.exists(name):
            raise InputError(
                f"{field} = {root.uri_of(name)} does not exist; give the path of the file, or leave it out"
            )


def _check_devices(config: Config) -> None:
    """What this process does itself needs its own GPU; Ray gives its actors and tasks theirs."""
    is_inline = config.execution.pool == "inline"
    evaluation = config.evaluation.training
    rehearses = config.evaluation.num_victims + config.evaluation.num_controls > 0
    for field, device, is_here in (
        ("crafting.device", config.crafting.device, is_inline),
        ("surrogate.device", config.surrogate.device, config.surrogate.num_workers == 0),
        ("evaluation.training.device", evaluation.device, rehearses and is_inline and evaluation.num_workers == 0),
    ):
        if device == "cuda" and is_here and not torch.cuda.is_available():
            fix = "set surrogate.num_workers to 1" if field.startswith("surrogate") else "set execution.pool to ray"
            raise InputError(
                f"{field} = cuda but this machine has no CUDA device; {fix} for a cluster that has, or use cpu"
            )


def _check_one_size(run: Run) -> None:
    """Looks at a few images of both splits; training reads them all, and names one of another size as well."""
    channels, image_size = run.model_size
    for split, source in zip(("training", "test"), run.sources, strict=True):
        sample_ids = np.unique(np.linspace(0, source.num_rows - 1, _NUM_SIZES_CHECKED, dtype=np.int64)).tolist()
        for sample_id, image in zip(sample_ids, source.read_sized(sample_ids), strict=True):
            if image.shape != (channels, image_size, image_size):
                raise InputError(
                    f"{split} image {source.place_of(sample_id)} has shape {image.shape} but the first training image "
                    f"{channels, image_size, image_size}; set data.image_size to the side in px that models take"
                )


def _check_class_names(train: DatasetIndex) -> None:
    """Those of a registered question are published: before keys are drawn."""
    for name in train.class_names or ():
        try:
            check_text("class name", name)
        except InputError as error:
            raise InputError(
                f"{str(error).rstrip('.')}, since it is published with the registered question; rename the class in the dataset"
            ) from None


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _check_same_classes(train: DatasetIndex, test: DatasetIndex) -> None:
    if train.class_names and test.class_names and train.class_names != test.class_names:
        only_in = [sorted(set(a) - set(b)) for a, b in itertools.permutations((train.class_names, test.class_names))]
        if [_composed(name) for name in train.class_names] == [_composed(name) for name in test.class_names]:
            raise InputError(
                "class names of the training and test data look alike but are other characters (Unicode NFC and NFD, as macOS "
                "writes them); rename the classes of one split, for instance with convmv"
            )
        listed = [f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" or "none" for names in only_in]
        raise InputError(
            f"classes of the training and test data differ, which would shift labels (only in training: {listed[0]}; only in "
            f"test: {listed[1]}); use the same classes in the same order"
        )
    if int(test.labels.max()) >= train.num_classes:
        raise InputError(
            f"test label {int(test.labels.max())} is beyond the {train.num_classes} classes of the training data"
        )
