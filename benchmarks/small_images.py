"""How near the models for images of 32 and 64 px come to what public recipes reach: CIFAR-100, and 20 classes of Tiny-ImageNet.

    python benchmarks/small_images.py --folder runs/small_images                  everything: 5 hours of one core
    python benchmarks/small_images.py --folder runs/small_images --only small/vit --images all --epochs 2 4
    python benchmarks/small_images.py --folder runs/small_images --table          what is done so far

Data: $TAGGANTS_DATA/cifar100 and tiny_imagenet20. Trainings are whole schedules, each from new weights; what is done is found
again, and what was cut off goes on. Processes with another --only can share the folder.

The public recipes see the 50,000 images 200 times, which takes days here. So each model is trained on all of them for 2, 4 and 8
epochs, and the error is carried on to 200 by two curves through these points: a power law of the epochs, which never stops
(optimistic), and one with the floor that three doubled numbers determine (pessimistic: it takes the last gain as the beginning
of the end). Neither knows of overfitting, against which public recipes augment more than by crops and flips.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from taggants.config import Config
from taggants.run import Run
from taggants.stages.model_training import train_model, training_job
from taggants.training.recipes import RECIPES
from taggants.training.worker import read_result

SHORT = "small-images-short"
RECIPES.register(SHORT, replace(RECIPES["small-images"], warm_up_epochs=0.5))

SHARED: dict[str, Any] = {
    "batch_size": 64,
    "weight_decay": 0.05,
    "crop_padding": 4,
    "flip": True,
    "precision": "bfloat16",
    "channels_last": True,
    "loader": "device",
}
MODELS: dict[str, dict[str, Any]] = {
    "timm/resnet10t": {"learning_rate": 2e-3},
    "timm/convnext_atto": {"learning_rate": 2e-3, "drop_path": 0.05},
    "small/convnext": {"learning_rate": 2e-3, "drop_path": 0.05},
    "small/vit": {"learning_rate": 1e-3, "drop_path": 0.05},
}
CIFAR = {"root": "$TAGGANTS_DATA/cifar100", "test": "test.parquet"}
IMAGES: dict[str, tuple[dict[str, Any], str, tuple[int, ...]]] = {
    "20 x 250": (CIFAR | {"num_classes": 20, "images_per_class": 250}, "small-images", (30,)),
    "all": (CIFAR, SHORT, (2, 4, 8)),
    "20 x 500 of 64 px": ({"root": "$TAGGANTS_DATA/tiny_imagenet20", "test": "val.parquet"}, "small-images", (15,)),
}
"""What of the data, by which recipe, for how many epochs."""

PUBLIC_EPOCHS = 200


def error_after(epochs: Mapping[int, float], target: int) -> tuple[float, float]:
    """Returns the errors that a power law through measured errors has at `target` epochs: without a floor, and with one.

    epochs: errors in (0, 1) by number of epochs, two or more. The floor needs three, each twice the one before: NaN without them,
    or where the last doubling gained no less than the one before.
    """
    numbers = sorted(epochs)
    slope, constant = np.polyfit(np.log(numbers), np.log([epochs[number] for number in numbers]), 1)
    without = math.exp(constant + slope * math.log(target))
    last = numbers[-3:]
    if len(last) < 3 or last[1] != 2 * last[0] or last[2] != 2 * last[1]:
        return without, math.nan
    gains = epochs[last[0]] - epochs[last[1]], epochs[last[1]] - epochs[last[2]]
    if not 0 < gains[1] < gains[0]:
        return without, math.nan
    ratio = gains[1] / gains[0]  # error = floor + (error now - floor) * ratio^(doublings from now)
    floor = epochs[last[2]] - gains[1] * ratio / (1 - ratio)
    doublings = math.log2(target / last[2])
    return without, floor + (epochs[last[2]] - floor) * ratio**doublings


def the_run(folder: str, images: str) -> Run:
    tree: dict[str, Any] = {
        "data": {"source": "parquet", "train": "train.parquet", "channels": 3} | IMAGES[images][0],
        "keys": {"root": f"{folder}/secrets", "name": "small_images", "num_keys": 10},
        "output": {"root": f"{folder}/runs"},
    }
    return Run(Config.model_validate(tree))


def table(rows: Sequence[tuple[str, str, int, float, float]]) -> list[str]:
    """rows: model, images, epochs, accuracy, seconds."""
    lines = ["| model | images | epochs | test accuracy | seconds |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {m} | {i} | {e} | {accuracy:.4f} | {seconds:.0f} |" for m, i, e, accuracy, seconds in rows]
    lines += ["", f"| model | accuracy after {PUBLIC_EPOCHS} epochs, with a floor | without |", "| --- | --- | --- |"]
    for model in dict.fromkeys(row[0] for row in rows):
        errors = {e: 1 - accuracy for m, images, e, accuracy, _ in rows if (m, images) == (model, "all")}
        if len(errors) > 1:
            without, floored = error_after(errors, PUBLIC_EPOCHS)
            cell = "-" if math.isnan(floored) else f"{1 - floored:.2f}"
            lines.append(f"| {model} | {cell} | {1 - without:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="of the trainings")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--images", nargs="+", choices=IMAGES, default=list(IMAGES))
    parser.add_argument("--epochs", nargs="+", type=int, help="instead of those that the images have")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="train nothing")
    given = parser.parse_args()
    if "TAGGANTS_DATA" not in os.environ:
        sys.exit("set TAGGANTS_DATA to the folder that holds cifar100 and tiny_imagenet20")
    rows = []
    for images in given.images:
        _, recipe, numbers = IMAGES[images]
        run = the_run(given.folder, images)
        jobs = []
        for model in given.only:
            for num_epochs in given.epochs or numbers:
                values = SHARED | MODELS[model] | {"model": model, "recipe": recipe, "num_epochs": num_epochs}
                section = type(run.config.evaluation.training).model_validate(values)
                name = f"{model.replace('/', '-')}-{num_epochs}"
                jobs.append(training_job(run, name, section, run.sources[0], run.index.fingerprint, given.seed))
        for job in jobs:
            if given.table and not run.models.exists(f"{job.folder}/result.json"):
                continue
            done = read_result(run.models, f"{job.folder}/result.json") if given.table else train_model(run, job)
            rows.append((job.spec.name, images, done.num_epochs, done.accuracy, done.seconds))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
