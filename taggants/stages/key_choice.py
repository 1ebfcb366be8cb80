"""What the stages share on choosing keys out of a pool by what clean networks see (`taggants.keys.choice`)."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from taggants.data.source import read_for_models
from taggants.detection.question import balanced_covers
from taggants.errors import InputError
from taggants.keys import Choice, KeySpec, derive_keys, farthest_points, load_secret
from taggants.models import model_from_checkpoint
from taggants.reporting.progress import say
from taggants.run import Run
from taggants.storage import Root
from taggants.training.separation import separation

_MOST_NATURAL = 500


def natural_images(run: Run) -> NDArray[np.uint8]:
    """Returns test images as models take them, balanced over classes, up to 500: what features are centred on."""
    labels = run.sources[1].index().labels
    rows = balanced_covers(labels, min(_MOST_NATURAL, len(labels)), run.index.num_classes)
    return read_for_models(run.sources[1], list(rows), run.config.data.image_size)


def read_network(run: Run, uri: str) -> tuple[nn.Module, str]:
    """Returns a model of the run's data in eval mode, and the SHA-256 of its file.

    Raises:
        InputError: the file is no checkpoint of a training, or its model does not take these images.
    """
    root, file = Root.of_file(uri)
    data = root.read_bytes(file)
    model, spec = model_from_checkpoint(data, uri)
    if (spec.channels, spec.image_size) != run.model_size:
        raise InputError(
            f"{uri} takes images of {spec.channels}x{spec.image_size}x{spec.image_size} px but the keys have "
            f"{run.model_size[0]}x{run.model_size[1]}x{run.model_size[1]}; give a model of this dataset"
        )
    return model.eval(), hashlib.sha256(data).hexdigest()


class Chooser:
    """Chooses keys out of the configured pool, by the configured networks.

    Raises:
        InputError: as `read_network`.
    """

    def __init__(self, run: Run) -> None:
        assert run.config.keys.pool is not None, "configured together with the networks"
        self._pool = run.config.keys.pool
        self._networks = [read_network(run, uri) for uri in run.config.keys.networks]
        self._natural = natural_images(run)

    def __call__(self, secret: bytes, spec: KeySpec) -> KeySpec:
        """Returns the spec with its choice; sees the images of the secret's candidates alone."""
        candidates = derive_keys(secret, replace(spec, num_keys=self._pool, choice=None)).images
        cosines = np.stack([separation("", model, candidates, self._natural).cosines for model, _ in self._networks])
        indices = farthest_points(cosines, spec.num_keys)
        apart = np.max(cosines, axis=0)[np.ix_(indices, indices)] - 2 * np.eye(len(indices))
        say(
            f"keys    {len(indices)} of {self._pool} candidates chosen; largest cosine of two of them {apart.max():.2f}"
        )
        return replace(spec, choice=Choice(self._pool, tuple(sha256 for _, sha256 in self._networks), indices))


def chooser_of(run: Run) -> Chooser | None:
    """Returns what chooses the run's keys; None without a pool."""
    return None if run.config.keys.pool is None else Chooser(run)


def is_reproduced(run: Run) -> bool:
    """Returns whether the configured pool and networks give the choice in the run's key file."""
    secret = load_secret(run.keys_root, f"{run.config.keys.name}.json")
    found = Chooser(run)(secret, run.keys.spec).choice
    return found == run.keys.spec.choice
