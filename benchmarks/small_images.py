"""How near the models for images of 32 and 64 px come to what public recipes reach: CIFAR-100, and 20 classes of Tiny-ImageNet.

    python benchmarks/small_images.py --folder runs/small_images                  everything: an estimated 4 hours of one core
    python benchmarks/small_images.py --folder runs/small_images --only small/vit --images all --epochs 2 4
    python benchmarks/small_images.py --folder runs/small_images --table          what is done so far

Data: $TAGGANTS_DATA/cifar100 and tiny_imagenet20. Trainings are whole schedules, each from new weights; what is done is found
again, and what was cut off goes on. Processes with another --only can share the folder.

The public recipes see the 50,000 images 200 times, which takes days here. So each model is trained on all of them for 2, 4 and 8
epochs, and the table says where a straight line through the logarithms of error and epochs would be after 200. That is no bound
in either direction: networks begin slowly, and public recipes augment more than by crops and flips, without which they would
overfit. How far the line through all but the longest training misses that one stands beside it.

Seconds are of the clock, of the process that ended the training.
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
from taggants.errors import InputError
from taggants.run import Run
from taggants.stages.model_training import train_model, training_job
from taggants.training.job import read_result
from taggants.training.recipes import RECIPES

SHORT = "small-images-short"
"""small-images with half an epoch of warm-up, since its three would be longer than the shortest training."""

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
    "20 x 500 of 64 px": ({"root": "$TAGGANTS_DATA/tiny_imagenet20", "test": "val.parquet"}, "small-images", (10,)),
}
"""What of the data, by which recipe, for how many epochs."""

PUBLIC_EPOCHS = 200


def error_after(errors: Mapping[int, float], target: int) -> float:
    """Returns the error at `target` epochs of the power law that fits measured errors best, in logarithms.

    errors: in (0, 1) by number of epochs, two or more.
    """
    numbers = sorted(errors)
    slope, constant = np.polyfit(np.log(numbers), np.log([errors[number] for number in numbers]), 1)
    return math.exp(constant + slope * math.log(target))


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
    lines += [
        "",
        f"| model | trained for | line at {PUBLIC_EPOCHS} epochs | longest: measured | line through the others |",
        "| --- | --- | --- | --- | --- |",
    ]
    for model in dict.fromkeys(row[0] for row in rows):
        errors = {e: 1 - accuracy for m, images, e, accuracy, _ in rows if (m, images) == (model, "all")}
        if len(errors) > 2:
            numbers = sorted(errors)
            last = numbers[-1]
            before = error_after({number: errors[number] for number in numbers[:-1]}, last)
            line = 1 - error_after(errors, PUBLIC_EPOCHS)
            trained = ", ".join(map(str, numbers))
            lines.append(f"| {model} | {trained} | {line:.2f} | {1 - errors[last]:.3f} | {1 - before:.3f} |")
    return lines


def rows_of(given: argparse.Namespace) -> list[tuple[str, str, int, float, float]]:
    """Trains what is asked for and not done, unless only the table is wanted; returns what `table` takes."""
    rows = []
    for images in given.images:
        _, recipe, numbers = IMAGES[images]
        run = the_run(given.folder, images)
        source, fingerprint = run.sources[0], run.index.fingerprint
        if SHORT not in RECIPES:
            RECIPES.register(SHORT, replace(RECIPES["small-images"], warm_up_epochs=0.5))
        for model in given.only:
            for num_epochs in given.epochs or numbers:
                values = SHARED | MODELS[model] | {"model": model, "recipe": recipe, "num_epochs": num_epochs}
                section = type(run.config.evaluation.training).model_validate(values)
                name = f"{model.replace('/', '-')}-{num_epochs}"
                job = training_job(run, name, section, source, fingerprint, given.seed)
                if given.table and not run.models.exists(f"{job.folder}/result.json"):
                    continue
                done = read_result(run.models, f"{job.folder}/result.json") if given.table else train_model(run, job)
                rows.append((model, images, done.num_epochs, done.accuracy, done.seconds))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="of the trainings")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--images", nargs="+", choices=IMAGES, default=list(IMAGES), metavar="IMAGES")
    parser.add_argument("--epochs", nargs="+", type=int, help="from 1 to 10,000, instead of those that the images have")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="train nothing")
    given = parser.parse_args()
    if not all(1 <= number <= 10_000 for number in given.epochs or ()):
        parser.error(f"--epochs {' '.join(map(str, given.epochs))}: each must lie from 1 to 10,000")
    if not os.environ.get("TAGGANTS_DATA"):
        parser.error("set TAGGANTS_DATA to the folder that holds cifar100 and tiny_imagenet20")
    try:
        print("\n".join(table(rows_of(given))))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
