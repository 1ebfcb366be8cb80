"""Does it pay to put several keys of one surrogate through the network in one pass?

    python benchmarks/keys_in_one_pass.py [--device cuda] [--keys 4] [--repeats 5]

Each key has a parameter gradient and a direction of its own, so one pass needs `torch.func.vmap` over keys: of the parameter
gradient in pass 1, of the weights themselves in pass 2 (convolutions become grouped, products batched). Beside it, the same
two passes key by key, as a crafting worker takes them. Sample-steps per second of both, 50 images a key; above 1 one pass is
faster. Interleaved, median over repeats, lowest to highest.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.crafting import NUM_IMAGES, network
from taggants.alignment import loss_gradient, pixel_gradient
from taggants.models import Precision


def passes(name: str, num_keys: int, device: str, num_images: int = NUM_IMAGES) -> dict[str, Callable[[], object]]:
    """Returns both ways to take pass 1 and pass 2 of a finite difference for all keys."""
    plain, size = network(name)
    batched = Precision(
        copy.deepcopy(plain).to(device), torch.float32, channels_last=False
    )  # vmap knows no channels_last
    model = Precision(plain.to(device), torch.float32, channels_last=True, is_first_order=True)
    images = torch.rand(num_keys, num_images, 3, size, size, device=device)
    labels = torch.randint(100, (num_keys, 1), device=device).expand(-1, num_images)
    weights = {key: weight.detach() for key, weight in model.named_parameters()}
    moved = {key: torch.stack([weight * (1 + 1e-3 * k) for k in range(num_keys)]) for key, weight in weights.items()}

    def loss(given: dict[str, Tensor], pixels: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(functional_call(batched, given, (pixels,)), targets, reduction="sum")

    by_weights = vmap(grad(loss), in_dims=(None, 0, 0))
    by_pixels = vmap(grad(loss, argnums=1), in_dims=(0, 0, 0))

    def together() -> None:
        by_weights(weights, images, labels)
        by_pixels(moved, images, labels)

    def one_by_one() -> None:
        for k in range(num_keys):
            loss_gradient(model, images[k], labels[k])
            pixel_gradient(model, images[k], labels[k], {key: stack[k] for key, stack in moved.items()})

    return {"one by one": one_by_one, "in one pass": together}


def seconds(run: Callable[[], object], device: str) -> float:
    started = time.process_time() if device == "cpu" else time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.process_time() if device == "cpu" else time.perf_counter()) - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--keys", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {given.device}, {given.keys} keys of {NUM_IMAGES} images, float32")
    print("| model | one by one, sample-steps/s | in one pass, sample-steps/s | ratio |\n| --- | --- | --- | --- |")
    for name in ("resnet", "vit", "convnext"):
        ways = passes(name, given.keys, given.device)
        measured: dict[str, list[float]] = {way: [] for way in ways}
        for run in ways.values():
            run()  # warm-up
        for _ in range(given.repeats):
            for way, run in ways.items():
                measured[way].append(given.keys * NUM_IMAGES / seconds(run, given.device))
        separate, joint = (np.array(rates) for rates in measured.values())
        ratio = np.quantile(joint / separate, (0, 0.5, 1))
        cells = (f"{np.median(separate):.3g}", f"{np.median(joint):.3g}", "{1:.2f} ({0:.2f}-{2:.2f})".format(*ratio))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
