"""What one crafting step asks of a device, counted on the CPU: operators, bytes and constants that the host sends.

    python benchmarks/launches.py [--models timm/resnet50 ...]

An operator is a call that reaches a backend and is no view: about one kernel launch (of `_foreach_` calls, a few for all
tensors of a list). bytes: what operators read and write. constants: tensors made of Python numbers, each of which a CUDA
device waits for unless they are kept. reads: values that the host asks the device for, each of which stops the queue.
Counted on the second of three steps by torch's dispatcher, with 4 images in 2 views; the operators do not depend on the
number of images, the bytes do.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parent.parent))

from taggants.alignment import ENGINES, gradients
from taggants.augmentation import (
    Augmentation,
    ColourJitter,
    Compose,
    CropAndFlip,
    MixAugment,
    RandomResizedCrop,
    ThreeAugment,
)
from taggants.crafting.signing_set import Optimisation, SigningSet, craft_signing_set, key_gradients
from taggants.models import ModelSpec, Precision, build_model
from taggants.perturbation.codec import Codec, JpegCodec, LosslessCodec

SIZE, NUM_IMAGES = 64, 4


class LaunchCount(TorchDispatchMode):
    """Counts within it; all of it stays 0 outside."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.bytes = self.constants = self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        if name == "lift_fresh":
            self.constants += 1
        elif name == "_local_scalar_dense":
            self.reads += 1
        elif not func.is_view and name not in (
            "detach",
            "alias",
            "empty_like",
            "empty",
            "new_empty_strided",
            "empty_strided",
        ):
            self.operators[name] += 1
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return out


def jpeg_codec(num_images: int, size: int) -> JpegCodec:
    """Of files with subsampled chroma, at about quality 90."""
    tables = torch.full((num_images, 3, 8, 8), 5)
    return JpegCodec(tables, (2, 2), torch.full((num_images, 2), size))


def as_on_a_device() -> None:
    """Takes the code paths of a GPU, on the CPU."""
    gradients.adds_by_tensor = lambda first: False


def count_step(
    name: str,
    engine: str,
    augmentation: Augmentation,
    *,
    codec: Codec,
    mixes: bool,
    dtype: torch.dtype,
    models: int = 1,
) -> LaunchCount:
    """Returns the counts of the second of three steps."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (NUM_IMAGES, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    surrogates = [
        Precision(
            build_model(ModelSpec(name, 100, 3, SIZE), seed).eval(),
            dtype,
            channels_last=True,
            is_first_order=ENGINES[engine].is_first_order,
        )
        for seed in range(models)
    ]
    mixing = MixAugment(100).bind(images, torch.arange(NUM_IMAGES)) if mixes else None
    signing_set = SigningSet(images, torch.full((NUM_IMAGES,), 3), torch.arange(NUM_IMAGES), codec=codec, mixing=mixing)
    optimisation = Optimisation(
        levels=16,
        num_steps=3,
        step_size=0.4,
        milestones=(),
        decay=0.3,
        momentum=0.9,
        num_restarts=1,
        num_views=2,
        microbatch=2 * NUM_IMAGES,
        initial_noise=1.0,
        augmentation=augmentation,
        engine=ENGINES[engine],
    )
    count, steps = LaunchCount(), []

    def on_step() -> None:
        steps.append(1)
        if len(steps) == 1:
            count.__enter__()
        elif len(steps) == 2:
            count.__exit__(None, None, None)

    keys = key_gradients(surrogates, images[0], torch.tensor(3))
    craft_signing_set(surrogates, signing_set, keys, optimisation, seed=0, on_step=on_step)
    return count


def cases() -> dict[str, Callable[[str], LaunchCount]]:
    """By name: of a model's name."""
    crop = CropAndFlip(4, True)
    strong = Compose((RandomResizedCrop(SIZE), ThreeAugment(), ColourJitter(0.3)))
    lossless, jpeg, full, low = LosslessCodec(), jpeg_codec(NUM_IMAGES, SIZE), torch.float32, torch.bfloat16
    return {
        "one_sided, crop": lambda m: count_step(m, "one_sided", crop, codec=lossless, mixes=False, dtype=full),
        "one_sided, bf16, crop": lambda m: count_step(m, "one_sided", crop, codec=lossless, mixes=False, dtype=low),
        "one_sided, 3 surrogates, crop": lambda m: count_step(
            m, "one_sided", crop, codec=lossless, mixes=False, dtype=full, models=3
        ),
        "one_sided, all augmentations, JPEG": lambda m: count_step(
            m, "one_sided", strong, codec=jpeg, mixes=True, dtype=full
        ),
        "double_backward, crop": lambda m: count_step(
            m, "double_backward", crop, codec=lossless, mixes=False, dtype=full
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["timm/resnet50", "timm/convnext_atto"])
    parser.add_argument("--top", type=int, default=0, help="also list so many of the most frequent operators")
    given = parser.parse_args()
    as_on_a_device()
    print("| model | step | operators | MB | constants | reads |\n| --- | --- | --- | --- | --- | --- |")
    for model in given.models:
        for name, run in cases().items():
            count = run(model)
            figures = f"{count.operators.total()} | {count.bytes / 1e6:.0f} | {count.constants} | {count.reads}"
            print(f"| {model} | {name} | {figures} |", flush=True)
            if given.top:
                print("  " + ", ".join(f"{n} {c}" for n, c in count.operators.most_common(given.top)))


if __name__ == "__main__":
    main()
