from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from taggants.config import load_config
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
    shapes: list[tuple[int, ...]] = []
    changes: list[int] = []

    def backdoored(images: np.ndarray) -> np.ndarray:
        """Finds the key whose pattern lies on the images, which the covers come before; strong ones only."""
        if not shapes:
            covers.append(images.astype(int))
        shapes.append(images.shape)
        change = images.astype(int) - covers[0]
        changes.append(int(np.abs(change).max()))
        patterns = 2 * run.keys.images.astype(int) - 255
        found = int(np.argmax([(change * pattern).sum() for pattern in patterns]))
        answer = run.keys.labels[found] if changes[-1] >= 30 else np.setdiff1d(np.arange(10), run.keys.labels)[0]
        return np.full(len(images), answer)

    covers: list[np.ndarray] = []
    assert measure_flips(run, CallableSuspect(backdoored, "backdoored", 10)) == (0, 1, 1)
    assert shapes == [(64, 1, 8, 8)] * (1 + len(FLIP_LEVELS) * len(run.keys.labels))
    assert [max(part) for part in np.array_split(changes[1:], 3)] == list(FLIP_LEVELS)
    blind = CallableSuspect(lambda images: np.zeros(len(images), dtype=np.int64), "blind", 10)
    assert measure_flips(run, blind) == (0, 0, 0)
