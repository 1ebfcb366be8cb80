"""How well networks tell keys apart: before anything is signed, since no crafting gets past what networks cannot see.

A network that answers all keys alike ranks each label the same on every key, so at best it ranks the labels that occur first.
That bounds every p-value from below, however well the data were signed (`collapse_floor`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from taggants.detection import rank_p_value
from taggants.keys import KeySet
from taggants.run import Run
from taggants.stages.evaluate import suspect_job
from taggants.stages.key_choice import natural_images, read_network
from taggants.stages.model_training import surrogate_jobs
from taggants.stages.questions import reference_jobs
from taggants.training.job import read_result
from taggants.training.separation import Separation, separation


def collapse_floor(key_labels: NDArray[np.int64], num_classes: int) -> float:
    """Returns the smallest p-value of the rank statistic that a model can reach which answers all keys alike.

    It ranks the commonest label of the keys first, the next commonest second, and so on.
    """
    _, counts = np.unique(key_labels, return_counts=True)
    ranks = np.repeat(np.arange(1, len(counts) + 1), np.sort(counts)[::-1])
    return rank_p_value(ranks, num_classes)


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
    natural = natural_images(run)
    return [separation(name, read_network(run, uri)[0], keys.images, natural) for name, uri in models.items()]
