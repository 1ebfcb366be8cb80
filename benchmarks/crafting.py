"""Crafting speed: our engines and their peers on the same images, keys, models and steps, as one table.

    python benchmarks/crafting.py                       # resnet, vit and convnext; about 25 minutes on 2 cores
    python benchmarks/crafting.py --models resnet --repeats 1

Per row: sample-steps per second (an image in one view in one step), its ratio to the peers' route, the FLOPs of one
sample-step in forward passes (counted by torch), the share of the machine's first-order rate on the same model in one
large batch at that precision, peak memory above the idle process at the peers' microbatch, and the alignment reached.
Cases are interleaved, medians over repeats,
spread = (max - min) / median.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.peers import art_gradient_matching, gradient_matching
from taggants.alignment import ENGINES, alignment, key_gradient, loss_gradient
from taggants.augmentation import CropAndFlip
from taggants.crafting.signing_set import Optimisation, SigningSet, craft_signing_set, key_gradients
from taggants.models import Precision

NUM_IMAGES, NUM_VIEWS, LEVELS = 50, 2, 16
MICROBATCH = {"ours": NUM_IMAGES * NUM_VIEWS}  # memory is compared at the peers' microbatch
PEER, ART, KEPT = "peers' route", "ART", "bf16, direction kept 4 steps"


def network(name: str) -> tuple[nn.Module, int]:
    """Returns the model in eval mode and its image size."""
    torch.manual_seed(0)
    if name == "resnet":
        model = timm.create_model("resnet18", num_classes=100, channels=(16, 32, 64, 128))
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)  # the CIFAR stem: no stride, no pooling
        model.maxpool = nn.Identity()
        return model.eval(), 32
    if name == "vit":
        return timm.create_model("vit_tiny_patch16_224", num_classes=100, img_size=64, patch_size=8).eval(), 64
    return timm.create_model("convnext_atto", num_classes=100).eval(), 64


def inputs(size: int) -> dict[str, Tensor]:
    """Images of one class with soft structure, and a noise key; drawn, so that the benchmark needs no data."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(NUM_IMAGES, 3, size // 8, size // 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    cells = torch.randint(0, 256, (3, size // 8, size // 8), generator=generator, dtype=torch.uint8)
    return {
        "images": (smooth * 255).to(torch.uint8),
        "labels": torch.full((NUM_IMAGES,), 3),
        "key_image": cells.repeat_interleave(8, 1).repeat_interleave(8, 2),
        "key_label": torch.tensor(3),
    }


def ours(
    model: nn.Module,
    given: dict[str, Tensor],
    engine: str,
    num_steps: int,
    dtype: torch.dtype,
    direction_interval: int = 1,
) -> Tensor:
    surrogate = Precision(
        copy.deepcopy(model), dtype, channels_last=True, is_first_order=ENGINES[engine].is_first_order
    )
    optimisation = Optimisation(
        levels=LEVELS,
        num_steps=num_steps,
        step_size=0.4,
        milestones=(num_steps * 9 // 10,),  # the peers' step size is constant
        decay=0.3,
        momentum=0.9,
        num_restarts=1,
        num_views=NUM_VIEWS,
        microbatch=MICROBATCH["ours"],
        initial_noise=1.0,
        augmentation=CropAndFlip(4, True),
        engine=ENGINES[engine],
        direction_interval=direction_interval,
    )
    signing_set = SigningSet(given["images"], given["labels"], torch.arange(len(given["images"])))
    keys = key_gradients([surrogate], given["key_image"], given["key_label"])
    crafted = craft_signing_set([surrogate], signing_set, keys, optimisation, seed=torch.initial_seed())
    return crafted.read.float() / 255


def as_floats(given: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The inputs as peers take them: pixels in [0, 1]."""
    return given["images"].float() / 255, given["labels"], given["key_image"].float() / 255, given["key_label"]


def peer(model: nn.Module, given: dict[str, Tensor], num_steps: int) -> Tensor:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # fused attention refuses their route
        return gradient_matching(
            model,
            *as_floats(given),
            epsilon=LEVELS / 255,
            step_size=0.4 * LEVELS / 255,
            num_steps=num_steps,
            num_views=NUM_VIEWS,
            batch_size=NUM_IMAGES,
        )


def art(model: nn.Module, given: dict[str, Tensor], num_steps: int) -> Tensor:
    """ART has no views: it gets as many epochs as ours has views and steps."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return art_gradient_matching(
            model,
            *as_floats(given),
            epsilon=LEVELS / 255,
            num_steps=num_steps * NUM_VIEWS,
            batch_size=NUM_IMAGES,
        )


def cases(with_art: bool) -> dict[str, Callable[[nn.Module, dict[str, Tensor], int], Tensor]]:
    chosen: dict[str, Callable[[nn.Module, dict[str, Tensor], int], Tensor]] = {PEER: peer}
    if with_art:
        chosen[ART] = art
    for name in ENGINES:
        chosen[name] = lambda model, given, steps, name=name: ours(model, given, name, steps, torch.float32)
    for name in ("central", "one_sided"):
        chosen[f"{name}, bf16"] = lambda model, given, steps, name=name: ours(model, given, name, steps, torch.bfloat16)
    for name in ("central", "one_sided"):
        chosen[f"{name}, {KEPT}"] = lambda model, given, steps, name=name: ours(
            model, given, name, steps, torch.bfloat16, 4
        )
    return chosen


def reached(model: nn.Module, given: dict[str, Tensor], signed: Tensor) -> float:
    """The alignment of the unaugmented 8-bit signed set."""
    key = key_gradient(model, given["key_image"].float() / 255, given["key_label"])
    rounded = torch.round(signed * 255) / 255
    return float(alignment(key, loss_gradient(model, rounded, given["labels"])))


class FlopCount(TorchDispatchMode):
    """Sums torch's own FLOP formulas; FlopCounterMode also tracks modules, by hooks that double backward refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if func._overloadpacket is torch.ops.aten.convolution_backward:
            # Each wanted gradient costs what the forward does. Torch's formula takes a grouped convolution for a dense one
            # where it counts the weights' gradient: 40-fold too much in ConvNeXt-atto's depthwise layers.
            gradient, _, weight, *_, wanted = args
            self.total += 2 * weight.numel() * gradient.shape[0] * gradient[0, 0].numel() * sum(wanted[:2])
        elif formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def flops(run: Callable[[], object]) -> int:
    with FlopCount() as counter:
        run()
    return counter.total


def flop_multiple(
    run: Callable[[nn.Module, dict[str, Tensor], int], object], model: nn.Module, given: dict[str, Tensor]
) -> float:
    """FLOPs of a sample-step in forward passes, on 10 of the images: what four steps more cost, so that set-up cancels."""
    few = given | {"images": given["images"][:10], "labels": given["labels"][:10]}
    # torch has no formula for the CPU's fused attention and would count none of it.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        with torch.no_grad():
            forward = flops(lambda: model(few["images"].float() / 255))
        return (flops(lambda: run(model, few, 5)) - flops(lambda: run(model, few, 1))) / (4 * forward * NUM_VIEWS)


def first_order_rate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    dtype: torch.dtype,
    clock: Callable[[], float],
    seconds: float = 4.0,
) -> float:
    """F per second, in samples: forward and parameter gradient (3 F) of one large batch at that precision."""
    large, many = images.repeat(4, 1, 1, 1), labels.repeat(4)
    model = Precision(copy.deepcopy(model), dtype, channels_last=True, is_first_order=True)
    parameters = list(model.parameters())
    torch.autograd.grad(cross_entropy(model(large), many), parameters)  # warm-up
    done, started = 0, clock()
    while clock() - started < seconds:
        torch.autograd.grad(cross_entropy(model(large), many), parameters)
        done += 1
    return 3 * done * len(large) / (clock() - started)


def measure_memory(model_name: str, case: str) -> int:
    """Peak resident bytes above those before crafting; call in a process of its own."""
    model, size = network(model_name)
    given = inputs(size)
    with torch.no_grad():
        model(given["images"][:2].float() / 255)
    Path("/proc/self/clear_refs").write_text(
        "5"
    )  # the peak starts anew; getrusage's would be inherited from the parent
    MICROBATCH["ours"] = NUM_IMAGES
    before = _peak_resident_bytes()
    cases(with_art=True)[case](model, given, 2)
    return _peak_resident_bytes() - before


def _peak_resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def benchmark(
    model_name: str, num_steps: int, repeats: int, with_art: bool, only: list[str]
) -> list[dict[str, float | str]]:
    model, size = network(model_name)
    given = inputs(size)
    images = given["images"].float() / 255
    chosen = {name: run for name, run in cases(with_art).items() if not only or name in (PEER, *only)}
    # With one thread its CPU time, into which no other work on the machine enters.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    alignments: dict[str, list[float]] = {name: [] for name in chosen}
    rates: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for run in chosen.values():
        run(model, given, 1)  # warm-up
    for repeat in range(repeats):
        for dtype, measured in rates.items():
            measured.append(first_order_rate(model, images, given["labels"], dtype, clock))
        for name, run in chosen.items():
            torch.manual_seed(repeat)  # of the start and the views
            started = clock()
            signed = run(model, given, num_steps)
            seconds[name].append(clock() - started)
            alignments[name].append(reached(model, given, signed))
    rows: list[dict[str, float | str]] = []
    sample_steps = NUM_IMAGES * NUM_VIEWS * num_steps
    peer_rate = sample_steps / float(np.median(seconds[PEER]))
    for name, run in chosen.items():
        first_order = float(np.median(rates[torch.bfloat16 if "bf16" in name else torch.float32]))
        multiple = flop_multiple(run, model, given)
        rate = sample_steps / float(np.median(seconds[name]))
        memory = subprocess.run(
            [sys.executable, __file__, "--memory", model_name, name], capture_output=True, text=True, check=True
        )
        rows.append(
            {
                "model": model_name,
                "case": name,
                "sample-steps/s": rate,
                "x peers": rate / peer_rate,
                "x ART": rate * float(np.median(seconds[ART])) / sample_steps if ART in seconds else "",
                "F": multiple,
                "of first order": rate * multiple / first_order,
                "peak MB": json.loads(memory.stdout) / 1e6,
                "alignment": "{1:.4f} ({0:.4f}-{2:.4f})".format(*np.quantile(alignments[name], (0, 0.5, 1))),
                "spread": (max(seconds[name]) - min(seconds[name])) / float(np.median(seconds[name])),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["resnet", "vit", "convnext"], choices=["resnet", "vit", "convnext"]
    )
    parser.add_argument(
        "--cases", nargs="+", default=[], help="rows beside the peers' route, such as one_sided; else all"
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--without-art", action="store_true", help="when adversarial-robustness-toolbox is not installed"
    )
    parser.add_argument("--memory", nargs=2, metavar=("MODEL", "CASE"), help="print the peak bytes of one case and end")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    if given.memory:
        print(measure_memory(*given.memory))
        return
    print(f"torch {torch.__version__}, {given.threads} threads, {given.steps} steps, {given.repeats} repeats,", end=" ")
    print(f"{NUM_IMAGES} images, {NUM_VIEWS} views")
    titles = [
        "model",
        "case",
        "sample-steps/s",
        "x peers",
        "x ART",
        "F",
        "of first order",
        "peak MB",
        "alignment",
        "spread",
    ]
    print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles))
    for name in given.models:
        for row in benchmark(name, given.steps, given.repeats, not given.without_art, given.cases):
            cells = [row[t] if isinstance(row[t], str) else f"{row[t]:.3g}" for t in titles]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
