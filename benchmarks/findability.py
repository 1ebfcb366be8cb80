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


TRAITS: dict[str, Callable[[Pixels], NDArray[np.float64]]] = {
    "noise level": noise_level,
    "spectral peak": spectral_peak,
}


@dataclass(frozen=True)
class Findability:
    """AUC of one trait against unsigned images, in [0, 1]: of the signed images; and of their originals with noise instead."""

    signed: float
    noise: float


def findability(originals: Pixels, signed: Pixels, others: Pixels) -> dict[str, Findability]:
    """Returns the AUC of every trait.

    Args:
        originals, signed: before and after signing, uint8 [N, C, H, W]. others: unsigned images of the same data, at least one.
    """
    difference = signed.astype(np.float64) - originals
    noise = np.random.default_rng(0).normal(0, np.sqrt((difference**2).mean()), originals.shape)
    noisy = np.clip(np.rint(originals + noise), 0, 255).astype(np.uint8)
    is_one = np.repeat([True, False], [len(signed), len(others)])
    found = {}
    for name, trait in TRAITS.items():
        of_others = trait(others)
        by_kind = [float(roc_auc_score(is_one, np.concatenate([trait(k), of_others]))) for k in (signed, noisy)]
        found[name] = Findability(*by_kind)
    return found
