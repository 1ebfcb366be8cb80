"""How near finite differences come to the exact pixel gradient of a ReLU network, by step, precision and pattern, as a table.

    python benchmarks/finite_step.py runs/models/surrogate-0-IDENTITY/model.safetensors DATA/train.parquet

Takes a trained checkpoint and images of one class from the first rows of a Parquet file in the Hugging Face layout. "held":
the activation pattern is replayed where the weights move. Cosine and share of equal signs against double_backward on the
plain network in float32; gain: what one step of so many levels along the signs adds to the alignment with a noise key.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from taggants.alignment import ENGINES, alignment, alignment_direction, gate_kinks, key_gradient, loss_gradient
from taggants.alignment import loss_gradient_and_base as pass_1
from taggants.data import open_source
from taggants.models import Precision, model_from_checkpoint
from taggants.storage import Root

STEPS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
LEVELS = (1, 4)
CELL_SIZE = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("parquet")
    parser.add_argument("--label", type=int, default=3)
    parser.add_argument("--images", type=int, default=25)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder, name = Root.of_file(given.checkpoint)
    checkpoint = folder.read_bytes(name)

    def surrogate(dtype: torch.dtype, held: bool) -> tuple[Precision, int]:
        model, spec = model_from_checkpoint(checkpoint, given.checkpoint)
        if held:
            gate_kinks(model)
        return Precision(model, dtype, channels_last=True), spec.image_size

    data, file = Root.of_file(given.parquet)
    source = open_source("parquet", data, file, channels=3)
    chosen = np.flatnonzero(source.index().labels == given.label)[: given.images]
    images = torch.from_numpy(source.read_images(chosen.tolist())).float() / 255
    labels = torch.full((len(images),), given.label)
    plain, size = surrogate(torch.float32, held=False)
    cells = torch.randint(0, 256, (3, size // CELL_SIZE, size // CELL_SIZE), generator=torch.Generator().manual_seed(0))
    key_image = cells.repeat_interleave(CELL_SIZE, 1).repeat_interleave(CELL_SIZE, 2).float() / 255
    key_label = torch.tensor(given.label)
    key = key_gradient(plain, key_image, key_label)
    start, direction = alignment_direction(key, loss_gradient(plain, images, labels))
    exact = ENGINES["double_backward"].bind(plain, direction)(images, labels, None)

    def gains(gradient: Tensor) -> str:
        moved = [(images + levels / 255 * gradient.sign()).clamp(0, 1) for levels in LEVELS]
        return " | ".join(f"{float(alignment(key, loss_gradient(plain, m, labels)) - start):.3f}" for m in moved)

    print(f"{len(images)} images of class {given.label}, alignment at the start {float(start):.3f}\n")
    print(
        "| pattern | precision | step / weights | cosine | equal signs |" + "".join(f" gain at {n} |" for n in LEVELS)
    )
    print("|" + " --- |" * (5 + len(LEVELS)))
    print(f"| double_backward | float32 | | 1 | 1 | {gains(exact)} |")
    for dtype in (torch.float32, torch.bfloat16):
        for held in (False, True):
            model, _ = surrogate(dtype, held)
            own_key = key_gradient(model, key_image, key_label)
            gradient, base = pass_1(model, images, labels)
            _, along = alignment_direction(own_key, gradient)
            for step in STEPS:
                found = ENGINES["one_sided"].with_step(step).bind(model, along)(images, labels, base)
                cosine = float(cosine_similarity(found.flatten(), exact.flatten(), dim=0))
                signs = float((found.sign() == exact.sign()).float().mean())
                names = f"| {'held' if held else 'kinks seen'} | {str(dtype).removeprefix('torch.')} | {step:g} "
                print(f"{names}| {cosine:.3f} | {signs:.3f} | {gains(found)} |", flush=True)


if __name__ == "__main__":
    main()
