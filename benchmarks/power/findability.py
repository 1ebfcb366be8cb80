"""How well somebody who knows the method, but not the secret, finds signed images by what they look like: AUC of simple traits.

A trait that signing leaves alone has AUC 0.5. What any change of the same size would show is the same AUC for the clean originals
with Gaussian noise of the signed images' PSNR.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import laplace, uniform_filter
from sklearn.metrics import roc_auc_score

Pixels = NDArray[np.uint8]  # [N, C, H, W]


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


Trait = Callable[[Pixels, NDArray[np.int64]], NDArray[np.float64]]
TRAITS: dict[str, Trait] = {
    "noise level": lambda images, labels: noise_level(images),
    "spectral peak": lambda images, labels: spectral_peak(images),
    "class mean": class_mean,
}


@dataclass(frozen=True)
class Findability:
    """AUC of one trait against unsigned images, in [0, 1]: of the signed images; and of their originals with noise instead."""

    signed: float
    noise: float


def findability(
    originals: Pixels, signed: Pixels, others: Pixels, labels: NDArray[np.int64], other_labels: NDArray[np.int64]
) -> dict[str, Findability]:
    """Returns the AUC of every trait.

    Args:
        originals, signed: before and after signing, uint8 [N, C, H, W]. others: all unsigned images of their classes.
        labels, other_labels: classes of the two, int64.
    """
    difference = signed.astype(np.float64) - originals
    noise = np.random.default_rng(0).normal(0, np.sqrt((difference**2).mean()), originals.shape)
    noisy = np.clip(np.rint(originals + noise), 0, 255).astype(np.uint8)
    is_one = np.repeat([True, False], [len(signed), len(others)])
    classes = np.concatenate([labels, other_labels])
    found = {}
    for name, trait in TRAITS.items():
        by_kind = [float(roc_auc_score(is_one, trait(np.concatenate([k, others]), classes))) for k in (signed, noisy)]
        found[name] = Findability(*by_kind)
    return found
