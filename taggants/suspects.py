"""Suspects: models under test behind one protocol, asked only for what they say of given images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import interpolate

from taggants.errors import InputError
from taggants.models import model_from_checkpoint
from taggants.storage import Root


class Suspect(Protocol):
    """name: for the certificate and its file, of letters, digits and -_. only. sha256: of its weights, None behind an API."""

    name: str
    sha256: str | None
    num_classes: int

    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns float64 [N, num_classes], higher is likelier, for uint8 images [N, C, H, W]."""
        ...


class CheckpointSuspect:
    """A model.safetensors file written by a training run."""

    def __init__(self, uri: str, name: str | None = None) -> None:
        """Reads the checkpoint; `uri` is a path or s3:// URI.

        Raises:
            InputError: no such file, or not a checkpoint of ours.
        """
        root, file = Root.of_file(uri)
        data = root.read_bytes(file)
        self._model, self._spec = model_from_checkpoint(data, uri)
        self.sha256: str | None = hashlib.sha256(data).hexdigest()
        # Certificates are filed under the name: the hash keeps models of equally named folders apart.
        spoken = "".join(c if c.isalnum() or c in "-_." else "-" for c in PurePosixPath(uri).parent.name).strip(".")
        self.name = name or f"{spoken[:100] or 'suspect'}-{self.sha256[:8]}"
        self.num_classes = self._spec.num_classes
        self._uri = uri

    @torch.no_grad()
    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Images of another size are resized to the suspect's input with nearest neighbours, as the paper does with its keys.

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


class CallableSuspect:
    """Any function of images, for instance one that asks an API."""

    def __init__(self, predict: Callable[[NDArray[np.uint8]], ArrayLike], name: str, num_classes: int) -> None:
        """
        Args:
            predict: uint8 [N, C, H, W] -> real scores [N, num_classes], higher is likelier, or integer labels [N, m] or [N],
                the best first.
            name: for the certificate and its file.
            num_classes: of the dataset.
        """
        self._predict = predict
        self.name = name
        self.sha256: str | None = None
        self.num_classes = num_classes

    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Labels become scores that fall with their place, and 0 for those that were not named.

        Raises:
            InputError: the answer has another shape.
        """
        answer = np.asarray(self._predict(images))
        if answer.dtype.kind in "iu":
            labels = answer[:, None] if answer.ndim == 1 else answer
            if labels.ndim == 2 and len(labels) == len(images) and 0 <= labels.min() <= labels.max() < self.num_classes:
                scores = np.zeros((len(images), self.num_classes))
                places = np.arange(labels.shape[1], 0, -1, dtype=np.float64)
                np.put_along_axis(scores, labels, np.broadcast_to(places, labels.shape), axis=1)
                return scores
        if answer.shape != (len(images), self.num_classes) or answer.dtype.kind != "f":
            raise InputError(
                f"suspect {self.name!r} answered {answer.dtype} {answer.shape} to {len(images)} images; it must give real "
                f"scores ({len(images)}, {self.num_classes}) or whole labels below {self.num_classes}, ({len(images)}, m)"
            )
        return answer.astype(np.float64)


def check_classes(suspect: Suspect, num_classes: int) -> None:
    """Raises InputError unless the suspect answers with as many classes as the key labels were drawn from."""
    if suspect.num_classes != num_classes:
        raise InputError(
            f"suspect {suspect.name!r} has {suspect.num_classes} classes but the keys were drawn from {num_classes}; "
            "test a model of the dataset that these keys belong to"
        )
