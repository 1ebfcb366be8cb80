"""A suspect that is a Python function, whatever it calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taggants.errors import InputError


class CallableSuspect:
    """A function from uint8 images [N, channels, H, W] to scores or labels, in the forms of `Suspect.answers`.

    Args:
        predict: called with at most `batch_size` images at a time, and without recording gradients; arrays, lists and torch
            tensors are all read.
        name: for the certificate and its file, of letters, digits and -_. only.
        num_classes: of the dataset that the keys belong to; the function answers with its classes, in its order.
        sha256: of what is known of the suspect, such as a file of weights; None if nothing is.
        class_names: of the classes in order, where they are known.
    """

    def __init__(
        self,
        predict: Callable[[NDArray[np.uint8]], Any],
        name: str,
        num_classes: int,
        *,
        sha256: str | None = None,
        class_names: tuple[str, ...] | None = None,
        batch_size: int = 256,
    ) -> None:
        self.name = name
        self.sha256 = sha256
        self.num_classes = num_classes
        self.class_names = class_names
        self._predict = predict
        self._batch_size = batch_size

    def answers(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Raises InputError: the function returns other than a row of scores or labels for each image."""
        import torch

        parts = []
        for start in range(0, len(images), self._batch_size):
            batch = images[
                start : start + self._batch_size
            ].copy()  # its own: the keys are read-only, and stay as they are
            with torch.no_grad():  # so that a model's scores become an array
                answered = _array(self._predict(batch))
            if answered.ndim not in (1, 2) or len(answered) != len(batch):
                raise InputError(
                    f"{len(batch)} images were answered with shape {answered.shape}; return one row of scores or labels for each"
                )
            parts.append(answered)
        if len({(part.shape[1:], part.dtype.kind) for part in parts}) > 1:
            raise InputError("batches are answered in several forms; return one shape and type for all")
        return np.concatenate(parts)


def _array(given: Any) -> NDArray[Any]:
    if hasattr(given, "detach"):  # a torch tensor, wherever it lies and whatever its precision
        given = given.detach().cpu()
        given = given.double() if given.is_floating_point() else given
    elif isinstance(given, list | tuple) and any(hasattr(row, "detach") for row in given):
        given = [_array(row) for row in given]
    try:
        return np.asarray(given)
    except ValueError:  # rows of several lengths
        raise InputError("rows have several lengths; return as many labels for every image") from None
