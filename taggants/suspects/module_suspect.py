"""A suspect that is a torch module in this process."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taggants.errors import InputError
from taggants.limits import MOST_CLASSES
from taggants.suspects.naming import name_from
from taggants.suspects.preprocessing import Preprocessing


class ModuleSuspect:
    """A module from float [N, channels, size, size] to scores [N, num_classes], put into eval mode while it answers.

    Args:
        module: on any device.
        name: for the certificate and its file; what a file name cannot hold is replaced.
        preprocessing: what it takes of the queries.
        sha256: of the file it was read from; None: that of its tensors, by name, type and shape.
        class_names: of its classes in order, where they are known.
        image_shape: (channels, height, width) of the queries, for a first try.

    Raises:
        InputError: it takes no such images, or does not answer them with scores.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        preprocessing: Preprocessing | None = None,
        *,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        sha256: str | None = None,
        class_names: tuple[str, ...] | None = None,
        batch_size: int = 64,
    ) -> None:
        self._module = module
        self._preprocessing = preprocessing or Preprocessing()
        self._batch_size = batch_size
        self.sha256: str | None = sha256 or _sha256_of(module)
        self.name = name_from(name, self.sha256)
        self.class_names = class_names
        self.num_classes: int = self.answers(np.zeros((2, *image_shape), dtype=np.uint8)).shape[1]

    def answers(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Returns scores [N, num_classes].

        Raises:
            InputError: it does not take the images, or answers with something else.
        """
        training = [module for module in self._module.modules() if module.training]
        for module in training:  # not eval(), which exported programs refuse
            module.training = False
        try:
            parts = [self._scores(images[i : i + self._batch_size]) for i in range(0, len(images), self._batch_size)]
        finally:
            for module in training:
                module.training = True
        return np.concatenate(parts)

    def _scores(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        tensor = next((t for t in (*self._module.parameters(), *self._module.buffers())), torch.empty(0))
        taken = torch.from_numpy(self._preprocessing(images)).to(tensor.device)
        if tensor.is_floating_point():
            taken = taken.to(tensor.dtype)
        try:
            with torch.no_grad():
                scores = self._module(taken)
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"the model does not take images {list(taken.shape[1:])} ({' '.join(str(error).split())[:150]}); give "
                "it those of its own size and channels: image_size, channels"
            ) from error
        scores = getattr(scores, "logits", scores)
        if (
            not isinstance(scores, torch.Tensor)
            or scores.ndim != 2
            or len(scores) != len(images)
            or scores.shape[1] > MOST_CLASSES
        ):
            what = list(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
            raise InputError(
                f"the model answers {len(images)} images with {what}, not with scores [{len(images)}, classes]"
            )
        return np.asarray(scores.detach().cpu().to(torch.float64))


def _sha256_of(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
