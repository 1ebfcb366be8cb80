"""A suspect that is a checkpoint of our own trainings."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from taggants.errors import InputError
from taggants.storage import Root
from taggants.suspects.description import FileUri, Owner, SuspectDescription
from taggants.suspects.naming import name_from
from taggants.suspects.preprocessing import Preprocessing
from taggants.suspects.weights import Weights, read_file


class CheckpointDescription(SuspectDescription):
    """A checkpoint of our own trainings: its header says the rest."""

    path: FileUri = Field(description="path or s3:// URI of a model.safetensors")

    def load(self, owner: Owner) -> Weights:
        """As `WeightsDescription.load`."""
        from torch import nn

        from taggants.models import InputNormalisation, model_from_checkpoint
        from taggants.models.weights import Network

        data, sha256, origin = read_file(self.path)
        model, spec = model_from_checkpoint(data, origin)
        if spec.adaptation is not None:
            raise InputError(f"{origin} was adapted to a dataset already; give the file that it was made of")
        assert isinstance(model, nn.Sequential), "as build_model makes them"
        normalisation = model[0]
        assert isinstance(normalisation, InputNormalisation)
        mean, std = (tuple(values.flatten().tolist()) for values in (normalisation.mean, normalisation.std))
        spoken = PurePosixPath(self.path).parent.name
        return Weights(Network(model, spec), mean, std, sha256, self.class_names, origin, spoken)

    def open(self, owner: Owner) -> CheckpointSuspect:
        return CheckpointSuspect(self.path)


class CheckpointSuspect:
    """A model.safetensors file written by a training run."""

    def __init__(self, uri: str, name: str | None = None) -> None:
        """Reads the checkpoint; `uri` is a path or s3:// URI.

        Raises:
            InputError: no such file, or not a checkpoint that taggants trained.
        """
        from taggants.models import model_from_checkpoint

        root, file = Root.of_file(uri)
        data = root.read_bytes(file)
        self._model, self._spec = model_from_checkpoint(data, uri)
        self.sha256: str | None = hashlib.sha256(data).hexdigest()
        self.name = name or name_from(PurePosixPath(uri).parent.name, self.sha256)
        self.num_classes = self._spec.num_classes
        self.class_names: tuple[str, ...] | None = None
        self._uri = uri

    def answers(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns scores [N, num_classes]; images of another size or number of channels are brought to its own."""
        import torch

        taken = Preprocessing(self._spec.image_size, channels=self._spec.channels)(images)
        with torch.no_grad():
            logits = torch.cat([self._model(part) for part in torch.split(torch.from_numpy(taken), 512)])
        return logits.to(torch.float64).numpy()
