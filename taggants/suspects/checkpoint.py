"""A suspect that is a checkpoint of our own trainings."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from taggants.storage import Root
from taggants.suspects.description import FileUri, Owner, SuspectDescription
from taggants.suspects.naming import name_from
from taggants.suspects.preprocessing import Preprocessing


class CheckpointDescription(SuspectDescription):
    """A checkpoint of our own trainings: its header says the rest."""

    path: FileUri = Field(description="path or s3:// URI of a model.safetensors")

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
