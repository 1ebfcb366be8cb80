"""Records of the power bench as no training made them: two cells, of which one has far smaller p-values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.power.findability import TRAITS, Findability
from benchmarks.power.records import FLIP_LEVELS, Clean, Record, Tested

BASELINE = 'block, <b>matching</b> & "more" | today'
KINDS = ("resnet", "resnet, Mixup and CutMix", "convnext", "vit", "unseen architecture")


def tested(random: np.random.Generator, name: str, log10_p: float, harm: float) -> Tested:
    return Tested(
        **clean(random, name, harm),
        bare=float(10 ** (log10_p / 2 - random.random())),
        question=float(10 ** (log10_p - random.random())),
        own=float(10 ** (1.2 * log10_p - random.random())),
        top_5=float(10 ** (log10_p - random.random())),
    )


def clean(random: np.random.Generator, name: str, harm: float) -> dict[str, object]:
    flips = tuple(float(0.01 * (i + 1) * (1 + random.random()) + harm) for i in range(len(FLIP_LEVELS)))
    return {"name": name, "accuracy": float(0.65 + 0.005 * random.normal() - harm / 10), "flips": flips}


def made_up(cells: Sequence[str] = (BASELINE, "colour gratings, imprint"), num_draws: int = 3) -> list[Record]:
    random = np.random.default_rng(0)
    records = []
    for strength, cell in enumerate(cells):
        for kind in KINDS:
            for draw in range(1, num_draws + 1):
                victims = [
                    tested(random, f"victim-{i}", -1 - 3 * strength * random.random(), 0.1 * strength) for i in range(3)
                ]
                records.append(
                    Record(
                        cell=cell,
                        draw=draw,
                        kind=kind,
                        spec="0" * 64,
                        run="1" * 16,
                        epsilon=16 / 255,
                        images_per_key=25,
                        psnr_db=26.1,
                        ssim=0.9,
                        lpips=None,
                        alignment=0.4 if strength else None,
                        gain=0.02,
                        findability={
                            name: Findability(float(random.random()), float(random.random())) for name in TRAITS
                        },
                        victims=tuple(victims),
                        controls=tuple(tested(random, f"control-{i}", 0, 0) for i in range(2)),
                        references=tuple(Clean(**clean(random, f"reference-{i}", 0)) for i in range(2)),
                    )
                )
    return records
