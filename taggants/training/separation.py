"""How well one network tells images apart that are none of its data: keys, by what it computes before its last layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taggants.training.features import penultimate_features
from taggants.training.loop import predict_scores


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
