"""How well somebody who knows the method, but not the secret, finds signed images among the others of their classes.

Each trait has an AUC: 0.5 where signing leaves it alone, below where signed images have less of it.

`IMAGE_TRAITS`, what images look like, stand beside those of the clean originals with Gaussian noise of the same PSNR.
`MODEL_TRAITS`, what a model makes of images that it was trained on, stand beside those of the originals on a control, which had
the same training on clean data: how far the chosen images stood out before. (Noise would need a model of its own.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import laplace, uniform_filter
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from taggants.training.features import penultimate_features
from taggants.training.loop import predict_scores

Pixels = NDArray[np.uint8]  # [N, C, H, W]
Values = NDArray[np.float64]  # [N]
Labels = NDArray[np.int64]  # [N]
_NUM_NEIGHBOURS, _NUM_COMPONENTS = 10, 10


def noise_level(images: Pixels) -> NDArray[np.float64]:
    """Mean absolute Laplacian of each image, over channels and pixels; float64 [N], in levels."""
    levels = images.astype(np.float64)
    return np.array([np.mean([np.abs(laplace(channel)).mean() for channel in image]) for image in levels])


def spectral_peak(images: Pixels) -> NDArray[np.float64]:
    """Largest power around a frequency over that of the ring about it, in nats; float64 [N].

    Power is summed over channels, whose waves may cancel in grey, under a Hann window; "around" is 3 x 3 frequencies, the ring
    the rest of 7 x 7. The lowest frequencies, up to one period an image, are left out: all natural images peak there.
    """
    height, width = images.shape[2:]
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[1:-1]
    levels = images.astype(np.float64)
    waves = np.fft.fft2((levels - levels.mean(axis=(2, 3), keepdims=True)) * window)
    power = (np.abs(waves) ** 2).sum(axis=1)
    around, within = (uniform_filter(power, size=(1, side, side), mode="wrap") for side in (3, 7))
    above = np.log(around + 1) - np.log((49 * within - 9 * around) / 40 + 1)
    is_low = (np.abs(np.fft.fftfreq(height) * height)[:, None] <= 1) & (np.abs(np.fft.fftfreq(width) * width) <= 1)
    return np.asarray(above[:, ~is_low].max(axis=1))


def class_mean(images: Pixels, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cosine of each image with the mean of the others in its class; float64 [N].

    Each Fourier coefficient is brought to mean power 1 first, so that low frequencies, which all images share, drown nothing.
    A pattern that is the same on many images of a class shows, one that is shifted from image to image does not.
    """
    levels = images.astype(np.float32)
    waves = np.fft.fft2(levels - levels.mean(axis=(2, 3), keepdims=True)).astype(np.complex64)
    waves /= np.sqrt((np.abs(waves) ** 2).mean(axis=0)) + 1e-6
    flat = waves.reshape(len(waves), -1)
    found = np.zeros(len(flat))
    for label in np.unique(labels):
        members = flat[labels == label]
        others = members.sum(axis=0) - members
        norms = np.linalg.norm(members, axis=1) * np.linalg.norm(others, axis=1)
        found[labels == label] = (members.conj() * others).real.sum(axis=1) / (norms + 1e-6)
    return found


def percentiles(values: NDArray[np.floating], labels: Labels) -> Values:
    """Rank of each value within its class, as a share of the class, in (0, 1]."""
    return _by_class(lambda members: rankdata(members) / len(members), values, labels)


def label_disagreement(features: NDArray[np.floating], labels: Labels) -> Values:
    """Share, in [0, 1], of the 10 nearest neighbours by cosine that have another label. features: [N, D]."""
    number = min(_NUM_NEIGHBOURS, len(features) - 1)
    nearest = NearestNeighbors(n_neighbors=number, metric="cosine").fit(features).kneighbors(return_distance=False)
    return np.asarray((labels[nearest] != labels[:, None]).mean(axis=1))


def activation_clusters(features: NDArray[np.floating], labels: Labels) -> Values:
    """Share of its class, in [0, 1), that is in the other of two clusters: large for who is in the small one. features: [N, D].

    Source: Chen et al., "Detecting backdoor attacks on deep neural networks by activation clustering" (SafeAI 2019): k-means with
    two clusters on 10 components of the class's features; principal ones, as in the Adversarial Robustness Toolbox.
    """

    def other_cluster(members: NDArray[np.floating]) -> Values:
        components = PCA(min(_NUM_COMPONENTS, *members.shape), random_state=0).fit_transform(members)
        is_second = KMeans(2, n_init=10, random_state=0).fit_predict(components) == 1
        return np.where(is_second, 1 - is_second.mean(), is_second.mean())

    return _by_class(other_cluster, features, labels)


def spectral_signatures(features: NDArray[np.floating], labels: Labels) -> Values:
    """Percentile, within the class, of the squared projection on the first singular vector of its centred features [N, D].

    Source: Tran, Li and Madry, "Spectral signatures in backdoor attacks" (NeurIPS 2018), algorithm 1.
    """

    def projection(members: NDArray[np.floating]) -> Values:
        centred = members - members.mean(axis=0)
        return np.asarray((centred @ np.linalg.svd(centred, full_matrices=False)[2][0]) ** 2)

    return percentiles(_by_class(projection, features, labels), labels)


def _by_class(
    measure: Callable[[NDArray[np.floating]], NDArray[np.floating]], values: NDArray[np.floating], labels: Labels
) -> Values:
    found = np.zeros(len(values))
    for label in np.unique(labels):
        found[labels == label] = measure(values[labels == label])
    return found


IMAGE_TRAITS: dict[str, Callable[[Pixels, Labels], Values]] = {
    "noise level": lambda images, labels: noise_level(images),
    "spectral peak": lambda images, labels: spectral_peak(images),
    "class mean": class_mean,
}
MODEL_TRAITS = ("loss", "gradient norm", "label disagreement", "activation clusters", "spectral signatures")
TRAITS = (*IMAGE_TRAITS, *MODEL_TRAITS)


def model_traits(model: nn.Module, images: Pixels, labels: Labels) -> dict[str, Values]:
    """Returns `MODEL_TRAITS` of each image on a model of `build_model`: loss and gradient norm as percentiles of the class.

    The gradient is that of the last layer, (softmax - one-hot) x (features, 1): one of all layers, image by image, would take as
    long as the training.
    """
    pixels, targets = torch.from_numpy(images), torch.from_numpy(labels)
    features = penultimate_features(model, pixels).numpy().astype(np.float64)
    scores = predict_scores(model, pixels).double()
    errors = scores.softmax(dim=1) - one_hot(targets, scores.shape[1])
    found = (
        percentiles(cross_entropy(scores, targets, reduction="none").numpy(), labels),
        percentiles(errors.norm(dim=1).numpy() * np.sqrt((features**2).sum(axis=1) + 1), labels),
        label_disagreement(features, labels),
        activation_clusters(features, labels),
        spectral_signatures(features, labels),
    )
    return dict(zip(MODEL_TRAITS, found, strict=True))


@dataclass(frozen=True)
class Findability:
    """AUC of one trait against the unsigned images, in [0, 1]: of signed images, and of what stands beside them."""

    signed: float
    reference: float


@dataclass(frozen=True, eq=False)
class Searched:
    """originals, signed: before and after signing, uint8 [N, C, H, W]; labels: their classes, int64 [N].

    others: all unsigned images of these classes, uint8 [M, C, H, W]; other_labels: int64 [M].
    """

    originals: Pixels
    signed: Pixels
    others: Pixels
    labels: Labels
    other_labels: Labels

    @property
    def all_labels(self) -> Labels:
        return np.concatenate([self.labels, self.other_labels])

    def among_others(self, images: Pixels) -> Pixels:
        return np.concatenate([images, self.others])

    def auc(self, values: Values) -> float:
        """values: of N images, then of the others."""
        return float(roc_auc_score(np.arange(len(values)) < len(self.labels), values))


def image_findability(searched: Searched) -> dict[str, Findability]:
    """Returns the AUC of every image trait."""
    difference = searched.signed.astype(np.float64) - searched.originals
    noise = np.random.default_rng(0).normal(0, np.sqrt((difference**2).mean()), difference.shape)
    noisy = np.clip(np.rint(searched.originals + noise), 0, 255).astype(np.uint8)
    compared = [searched.among_others(images) for images in (searched.signed, noisy)]
    return {
        name: Findability(*(searched.auc(trait(images, searched.all_labels)) for images in compared))
        for name, trait in IMAGE_TRAITS.items()
    }


def model_findability(
    searched: Searched, victims: Sequence[nn.Module], controls: Sequence[nn.Module]
) -> dict[str, Findability]:
    """Returns the AUC of every model trait: means over models, at least one of each."""
    means = []
    for models, images in ((victims, searched.signed), (controls, searched.originals)):
        found = [model_traits(model, searched.among_others(images), searched.all_labels) for model in models]
        means.append({name: float(np.mean([searched.auc(of[name]) for of in found])) for name in MODEL_TRAITS})
    return {name: Findability(*(mean[name] for mean in means)) for name in MODEL_TRAITS}
