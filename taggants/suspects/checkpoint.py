"""A suspect that is a checkpoint of our own trainings."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from taggants.errors import InputError
from taggants.models import model_from_checkpoint
from taggants.storage import Root


class CheckpointSuspect:
    """A model.safetensors file written by a training run."""

    def __init__(self, uri: str, name: str | None = None) -> None:
        """Reads the checkpoint; `uri` is a path or s3:// URI.

        Raises:
            InputError: no such file, or not a checkpoint that taggants trained.
        """
        root, file = Root.of_file(uri)
        data = root.read_bytes(file)
        self._model, self._spec = model_from_checkpoint(data, uri)
        self.sha256: str | None = hashlib.sha256(data).hexdigest()
        # Certificates are filed under the name: the hash keeps models of equally named folders apart.
        spoken = "".join(
            c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in PurePosixPath(uri).parent.name
        ).strip(".")
        self.name = name or f"{spoken[:100] or 'suspect'}-{self.sha256[:8]}"
        self.num_classes = self._spec.num_classes
        self.class_names: tuple[str, ...] | None = None
        self._uri = uri

    @torch.no_grad()
    def answers(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns scores [N, num_classes]. Images of another size are resized to the suspect's input with nearest neighbours, as
        the paper does with its keys.

        Raises:
            InputError: the suspect takes another number of channels.
        """
        if images.shape[1] != self._spec.channels:
            raise InputError(
                f"suspect {self._uri} takes {self._spec.channels} channels but the keys have {images.shape[1]}; "
                "test a model of this dataset"
            )
        pixels = torch.from_numpy(np.array(images)).to(torch.float32) / 255
        if pixels.shape[-1] != self._spec.image_size:
            pixels = interpolate(pixels, size=self._spec.image_size, mode="nearest")
        logits = torch.cat([self._model(part) for part in torch.split(pixels, 512)])
        return logits.to(torch.float64).numpy()
