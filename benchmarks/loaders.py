"""Epoch time of small-image training by `loader: device` against `memory`, and what of it is not forward, backward or step.

    python benchmarks/loaders.py --models timm/resnet10t timm/resnet18 --images 2000 --repeats 5

Both loaders train the same model on random images, by turns in one process, so that both see the same neighbours on the
machine; the first epoch of each is left out. Times are of the wall, and of the process's CPU, which other work on the machine
disturbs less. On the CPU the clocks around the parts cost nothing; on a GPU, where only whole epochs are timed, they would
make the host wait.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from taggants.models import DTYPE_OF_PRECISION, ModelSpec, Precision, build_model
from taggants.training import loop
from taggants.training.examples import InMemory
from taggants.training.loop import Optimiser, train
from taggants.training.recipes import RECIPES, Recipe


class Parts:
    """CPU seconds of one epoch by what they were spent on, as hooks of the model and the optimiser see them."""

    def __init__(self) -> None:
        self.compute = self.step = 0.0
        self._since = 0.0

    def begin(self) -> None:
        self._since = time.process_time()

    def end_of_backward(self) -> None:
        now = time.process_time()
        self.compute += now - self._since
        self._since = now

    def end_of_step(self) -> None:
        self.step += time.process_time() - self._since


def epochs_of(arguments: argparse.Namespace, model_name: str, loader: str) -> list[tuple[float, float, float, float]]:
    """Returns wall seconds, CPU seconds, and CPU seconds of forward with backward and of the step, for each epoch."""
    generator = torch.Generator().manual_seed(0)
    size = arguments.image_size
    images = torch.randint(0, 256, (arguments.images, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(arguments.images) % 20
    place = arguments.device if loader == "device" else "cpu"
    examples = InMemory(images.to(place), labels.to(place))
    model = build_model(ModelSpec(model_name, 20, 3, size), 0).to(arguments.device)
    wrapped = Precision(
        model,
        DTYPE_OF_PRECISION[arguments.precision],
        channels_last=True,
        is_first_order=True,
        is_compiled=arguments.compile,
    )
    if arguments.compile:
        wrapped.compile(dynamic=False)
    parts, found = Parts(), []
    if arguments.device == "cpu":
        wrapped.register_forward_pre_hook(lambda *_: parts.begin())
        made = loop._make_optimiser

        def timed(*given):
            descent = made(*given)
            descent.register_step_pre_hook(lambda *_: parts.end_of_backward())
            descent.register_step_post_hook(lambda *_: parts.end_of_step())
            return descent

        loop._make_optimiser = timed
    clocks = [time.perf_counter(), time.process_time()]

    def end_of_epoch(report, state) -> None:
        now = [time.perf_counter(), time.process_time()]
        found.append((now[0] - clocks[0], now[1] - clocks[1], parts.compute, parts.step))
        parts.compute = parts.step = 0.0
        clocks[:] = [time.perf_counter(), time.process_time()]

    try:
        train(
            wrapped,
            examples,
            Recipe(arguments.recipe, 4, True, 20),
            Optimiser(1 + arguments.epochs, arguments.batch_size, 1e-3, 0.05),
            seed=0,
            on_epoch_end=end_of_epoch,
        )
    finally:
        if arguments.device == "cpu":
            loop._make_optimiser = made
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["timm/resnet10t", "timm/resnet18"])
    parser.add_argument(
        "--recipe", choices=[name for name in RECIPES if RECIPES[name].policy is None], default="simple"
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1, help="timed in each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'model':<16} {'loader':<7} {'wall s/epoch (min-max)':<26} {'CPU s/epoch (min-max)':<26} outside   step")
    for model in arguments.models:
        rows: dict[str, list[tuple[float, float, float, float]]] = {"memory": [], "device": []}
        for repeat in range(arguments.repeats):
            for loader in list(rows)[:: 1 if repeat % 2 == 0 else -1]:
                rows[loader] += epochs_of(arguments, model, loader)
        for loader, epochs in rows.items():
            walls, seconds = [epoch[0] for epoch in epochs], [epoch[1] for epoch in epochs]
            spans = [
                f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})" for times in (walls, seconds)
            ]
            shares = ["-", "-"]
            if arguments.device == "cpu":
                outside = statistics.median(1 - (compute + step) / cpu for _, cpu, compute, step in epochs)
                shares = [f"{outside:.1%}", f"{statistics.median(step / cpu for _, cpu, _, step in epochs):.1%}"]
            print(f"{model:<16} {loader:<7} {spans[0]:<26} {spans[1]:<26} {shares[0]:>7} {shares[1]:>6}", flush=True)


if __name__ == "__main__":
    main()
