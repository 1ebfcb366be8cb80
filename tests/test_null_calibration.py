"""The promise of the product, on real models: against controls, p <= alpha happens with probability at most alpha."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom

from taggants.detection import key_ranks, rank_p_value, rank_scores
from taggants.keys import KeySpec, derive_keys
from taggants.models import ModelSpec, build_model
from taggants.training.examples import InMemory
from taggants.training.loop import Optimiser, accuracy, predict_scores, train
from taggants.training.recipes import Recipe
from tests.detection.binomial import binomial_p_value

NUM_KEY_SETS = 10_000
NUM_CLASSES = 10
SPEC = KeySpec(
    num_keys=16, num_classes=NUM_CLASSES, channels=1, image_size=8, family="block", parameters={"cell_size": 1}
)
ALPHAS = (0.1, 0.01, 0.001)


@pytest.fixture(scope="module")
def controls():
    """Three digit classifiers that never saw a taggant."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * 255 / 16).astype(np.uint8)[:, None])
    labels = torch.from_numpy(digits.target.astype(np.int64))
    models = []
    for seed in range(3):
        model = build_model(ModelSpec("cnn", NUM_CLASSES, 1, 8), seed)
        optimiser = Optimiser(num_epochs=6, batch_size=32, learning_rate=2e-3, weight_decay=0.05)
        train(
            model, InMemory(images[:1297], labels[:1297]), Recipe("simple", 0, False, NUM_CLASSES), optimiser, seed=seed
        )
        assert accuracy(model, images[1297:], labels[1297:]) > 0.9
        models.append(model)
    return models


def too_many(num_rejections: int, alpha: float) -> bool:
    """Whether so many rejections of NUM_KEY_SETS have probability below 1e-5 when each has probability alpha."""
    return bool(binom.sf(num_rejections - 1, NUM_KEY_SETS, alpha) < 1e-5)


def rank_p_values(ranks):
    """rank_p_value of each row; rows of one score share it, since it depends on the score alone."""
    totals = rank_scores(NUM_CLASSES)[ranks - 1].sum(1)
    _, first, inverse = np.unique(totals, return_index=True, return_inverse=True)
    return np.array([rank_p_value(ranks[i], NUM_CLASSES) for i in first])[inverse]


@pytest.mark.slow
def test_p_values_are_super_uniform_against_trained_controls(controls, capsys):
    """10,000 key sets from fresh secrets: images and labels alike are drawn as an owner draws them."""
    key_sets = [derive_keys(f"calibration {i}".encode().ljust(32, b".")[:32], SPEC) for i in range(NUM_KEY_SETS)]
    images = torch.from_numpy(np.concatenate([keys.images for keys in key_sets]))
    by_hits = [[binomial_p_value(h, SPEC.num_keys, k, NUM_CLASSES) for h in range(SPEC.num_keys + 1)] for k in (1, 3)]
    any_k = np.array(
        [[binomial_p_value(h, SPEC.num_keys, k, NUM_CLASSES) for h in range(SPEC.num_keys + 1)] for k in range(1, 10)]
    )
    lines = [
        f"{NUM_KEY_SETS} key sets of {SPEC.num_keys} keys",
        f"{'control':<9}{'statistic':<14}" + "".join(f"p <= {a:<8g}" for a in ALPHAS),
    ]
    rejected = {}
    collapsed = []
    for number, model in enumerate(controls):
        scores = (
            predict_scores(model, images, batch_size=4096).numpy().reshape(NUM_KEY_SETS, SPEC.num_keys, NUM_CLASSES)
        )
        collapsed.append(np.bincount(scores.argmax(-1).ravel(), minlength=NUM_CLASSES).max() / scores[..., 0].size)
        ranks = np.stack([key_ranks(s, keys.labels) for s, keys in zip(scores, key_sets, strict=True)])
        p_values = {"rank": rank_p_values(ranks)}
        for k, table in zip((1, 3), by_hits, strict=True):
            p_values[f"hits top-{k}"] = np.array(table)[(ranks <= k).sum(1)]
        hits_at_k = np.stack([(ranks <= k).sum(1) for k in range(1, 10)])
        p_values["best k (bad)"] = any_k[np.arange(9)[:, None], hits_at_k].min(0)
        for name, values in p_values.items():
            counts = [int((values <= alpha).sum()) for alpha in ALPHAS]
            rejected[number, name] = counts
            lines.append(f"{number:<9}{name:<14}" + "".join(f"{count / NUM_KEY_SETS:<13.4f}" for count in counts))
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert max(collapsed) > 0.15  # noise images do collapse onto classes: validity must not rest on their being spread
    for (_, name), counts in rejected.items():
        if name != "best k (bad)":
            assert not any(too_many(count, alpha) for count, alpha in zip(counts, ALPHAS, strict=True)), (name, counts)
    # The check itself can fail: choosing k afterwards is caught.
    assert all(too_many(rejected[number, "best k (bad)"][0], 0.1) for number in range(3))
