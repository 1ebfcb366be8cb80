"""What signing costs the owner's data, in numbers: pure statistics of models trained on signed and on clean data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from taggants.errors import InputError


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference and its confidence interval.

    mean: of signed minus control. low, high: bounds of the interval; None where one pair leaves none. num_pairs: of seeds.
    confidence: that the interval covers the true mean, in (0, 1).
    """

    mean: float
    low: float | None
    high: float | None
    num_pairs: int
    confidence: float


def paired_difference(signed: Sequence[float], control: Sequence[float], confidence: float = 0.95) -> PairedDifference:
    """Mean of signed minus control over seeds, with Student's interval for paired samples.

    Assumes that the differences are independent draws of one normal distribution; pairing takes away what a seed does to
    both models alike. Source: "Student", "The probable error of a mean" (Biometrika 1908).

    Args:
        signed, control: one value for each seed, in the same order.

    Raises:
        InputError: no pair, or numbers of values that differ.
    """
    if len(signed) != len(control) or len(signed) == 0:
        raise InputError(
            f"{len(signed)} models of signed and {len(control)} of clean data do not form pairs; give one of each for every seed"
        )
    differences = np.asarray(signed, dtype=np.float64) - np.asarray(control, dtype=np.float64)
    mean, num_pairs = float(differences.mean()), len(differences)
    if num_pairs == 1:
        return PairedDifference(mean, None, None, num_pairs, confidence)
    margin = scipy.stats.t.ppf((1 + confidence) / 2, num_pairs - 1) * differences.std(ddof=1) / math.sqrt(num_pairs)
    return PairedDifference(mean, mean - float(margin), mean + float(margin), num_pairs, confidence)


def signed_loss_gap(losses: NDArray[np.floating], labels: NDArray[np.int64], is_signed: NDArray[np.bool_]) -> float:
    """Mean loss of the signed images minus that of the other images of their class, under one model.

    0: by their loss nobody finds the signed images. Every signed image weighs alike: each is compared with the mean of the
    others in its class.

    Args:
        losses: one for each image, [N]; labels: int64 [N]; is_signed: bool [N].

    Raises:
        InputError: no image is signed, or all images of a class are.
    """
    if not is_signed.any():
        raise InputError(
            "no image is signed, so no loss can be compared; give the signed ones and others of their classes"
        )
    gaps = []
    for label in np.unique(labels[is_signed]):
        others = losses[(labels == label) & ~is_signed]
        if len(others) == 0:
            raise InputError(
                f"all images of class {label} are signed, so none is left to compare them with; lower the budget"
            )
        gaps.append(losses[(labels == label) & is_signed] - others.mean())
    return float(np.concatenate(gaps).mean())


def linear_probe(
    train_features: NDArray[np.floating],
    train_labels: NDArray[np.int64],
    test_features: NDArray[np.floating],
    test_labels: NDArray[np.int64],
) -> float:
    """Accuracy, in [0, 1], of multinomial logistic regression on standardised features: how well they transfer.

    L2 penalty with C = 1. Source: Kornblith, Shlens, Le, "Do better ImageNet models transfer better?" (CVPR 2019),
    who choose the penalty on a validation split.

    Args:
        train_features, test_features: [N, D]; train_labels, test_labels: int64 [N].
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe.fit(train_features, train_labels)
    return float(probe.score(test_features, test_labels))
