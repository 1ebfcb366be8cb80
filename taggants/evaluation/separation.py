"""How well networks tell keys apart: before anything is signed, since no crafting gets past what networks cannot see.

A network that answers all keys alike ranks each label the same on every key, so at best it ranks the labels that occur first.
That bounds every p-value from below, however well the data were signed (`collapse_floor`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taggants.data.source import read_for_models
from taggants.detection import rank_p_value
from taggants.detection.question import balanced_covers
from taggants.errors import InputError
from taggants.keys import KeySet
from taggants.models import model_from_checkpoint
from taggants.run import Run
from taggants.stages.evaluate import suspect_job
from taggants.stages.model_training import surrogate_jobs
from taggants.stages.questions import reference_jobs
from taggants.storage import Root
from taggants.training.features import penultimate_features
from taggants.training.job import read_result
from taggants.training.loop import predict_scores

_MOST_NATURAL = 500


@dataclass(frozen=True, eq=False)
class Separation:
    """How one network sees the keys.

    cosines: pairwise, of its features before the last layer, centred on the mean of natural images; float64 [keys, keys].
    relative_norm: mean norm of the keys' centred features over that of natural images. num_answered: how many classes are its
    best for some key. commonest_share: of the keys, answered with the commonest class.
    """

    name: str
    cosines: NDArray[np.float64]
    relative_norm: float
    num_answered: int
    commonest_share: float

    @property
    def pairs(self) -> NDArray[np.float64]:
        """The cosine of each pair of keys once; 1 where there is a single key."""
        above = np.triu_indices(len(self.cosines), 1)
        return self.cosines[above] if len(above[0]) else np.ones(1)


def separation(name: str, model: nn.Module, keys: NDArray[np.uint8], natural: NDArray[np.uint8]) -> Separation:
    """Returns how a model of `build_model`, in eval mode, sees keys; keys, natural: uint8 [N, C, S, S]."""
    of_keys, of_natural = (
        penultimate_features(model, torch.from_numpy(images.copy())).double().numpy() for images in (keys, natural)
    )
    mean = of_natural.mean(axis=0)
    centred = of_keys - mean
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.maximum(norms, np.finfo(np.float64).tiny)
    with torch.no_grad():
        answers = predict_scores(model, torch.from_numpy(keys.copy())).argmax(1).numpy()
    _, counts = np.unique(answers, return_counts=True)
    return Separation(
        name=name,
        cosines=unit @ unit.T,
        relative_norm=float(norms.mean() / np.linalg.norm(of_natural - mean, axis=1).mean()),
        num_answered=len(counts),
        commonest_share=float(counts.max() / len(keys)),
    )


def collapse_floor(key_labels: NDArray[np.int64], num_classes: int) -> float:
    """Returns the smallest p-value of the rank statistic that a model can reach which answers all keys alike.

    It ranks the commonest label of the keys first, the next commonest second, and so on.
    """
    _, counts = np.unique(key_labels, return_counts=True)
    ranks = np.repeat(np.arange(1, len(counts) + 1), np.sort(counts)[::-1])
    return rank_p_value(ranks, num_classes)


def natural_images(run: Run) -> NDArray[np.uint8]:
    """Returns test images as models take them, balanced over classes, up to 500: what features are centred on."""
    labels = run.sources[1].index().labels
    rows = balanced_covers(labels, min(_MOST_NATURAL, len(labels)), run.index.num_classes)
    return read_for_models(run.sources[1], list(rows), run.config.data.image_size)


def clean_models(run: Run) -> dict[str, str]:
    """Returns the uri of each surrogate, reference and control of a run that is trained, by name; none is trained here.

    Raises:
        InputError: a result is damaged.
    """
    controls = [suspect_job(run, "control", index) for index in range(run.config.evaluation.num_controls)]
    found = {}
    for job in (*surrogate_jobs(run), *reference_jobs(run), *controls):
        path = f"{job.folder}/result.json"
        if run.models.exists(path):
            found[job.name] = run.models.uri_of(read_result(run.models, path).path)
    return found


def inspect_keys(run: Run, keys: KeySet, models: Mapping[str, str]) -> list[Separation]:
    """Returns how each model sees the keys; models: uri of a checkpoint of a training of ours, by name.

    Raises:
        InputError: a file is no such checkpoint, or its model does not take these images.
    """
    natural, found = natural_images(run), []
    for name, uri in models.items():
        root, file = Root.of_file(uri)
        model, spec = model_from_checkpoint(root.read_bytes(file), uri)
        if (spec.channels, spec.image_size) != run.model_size:
            raise InputError(
                f"{uri} takes images of {spec.channels}x{spec.image_size}x{spec.image_size} px but the keys have "
                f"{run.model_size[0]}x{run.model_size[1]}x{run.model_size[1]}; give a model of this dataset"
            )
        found.append(separation(name, model.eval(), keys.images, natural))
    return found
