"""Made-up results of a sweep, whose power rises as that of real ones does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from taggants.detection import rank_p_value
from taggants.sweep.results import Cell, SweepResults, Trained

NUM_CLASSES = 100
NUM_IMAGES = 50_000


def trained(kind: str, index: int, cell: str, hit_rate: float, num_keys: int, seed: int) -> Trained:
    random = np.random.default_rng(seed)
    hit = random.random(num_keys) < hit_rate
    ranks = np.where(hit, 1, random.integers(1, NUM_CLASSES + 1, num_keys))
    return Trained(
        name=f"{kind}-{index}-{seed:04x}",
        index=index,
        accuracy=0.74 + 0.01 * float(random.standard_normal()) - (0.004 if kind == "victim" else 0.0),
        num_hits=int((ranks == 1).sum()),
        p_value=rank_p_value(ranks, NUM_CLASSES),
        certificate=f"{cell}/certificates/{kind}-{index}-{seed:04x}.json",
        seconds=310.0 + 10 * index,
        worst_class_accuracy=0.41 + 0.02 * float(random.standard_normal()),
    )


def made_up(num_victims: int = 3, num_controls: int = 8) -> SweepResults:
    """4 budgets, 3 key counts, 2 kinds of victim: power rises with both, and more for the first kind."""
    cells = []
    for kind, (victim, ease) in enumerate([("timm/resnet18", 1.0), ("timm/vit_tiny_patch16_224", 0.55)]):
        for m, images_per_key in enumerate([5, 10, 20, 40]):
            for num_keys in (5, 10, 20):
                run = f"{images_per_key:04x}{num_keys:04x}"
                hit_rate = ease * [0.04, 0.14, 0.32, 0.6][m]
                seed = 1000 * kind + 100 * m + num_keys
                controls = [trained("control", i, "c", 0, num_keys, 10 * num_keys + i) for i in range(num_controls)]
                cells.append(
                    Cell(
                        name=f"k{num_keys}-m{images_per_key}-{victim.rpartition('/')[2]}",
                        images_per_key=images_per_key,
                        num_keys=num_keys,
                        epsilon=16 / 255,
                        engine="double_backward",
                        surrogate="timm/resnet18",
                        victim=victim,
                        recipe="strong" if kind else "simple",
                        num_images=NUM_IMAGES,
                        settings=(
                            f"keys.num_keys={num_keys}",
                            f"signing.images_per_key={images_per_key}",
                            f'evaluation.training.model="{victim}"',
                        ),
                        run=run,
                        alignment=0.61 + 0.02 * m,
                        psnr_db=27.4 - 0.1 * m,
                        ssim=0.931,
                        lpips=None if kind else 0.0712,
                        sample_steps=images_per_key * num_keys * 250,
                        crafting_seconds=images_per_key * num_keys * 1.7,
                        victims=tuple(
                            trained("victim", i, run, hit_rate, num_keys, seed + i) for i in range(num_victims)
                        ),
                        controls=tuple(replace(c, name=f"{victim}-{c.name}") for c in controls),
                        stopped=None,
                    )
                )
    cells[12] = replace(cells[12], victims=cells[12].victims[:2], stopped="p-values of the first 2 above 0.2")
    return SweepResults(
        config={"seed": 0, "keys": {"num_keys": 20, "name": "cifar100"}, "crafting": {"epsilon": 16 / 255}},
        command="python jobs/sweep.py --config taggants/presets/sweep_cifar100.yaml --set 'output.root=/data/my runs'",
        alphas=(1e-2, 1e-3, 1e-6),
        wanted_power=0.8,
        statistic="rank",
        num_classes=NUM_CLASSES,
        dataset_fingerprint="0f1e2d3c" * 8,
        software={"torch": "2.8.0", "ray": "2.60.0", "python": "3.11.9", "taggants": "0.1.0"},
        created_at="2026-01-02T03:04:05Z",
        cells=tuple(cells),
        top_k=1,
    )
