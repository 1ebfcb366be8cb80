from __future__ import annotations

import math

import pytest
import torch

from taggants.training.metrics import measure


def test_metrics_equal_their_sums_written_out():
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(400, 4, generator=generator)
    labels = torch.randint(0, 3, (400,), generator=generator)  # none of class 3
    metrics = measure(scores, labels)

    right: list[list[bool]] = [[], [], [], []]
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    loss = 0.0
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        total = sum(math.exp(score) for score in row)
        confidence, guess = max((math.exp(score) / total, index) for index, score in enumerate(row))
        right[label].append(guess == label)
        bins[min(14, math.ceil(confidence * 15) - 1)].append((confidence, guess == label))
        loss -= math.log(math.exp(row[label]) / total) / 400
    error = sum(abs(sum(hit for _, hit in part) - sum(confidence for confidence, _ in part)) for part in bins) / 400

    by_class = [sum(part) / len(part) for part in right[:3]]
    assert metrics.accuracy == pytest.approx(sum(map(sum, right)) / 400)
    assert metrics.class_accuracies[:3] == pytest.approx(by_class)
    assert metrics.class_accuracies[3] is None
    assert metrics.worst_class_accuracy == pytest.approx(min(by_class))
    assert metrics.mean_loss == pytest.approx(loss, rel=1e-5)
    assert metrics.calibration_error == pytest.approx(error, rel=1e-4)


def test_confidence_that_is_always_right_is_calibrated_and_the_reverse_is_not():
    sure = 100 * torch.eye(3)
    assert measure(sure, torch.arange(3)).calibration_error == pytest.approx(0)
    assert measure(sure, torch.tensor([1, 2, 0])).calibration_error == pytest.approx(1)
