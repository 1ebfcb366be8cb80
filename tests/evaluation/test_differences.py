from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression

from taggants.errors import InputError
from taggants.evaluation.differences import linear_probe, paired_difference, signed_loss_gap

SIGNED, CONTROL = [0.91, 0.93, 0.90, 0.95], [0.92, 0.935, 0.92, 0.945]


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_interval_is_scipys(confidence):
    found = paired_difference(SIGNED, CONTROL, confidence)
    expected = scipy.stats.ttest_rel(SIGNED, CONTROL).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(np.mean(SIGNED) - np.mean(CONTROL))
    assert (found.num_pairs, found.confidence) == (4, confidence)


@pytest.mark.parametrize("num_pairs", [2, 3, 8])
def test_interval_covers_the_true_difference_as_often_as_it_says(num_pairs):
    rng = np.random.default_rng(0)
    draws, truth, confidence = 4000, -0.01, 0.9
    covered = 0
    for _ in range(draws):
        shared = rng.normal(0.9, 0.05, num_pairs)  # what a seed does to both, which pairing takes away
        found = paired_difference(
            shared + truth + rng.normal(0, 0.01, num_pairs), shared + rng.normal(0, 0.02, num_pairs), confidence
        )
        covered += found.low <= truth <= found.high
    low, high = scipy.stats.binom.interval(1 - 1e-4, draws, confidence)
    assert low <= covered <= high


def test_one_pair_leaves_no_interval_and_equal_differences_one_without_width():
    assert paired_difference([0.5], [0.75]).low is paired_difference([0.5], [0.75]).high is None
    found = paired_difference([0.5, 0.75], [0.25, 0.5])
    assert found.low == found.mean == found.high == 0.25


@pytest.mark.parametrize(("signed", "control"), [([], []), ([0.5], [0.5, 0.6])])
def test_values_that_make_no_pairs_are_refused(signed, control):
    with pytest.raises(InputError, match="do not form pairs"):
        paired_difference(signed, control)


def test_signed_images_are_compared_with_the_others_of_their_class():
    losses = np.array([1.0, 3.0, 5.0, 10.0, 20.0, 99.0])
    labels = np.array([0, 0, 0, 1, 1, 2])
    is_signed = np.array([True, False, False, True, False, False])
    assert signed_loss_gap(losses, labels, is_signed) == pytest.approx(((1 - 4) + (10 - 20)) / 2)


def test_every_signed_image_weighs_alike():
    losses, labels = np.array([0.0, 1.0, 2.0, 4.0, 0.0]), np.array([0, 0, 0, 1, 1])
    is_signed = np.array([False, True, True, True, False])
    assert signed_loss_gap(losses, labels, is_signed) == pytest.approx((1 + 2 + 4) / 3)


def test_nothing_to_compare_is_refused():
    with pytest.raises(InputError, match="no image is signed"):
        signed_loss_gap(np.zeros(2), np.zeros(2, int), np.zeros(2, bool))
    with pytest.raises(InputError, match="all images of class 0 are signed"):
        signed_loss_gap(np.zeros(2), np.array([0, 1]), np.array([True, False]))


def test_linear_probe_is_logistic_regression_on_features_scaled_by_the_training_split():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    features = rng.normal(0, 1, (300, 5)) * [1, 100, 1, 1, 1] + [0, 7, 0, 0, 0]
    features[:, 2] += labels
    mean, scale = features[:200].mean(0), features[:200].std(0)
    scaled = (features - mean) / scale
    expected = LogisticRegression(max_iter=2000).fit(scaled[:200], labels[:200]).score(scaled[200:], labels[200:])
    found = linear_probe(features[:200], labels[:200], features[200:], labels[200:])
    assert found == pytest.approx(expected)
    assert found > 0.45
