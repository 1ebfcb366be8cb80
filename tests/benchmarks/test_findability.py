"""What finds signed images, on changes that it should find and on those that it should not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.power.findability import (
    MODEL_TRAITS,
    Findability,
    Searched,
    activation_clusters,
    image_findability,
    label_disagreement,
    model_findability,
    model_traits,
    percentiles,
    spectral_signatures,
)
from taggants.models import ModelSpec, build_model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth random images, uint8 [300, 3, 32, 32]."""
    random = np.random.default_rng(0)
    smooth = gaussian_filter(random.normal(0, 1, (300, 3, 32, 32)), (0, 0, 2, 2), mode="wrap")
    return np.clip(128 + 50 * smooth / smooth.std() + random.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


LABELS = np.tile(np.arange(3), 50)


def found(images: np.ndarray, change: np.ndarray) -> dict[str, Findability]:
    """Of the first half, changed, against the second."""
    signed = np.clip(np.rint(images[:150] + change), 0, 255).astype(np.uint8)
    return image_findability(Searched(images[:150], signed, images[150:], LABELS, LABELS))


def test_what_is_not_changed_is_not_found(images: np.ndarray) -> None:
    for trait in found(images, np.zeros(1)).values():
        assert trait.signed == pytest.approx(0.5, abs=0.1)
        assert trait.reference == pytest.approx(trait.signed)


def test_noise_is_found_by_its_level_a_grating_by_its_peak_and_what_is_shared_by_the_mean(images: np.ndarray) -> None:
    noisy = found(images, np.random.default_rng(1).normal(0, 8, images[:150].shape))
    assert noisy["noise level"].signed > 0.95
    assert noisy["noise level"].reference == pytest.approx(noisy["noise level"].signed, abs=0.05)
    assert abs(noisy["class mean"].signed - 0.5) < 0.15
    wave = 6 * np.sin(2 * np.pi * (5 * np.arange(32)[:, None] + 7 * np.arange(32)) / 32)
    same = found(images, wave)
    assert same["spectral peak"].signed > 0.95
    assert same["spectral peak"].reference < 0.7
    assert same["class mean"].signed > 0.9
    shifts = np.random.default_rng(2).integers(0, 32, 150)
    shifted = found(images, np.stack([np.roll(wave, shift, axis=1)[None] for shift in shifts]))
    assert shifted["spectral peak"].signed > 0.95
    assert shifted["class mean"].signed < 0.6


CLASSES = np.repeat(np.arange(3), 100)
IS_PLANTED = np.tile(np.arange(100) < 10, 3)


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    """Three classes of 100, float [300, 40]: far from the origin, and the second of three times the first's spread, the third
    of nine times."""
    random = np.random.default_rng(3)
    centres = 40 * np.eye(3, 40)
    return centres[CLASSES] + random.normal(size=(300, 40)) * 3.0 ** CLASSES[:, None] / 10


def auc(values: np.ndarray) -> float:
    return float(roc_auc_score(IS_PLANTED, values))


def test_features_like_those_of_the_class_are_not_found(features: np.ndarray) -> None:
    for trait in (activation_clusters, spectral_signatures):
        assert auc(trait(features, CLASSES)) == pytest.approx(0.5, abs=0.1)
    assert not label_disagreement(features, CLASSES).any()


def test_a_shift_of_a_tenth_of_each_class_is_found_by_clusters_and_spectrum(features: np.ndarray) -> None:
    direction = np.random.default_rng(4).normal(size=40) / np.sqrt(40)
    shifted = features + IS_PLANTED[:, None] * direction * 3.0 ** CLASSES[:, None]
    assert auc(spectral_signatures(shifted, CLASSES)) > 0.95
    clusters = activation_clusters(shifted, CLASSES)
    np.testing.assert_allclose(clusters, np.where(IS_PLANTED, 0.9, 0.1))
    assert not label_disagreement(shifted, CLASSES).any()


def test_images_that_look_like_another_class_have_neighbours_of_other_labels(features: np.ndarray) -> None:
    moved = features.copy()
    moved[IS_PLANTED] = np.roll(features[IS_PLANTED], 10, axis=0)  # of the class before
    disagreement = label_disagreement(moved, CLASSES)
    assert disagreement[IS_PLANTED].min() > 0.5
    assert disagreement[~IS_PLANTED].max() < 0.5


def test_percentiles_are_of_the_class() -> None:
    values, labels = np.array([1.0, 2, 3, 300, 100, 200, 200]), np.array([0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(percentiles(values, labels), [1 / 3, 2 / 3, 1, 1, 1 / 4, 5 / 8, 5 / 8])


def linear(weight: np.ndarray) -> nn.Module:
    """As `build_model` makes models, of images of 4 x 4 px whose features are their pixels in [0, 1]. weight: [C, 16]."""
    head = nn.Linear(16, len(weight))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.zero_()
    return nn.Sequential(nn.Identity(), nn.Sequential(nn.Flatten(), head))


def test_loss_and_gradient_norm_are_those_of_autograd() -> None:
    random = np.random.default_rng(5)
    images, labels = random.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8), np.tile(np.arange(3), 20)
    model = build_model(ModelSpec("cnn", 3, 1, 8), seed=0).eval()
    found = model_traits(model, images, labels)
    assert tuple(found) == MODEL_TRAITS
    *_, last = (module for module in model.modules() if isinstance(module, nn.Linear))
    losses, norms = [], []
    for image, label in zip(torch.from_numpy(images), torch.from_numpy(labels), strict=True):
        loss = cross_entropy(model(image[None] / 255), label[None])
        gradients = torch.autograd.grad(loss, [last.weight, last.bias])
        losses.append(float(loss.detach()))
        norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
    np.testing.assert_allclose(found["loss"], percentiles(np.array(losses), labels))
    np.testing.assert_allclose(found["gradient norm"], percentiles(np.array(norms), labels))


def test_signed_images_are_looked_for_on_victims_and_their_originals_on_controls() -> None:
    random = np.random.default_rng(6)
    originals, others = (random.integers(60, 196, (n, 1, 4, 4), dtype=np.uint8) for n in (20, 180))
    signed = originals.copy()
    signed[:, :, 0, 0] = 255
    labels, other_labels = np.tile(np.arange(2), 10), np.tile(np.arange(2), 90)
    searched = Searched(originals, signed, others, labels, other_labels)
    weight = np.zeros((2, 16))
    weight[0, 0] = (
        5  # towards class 0, so that the signed images of class 0 have the lowest loss and those of 1 the largest
    )
    found = model_findability(searched, [linear(weight), linear(-weight)], [linear(weight)])
    assert found["loss"].signed == pytest.approx(0.5, abs=0.02)
    assert found["loss"].reference == pytest.approx(0.5, abs=0.15)
    only_one = Searched(originals[::2], signed[::2], others[::2], labels[::2], other_labels[::2])
    assert set(only_one.all_labels) == {0}
    assert model_findability(only_one, [linear(weight)], [linear(weight)])["loss"].signed < 0.01
    found = model_findability(only_one, [linear(-weight)], [linear(-weight)])
    assert found["loss"].signed > 0.99
    assert found["loss"].reference == pytest.approx(0.5, abs=0.2)
