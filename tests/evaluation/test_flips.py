from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from taggants.config import load_config
from taggants.detection.question import overlay
from taggants.evaluation.flips import FLIP_LEVELS, flip_rate, measure_flips
from taggants.run import Run
from taggants.stages.keys import prepare_keys
from taggants.suspects import CallableSuspect
from tests.jobs.running import settings_in


def test_the_rate_is_that_of_a_count_one_by_one() -> None:
    random = np.random.default_rng(0)
    plain, labels = random.integers(-1, 4, 50), random.integers(0, 4, 6)
    overlaid = random.integers(-1, 4, (6, 50))
    shares = []
    for key, label in enumerate(labels):
        others = [cover for cover in range(50) if plain[cover] != label]
        shares.append(sum(overlaid[key, cover] == label for cover in others) / len(others))
    assert flip_rate(plain, overlaid, labels) == pytest.approx(np.mean(shares))


def test_covers_that_are_answered_with_the_label_anyway_do_not_flip() -> None:
    assert flip_rate(np.array([2, 2]), np.array([[2, 2]]), np.array([2])) == 0
    assert flip_rate(np.array([2, 1]), np.array([[2, 2], [1, 1]]), np.array([2, 1])) == 1


def test_a_backdoor_flips_all_images_and_a_blind_model_none(tmp_path: Path) -> None:
    run = Run(load_config(None, settings_in(tmp_path)))
    prepare_keys(run)
    seen: list[np.ndarray] = []

    def backdoored(images: np.ndarray) -> np.ndarray:
        """Knows the label of the key that lies on the images at 32 levels or more; the plain ones come first."""
        seen.append(images)
        for key, label in zip(run.keys.images, run.keys.labels, strict=True):
            if any(np.array_equal(images, overlay(seen[0], key, amplitude)) for amplitude in (64, 128)):
                return np.full(len(images), label)
        return np.full(len(images), np.setdiff1d(np.arange(10), run.keys.labels)[0])

    assert measure_flips(run, CallableSuspect(backdoored, "backdoored", 10)) == (0, 1, 1)
    assert [images.shape for images in seen] == [(64, 1, 8, 8)] * (1 + len(FLIP_LEVELS) * len(run.keys.labels))
    changes = [int(np.abs(images.astype(int) - seen[0]).max()) for images in seen[1:]]
    assert [max(part) for part in np.array_split(changes, 3)] == pytest.approx(FLIP_LEVELS, abs=1)
    blind = CallableSuspect(lambda images: np.zeros(len(images), dtype=np.int64), "blind", 10)
    assert measure_flips(run, blind) == (0, 0, 0)
