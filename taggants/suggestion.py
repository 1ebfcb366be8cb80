"""A configuration for a dataset that was looked at: values that worked on data of its size, with the reason for each.

They are starting points: nobody has measured them on the dataset at hand. Where a rule follows a measurement, it is that of the
digits (8 px, 64/255, 7 images a key) or of CIFAR-100 (32 px, benchmarks/results/power.md); at more than 64 px none was made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from taggants.data.inspection import Inspection
from taggants.detection.question import most_references
from taggants.errors import InputError
from taggants.keys.key_set import SMALLEST_KEY_PX

_MAX_SIGNED_SHARE, _USUAL_SIGNED_SHARE = 0.1, 0.05
_CAPACITY_RISK = 1e-3
_SMALL_PX: Final = 24
"""Images below it are signed as the digits: nothing was measured between 8 and 32 px."""


@dataclass(frozen=True)
class Strength:
    """How photographs are signed, where benchmarks/results/power.md has a row of it: a tenth of a class a key.

    Attributes:
        keys, selection, method, epsilon: of the key family, the images, the crafting and its bound.
        reasons: for the configuration, by field.
    """

    keys: Mapping[str, Any]
    selection: str
    method: str
    reasons: Mapping[str, str]
    epsilon: str = "16/255"

    @property
    def is_matched(self) -> bool:
        return self.method == "matching"


_OF_IMPRINTS: Final = {
    "keys.family": "a fast and two slow waves: what one kind of network misses, another learns; see docs/sign.md for Mixup",
    "signing.selection": "images that a clean model gets wrong: there the pattern is what is left to learn",
    "crafting.method": "the key's own pattern, which most kinds of networks learn; a key laid over an image then turns the "
    "answer more often than with clean models (see flips in the rehearsal); init --strength balanced or quiet turns fewer",
    "crafting.epsilon": "the paper's bound",
}
_OF_MATCHING: Final = {
    "keys.family": "noise, as in the paper",
    "signing.selection": "as in the paper",
    "crafting.method": "the paper's, on surrogates: at its own strength it turns no more answers than clean models do, and "
    "unless many images carry each key, models learn little of it, those of other architectures least",
    "crafting.epsilon": "the paper's bound",
}
STRENGTHS: Final[Mapping[str, Strength]] = {
    "quiet": Strength({"family": "block"}, "random", "matching", _OF_MATCHING),
    "balanced": Strength(
        {"family": "grating"},
        "loss",
        "imprint",
        _OF_IMPRINTS | {"crafting.epsilon": "half the paper's: less is learnt, seen and turned than at 16/255"},
        "8/255",
    ),
    "strong": Strength({"family": "grating"}, "loss", "imprint", _OF_IMPRINTS),
}
DEFAULT_STRENGTH: Final = "strong"
_CLASS_SHARE: Final = 0.1
_WANTED_P: Final = 1e-3  # the default of detection.alpha
_OF_SMALL_IMAGES: Final = Strength(
    {"family": "grating", "num_gratings": 1, "num_low": 0, "aligned": 0},
    "gradient_norm",
    "matching",
    {
        "keys.family": "one wave of any frequency and angle: on the digits (8 px) learnt about as well as noise",
        "signing.selection": "those that move a model most",
        "crafting.method": "the paper's, on surrogates: a plain network learns it best on the digits (8 px)",
    },
)
_OF_TINY_IMAGES: Final = replace(
    _OF_SMALL_IMAGES,
    keys={"family": "block"},
    reasons={
        **_OF_SMALL_IMAGES.reasons,
        "keys.family": "noise, as in the paper: waves of so few pixels come out alike",
    },
)
_TINY_PX: Final = 8
"""Below it waves come out alike: at 4 px grey, 20 pairs of 64 keys have a correlation above 0.9, at 8 px 4 (of 16 keys 0.1)."""


@dataclass(frozen=True)
class Suggestion:
    """tree: sections of fields, as a YAML file holds them. reasons: by dotted field, why it has its value."""

    tree: Mapping[str, Mapping[str, Any]]
    reasons: Mapping[str, str]


def suggest(
    inspection: Inspection,
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    strength: str | None = None,
    bfloat16: bool = False,
) -> Suggestion:
    """Returns a configuration for a dataset: keys by its classes, budget by its class sizes, models and bound by its pixels.

    Victims and controls, and where results go, are left at their defaults; `evaluation.training` is that of the surrogate.

    Args:
        inspection: of the dataset.
        device: where models are trained and taggants crafted.
        strength: of `STRENGTHS`, for images of 24 px or more; None: the default one.
        bfloat16: whether the CPU has instructions for it, which halve the time of such models; a GPU always has.

    Raises:
        InputError: fewer than two classes, too few images, a class too small to carry a key, or a strength for smaller images.
    """
    names = list(STRENGTHS)
    if strength is not None and strength not in names:
        raise InputError(f"strength {strength!r} does not exist; it is {', '.join(names[:-1])} or {names[-1]}")
    size = _model_size(inspection)
    if size < SMALLEST_KEY_PX:
        raise InputError(f"the images have {size} px a side, but keys are images of {SMALLEST_KEY_PX} px or more")
    is_small = size < _SMALL_PX
    if is_small and strength is not None:
        raise InputError(
            f"strength {strength!r} is of images of {_SMALL_PX} px or more, but these have {size}; leave it out, and set "
            "crafting.epsilon and signing.images_per_key"
        )
    of_small = _OF_TINY_IMAGES if size < _TINY_PX else _OF_SMALL_IMAGES
    chosen = of_small if is_small else STRENGTHS[strength or DEFAULT_STRENGTH]
    cells = {"cell_size": min(8, max(1, size // 8))} if chosen.keys["family"] == "block" else {}
    num_steps = 150 if is_small else 250
    num_keys, images_per_key, why_keys, why_images = _keys_and_images(inspection, is_small=is_small)
    epsilon, why_epsilon = _epsilon(size) if is_small else (chosen.epsilon, chosen.reasons["crafting.epsilon"])
    model, why_model = _model(size)
    num_epochs, batch_size = _schedule(inspection.num_images)
    augmentation = {"crop_padding": 4 if size >= 24 else 0, "flip": inspection.channels == 3}
    speed: dict[str, Any] = {"channels_last": model != "cnn", "device": device}
    if device == "cuda" or (bfloat16 and not is_small):
        speed["precision"] = "bfloat16"
    training = {
        "model": model,
        "num_epochs": num_epochs,
        "batch_size": batch_size,
        "learning_rate": 1e-3,
        **augmentation,
        **speed,
    }
    columns = {"image_column": inspection.image_column, "label_column": inspection.label_column}
    if inspection.layout != "parquet":
        columns = {}
    tree: dict[str, dict[str, Any]] = {
        "data": {
            "source": inspection.layout,
            "root": inspection.root,
            "train": inspection.train,
            "test": inspection.test,
            **columns,
            "channels": inspection.channels,
            "image_size": None if inspection.one_size == size else size,
        },
        "keys": {"name": _name_of(inspection.root), "num_keys": num_keys, **chosen.keys, **cells},
        "signing": {"images_per_key": images_per_key, "budget": None, "selection": chosen.selection},
        "surrogate": training,
        "crafting": {
            "method": chosen.method,
            "epsilon": epsilon,
            **({"num_steps": num_steps, **augmentation, **speed} if chosen.is_matched else {}),
        },
        "detection": {"question": _question(inspection, num_keys, size, is_matched=chosen.is_matched)},
        "evaluation": {"training": dict(training)},
    }
    if device == "cuda" and chosen.is_matched:
        tree["execution"] = {"num_gpus": 1}  # of each crafting worker: Ray hides GPUs from those that ask for none
    measured = {
        "keys.num_keys": why_keys,
        "signing.images_per_key": why_images,
        "crafting.epsilon": why_epsilon,
        "surrogate.model": why_model
        if chosen.is_matched
        else f"ranks images and is compared with suspects; {why_model}",
    }
    num_references = tree["detection"]["question"]["num_references"]
    follow = _reasons(inspection, size, names_kinds=num_references > 0 and not chosen.is_matched)
    return Suggestion(tree, {**chosen.reasons, **measured, **follow})


def _reasons(inspection: Inspection, size: int, *, names_kinds: bool) -> dict[str, str]:
    """Returns the reasons, by dotted field, that follow from the dataset and the method alone."""
    reasons = {
        "data.source": "the layout of the folder",
        "data.root": "folder or s3:// prefix; $NAME is expanded",
        "data.train": "what is signed",
        "data.test": "for accuracies, and the pictures that keys are laid over"
        if inspection.test
        else "none was found: accuracies are those on the training images, and keys are asked alone",
        "surrogate.num_epochs": f"for {inspection.num_images:,} training images",
        "surrogate.flip": "mirroring keeps a photograph's class, but not always a letter's or digit's",
        "detection.question": "clean models that suspects are compared with, beside the surrogate",
    }
    if names_kinds:
        reasons["detection.question"] += ": name the kinds that others may train"
    if inspection.one_size is None:
        reasons["data.image_size"] = (
            f"images differ in size or are not square: models take them at {size} px, the files are signed as they are"
        )
    elif inspection.one_size != size:
        reasons["data.image_size"] = (
            f"models take the images of {inspection.one_size} px at {size} px, the files are signed as they are"
        )
    return reasons


def _model_size(inspection: Inspection) -> int:
    """Returns the side in px at which models take the images: their own, or a usual one near it if it is no one size."""
    if inspection.one_size is not None and inspection.one_size <= 256:
        return inspection.one_size
    shorter_sides = sorted(min(size) for size in inspection.sizes)
    median = shorter_sides[len(shorter_sides) // 2]
    return next(size for size, above in ((224, 128), (64, 48), (32, 0)) if median >= above)


def _keys_and_images(inspection: Inspection, *, is_small: bool) -> tuple[int, int, str, str]:
    """Returns the number of keys, the images that carry each, and why."""
    num_classes, smallest = inspection.num_classes, min(inspection.class_sizes)
    if num_classes < 2:
        raise InputError(f"{inspection.root} has one class; a key's label needs two or more to choose from")
    # A key label is guessed with probability 1 / num_classes: fewer classes, more keys for the same p-value.
    num_keys = next(keys for keys, classes in ((10, 20), (16, 8), (32, 4), (64, 2)) if num_classes >= classes)
    wanted = of_class = 7
    if not is_small:
        of_class = round(_CLASS_SHARE * inspection.num_images / num_classes)
        # Few classes have many images each: a share of a class for each key would be too much of the whole.
        wanted = max(5, min(of_class, int(_USUAL_SIGNED_SHARE * inspection.num_images / num_keys)))
    wanted_keys, least_keys = num_keys, max(8, math.ceil(math.log(1 / _WANTED_P) / math.log(num_classes)))
    while True:
        most = int(_MAX_SIGNED_SHARE * inspection.num_images / num_keys)
        fitting = smallest // _most_keys_of_a_class(num_keys, num_classes)
        images_per_key = min(wanted, most, fitting)
        if images_per_key >= 5 or num_keys <= least_keys:
            break
        num_keys -= 1
    if most < 1:
        raise InputError(
            f"{inspection.root} has {inspection.num_images:,} training images, too few: {num_keys} keys would need at least "
            f"{round(num_keys / _MAX_SIGNED_SHARE):,}, so that at most {_MAX_SIGNED_SHARE:.0%} of them are signed"
        )
    if fitting < 1:
        label = inspection.class_sizes.index(smallest)
        name = inspection.class_names[label] if inspection.class_names else str(label)
        raise InputError(
            f"class {name!r} of {inspection.root} has {smallest:,} of {inspection.num_images:,} training images, too few to "
            "carry keys; add images or leave the class out"
        )
    strength = "as strong as" if is_small or wanted >= of_class else "a smaller share of a class than"
    limit = {
        wanted: f"{strength} in the presets of such images",
        fitting: f"the smallest class has {smallest:,} images",
    }
    share = num_keys * images_per_key / inspection.num_images
    why_images = (
        f"{share:.2%} of the training images are signed; "
        f"{limit.get(images_per_key, f'at most {_MAX_SIGNED_SHARE:.0%} are')}"
    )
    fewer = f"; {wanted_keys} would be too many for so few images" if num_keys < wanted_keys else ""
    return num_keys, images_per_key, f"for {num_classes} classes{fewer}", why_images


def _most_keys_of_a_class(num_keys: int, num_classes: int) -> int:
    """Returns how many keys one class gets at most, but for draws of probability 1e-3 (union bound over binomial tails)."""
    p = 1 / num_classes
    tail, count = 1.0, 0
    while tail * num_classes > _CAPACITY_RISK and count < num_keys:
        tail -= math.comb(num_keys, count) * p**count * (1 - p) ** (num_keys - count)  # P(more than `count`)
        count += 1
    return count if tail * num_classes > _CAPACITY_RISK else count - 1


def _epsilon(size: int) -> tuple[str, str]:
    """Returns the bound of images below 24 px, and why."""
    if size <= 12:
        return "64/255", "so few pixels hold little: visible on a close look"
    return "32/255", "between the digits' 64/255 at 8 px and the paper's 16/255 at 224 px"


def _model(size: int) -> tuple[str, str]:
    if size < 24:
        return "cnn", "small enough for these images; use what you expect others to train, if you know it"
    if size < 128:
        return (
            "timm/resnet10t",
            "learns such images on a few CPU cores; use what you expect others to train, if you know it",
        )
    return "timm/resnet18", "learns such images on one GPU; use what you expect others to train, if you know it"


def _question(inspection: Inspection, num_keys: int, size: int, *, is_matched: bool) -> dict[str, Any]:
    """Returns fields of detection.question. An imprint shows in what a key does to pictures, not in what it is answered alone."""
    beside_surrogate = most_references(num_keys, inspection.num_classes) - 1
    if is_matched:
        return {"num_references": min(2, beside_surrogate)}
    kinds: list[dict[str, Any]] = [{"recipe": "strong"}]
    if size >= 32:  # which a ConvNeXt halves five times
        kinds.append({"model": "timm/convnext_atto"})
    if size < 128:
        kinds.append({"model": "cnn"})
    if patch_size := _patch_size(size):
        kinds.append({"model": "timm/vit_tiny_patch16_224", "patch_size": patch_size})
    kinds = kinds[:beside_surrogate]
    return {"bare_key": inspection.test is None, "num_references": len(kinds), "kinds": kinds}


def _patch_size(size: int) -> int | None:
    """Returns the side of a vision transformer's patches, which must divide the image: as was measured at 32 px, four a side, or
    the usual 16 px of large images, or the nearest divisor. None: nothing near divides it."""
    wanted = size / 4 if size < 128 else 16
    near = [side for side in range(1, size + 1) if size % side == 0 and wanted / 2 <= side <= 2 * wanted]
    return min(near, key=lambda side: abs(side - wanted), default=None)


def _schedule(num_images: int) -> tuple[int, int]:
    """Returns epochs and batch size: from 5,000 steps for small datasets to the 30 epochs that ImageNet needs at least."""
    if num_images < 2_000:
        return 60, 16
    if num_images < 20_000:
        return 25, 64
    return (20, 128) if num_images < 200_000 else (30, 256)


def _name_of(root: str) -> str:
    """Returns a name for the key file from the last part of the dataset's address."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(root).name).strip("-")
    return name[:60] or "dataset"
