"""Crafting speed on one device: the parts of benchmarks/gpu.py that train nothing. Images and weights are drawn.

Run as a program it is a worker of `side_by_side`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.gpu import PYTHON, Results, Worker
from benchmarks.keys_in_one_pass import passes, seconds
from benchmarks.peers import art_gradient_matching, gradient_matching
from taggants.alignment import ENGINES
from taggants.augmentation import CropAndFlip
from taggants.crafting.signing_set import Optimisation, SigningSet, craft_signing_set, key_gradients
from taggants.models import ModelSpec, Precision, build_model

NUM_VIEWS, LEVELS, NUM_CLASSES, STEPS_PER_KEY = 2, 16, 1000, 250
WORK = {"one_sided": 5, "double_backward": 10.5, "peers": 9}
"""Forward passes of a sample-step, as the README of the engines and crafting_cost count them for these networks."""


@dataclass(frozen=True)
class Subject:
    """What is crafted on: a timm model, the side of its images in px and how many carry a key."""

    model: str
    image_size: int
    num_images: int


SUBJECTS = (
    Subject("timm/resnet50", 224, 128),
    Subject("timm/deit3_small_patch16_224", 224, 128),
    Subject("timm/convnext_tiny", 224, 128),
)
TOYS = (Subject("cnn", 16, 2), Subject("timm/resnet10t", 32, 2))
SMALL = Subject("timm/resnet18", 32, 50)


class _Enough(Exception):
    """Ends a crafting whose rate is known."""


class Device:
    """The card, or the CPU at toy size."""

    def __init__(self, toy: bool) -> None:
        warnings.simplefilter("ignore")
        self.name = "cpu" if toy else "cuda"
        self.backend = "aot_eager" if toy else "inductor"  # kernels for a CPU would take minutes to compile

    def wait(self) -> None:
        if self.name == "cuda":
            torch.cuda.synchronize()

    def clock(self) -> float:
        self.wait()
        return time.perf_counter()

    def start_memory(self) -> None:
        if self.name == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float | None:
        """None on the CPU, of which nobody counts it."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.name == "cuda" else None

    def rate(self, run: Callable[[], object], duration: float) -> float:
        """Runs a second of `run`s per second, after two as warm-up, without waiting between them."""
        run()
        started = self.clock()
        run()
        count = max(1, round(duration / max(self.clock() - started, 1e-6)))
        started = self.clock()
        for _ in range(count):
            run()
        return count / (self.clock() - started)


def inputs(subject: Subject, device: str) -> dict[str, Tensor]:
    """Images of one class with soft structure, and a noise key."""
    generator, size = torch.Generator().manual_seed(1), subject.image_size
    coarse = torch.rand(subject.num_images, 3, size // 8, size // 8, generator=generator)
    images = nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    given = {
        "images": (images * 255).to(torch.uint8),
        "labels": torch.full((subject.num_images,), 3),
        "key_image": torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8),
        "key_label": torch.tensor(3),
    }
    return {name: tensor.to(device) for name, tensor in given.items()}


def network(subject: Subject, device: str) -> nn.Module:
    """In eval mode."""
    return build_model(ModelSpec(subject.model, NUM_CLASSES, 3, subject.image_size), 0).eval().to(device)


def crafting_rate(
    subject: Subject,
    device: Device,
    engine: str,
    dtype: torch.dtype,
    duration: float,
    *,
    compiled: bool = False,
    graphs: bool = False,
) -> float:
    """Sample-steps a second of the project's own loop, over about `duration` seconds.

    graphs: launch the compiled kernels as CUDA graphs, which copy their inputs, weights included, before each replay.
    """
    plain, given = network(subject, device.name), inputs(subject, device.name)
    if graphs and device.name == "cuda":
        plain.compile(dynamic=False, mode="reduce-overhead")
    elif compiled or graphs:
        plain.compile(dynamic=False, backend=device.backend)
    is_first_order = ENGINES[engine].is_first_order
    model = Precision(plain, dtype, channels_last=True, is_first_order=is_first_order, is_compiled=compiled or graphs)
    samples = subject.num_images * NUM_VIEWS
    optimisation = Optimisation(
        levels=LEVELS,
        num_steps=100_000,
        step_size=0.4,
        milestones=(),
        decay=0.3,
        momentum=0.9,
        num_restarts=1,
        num_views=NUM_VIEWS,
        microbatch=samples if is_first_order else samples // 2,  # graphs of gradients take twice the memory
        initial_noise=1.0,
        augmentation=CropAndFlip(4, True),
        engine=ENGINES[engine],
    )
    ids = torch.arange(subject.num_images, device=device.name)
    signing_set = SigningSet(given["images"], given["labels"], ids)
    with torch.compiler.set_stance("force_eager"):
        keys = key_gradients([model], given["key_image"], given["key_label"])
    steps, last = 0, 0
    marks: list[float] = []

    def on_step() -> None:  # two steps warm up, the third tells how many fit
        nonlocal steps, last
        steps += 1
        if steps in (2, 3, last):
            marks.append(device.clock())
        if steps == 3:
            last = 3 + max(1, round(duration / (marks[1] - marks[0])))
        elif steps == last:
            raise _Enough

    with contextlib.suppress(_Enough):
        craft_signing_set([model], signing_set, keys, optimisation, seed=0, on_step=on_step)
    return samples * (last - 3) / (marks[2] - marks[1])


def peers_rate(subject: Subject, device: Device, duration: float) -> float:
    """Sample-steps a second of the peers' route."""
    model, given = network(subject, device.name), inputs(subject, device.name)
    floats = given["images"].float() / 255, given["labels"], given["key_image"].float() / 255, given["key_label"]

    def step() -> None:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # fused attention refuses their route
            gradient_matching(
                model,
                *floats,
                epsilon=LEVELS / 255,
                step_size=0.4 * LEVELS / 255,
                num_steps=2,
                num_views=NUM_VIEWS,
                batch_size=subject.num_images,
            )

    return device.rate(step, duration) * 2 * NUM_VIEWS * subject.num_images


def art_rate(subject: Subject, device: Device, duration: float) -> float:
    """Sample-steps a second of adversarial-robustness-toolbox."""
    import art  # noqa: F401 - its absence is the answer

    model, given = network(subject, device.name), inputs(subject, "cpu")
    floats = given["images"].float() / 255, given["labels"], given["key_image"].float() / 255, given["key_label"]

    def step() -> None:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            art_gradient_matching(model, *floats, epsilon=LEVELS / 255, num_steps=2, batch_size=subject.num_images)

    return device.rate(step, duration) * 2 * subject.num_images


def first_order_rate(subject: Subject, device: Device, duration: float) -> float:
    """F a second, in samples: forward and parameter gradient (3 F) of the same batch in bfloat16."""
    given = inputs(subject, device.name)
    model = Precision(network(subject, device.name), torch.bfloat16, channels_last=True, is_first_order=True)
    images, labels = given["images"].repeat(NUM_VIEWS, 1, 1, 1).float() / 255, given["labels"].repeat(NUM_VIEWS)
    parameters = list(model.parameters())

    def step() -> None:
        torch.autograd.grad(cross_entropy(model(images), labels), parameters)

    return 3 * len(images) * device.rate(step, duration)


def speed(results: Results, toy: bool, limit: float) -> None:
    """Ours against the peers' route and ART; compiled ones last, since compiling may take long."""
    device, ends = Device(toy), time.perf_counter() + limit - 5
    duration = 0.01 if toy else 2.0
    bf16, fp32 = torch.bfloat16, torch.float32
    first_order: dict[Subject, float] = {}
    cases: list[tuple[str, str, Callable[[Subject], float]]] = [
        ("one_sided, bf16", "one_sided", lambda s: crafting_rate(s, device, "one_sided", bf16, duration)),
        (
            "double_backward, fp32",
            "double_backward",
            lambda s: crafting_rate(s, device, "double_backward", fp32, duration),
        ),
        ("peers' route, fp32", "peers", lambda s: peers_rate(s, device, duration)),
        ("ART, fp32", "peers", lambda s: art_rate(s, device, duration)),
        (
            "one_sided, bf16, compiled",
            "one_sided",
            lambda s: crafting_rate(s, device, "one_sided", bf16, duration, compiled=True),
        ),
        (
            "one_sided, bf16, compiled, CUDA graphs",
            "one_sided",
            lambda s: crafting_rate(s, device, "one_sided", bf16, duration, graphs=True),
        ),
    ]
    for name, work, measure in cases:
        for subject in TOYS if toy else SUBJECTS:
            title, started = f"{subject.model.removeprefix('timm/')}, {name}", time.perf_counter()
            if started > ends:
                results.failed(title, "left out, the part's time was up")
                continue
            try:
                if subject not in first_order:
                    first_order[subject] = first_order_rate(subject, device, duration)
                    results.add(
                        f"{subject.model.removeprefix('timm/')}, first order, bf16", f"{first_order[subject]:.4g} F/s"
                    )
                device.start_memory()
                rate = measure(subject)
            except Exception as error:  # the other cases go on
                results.failed(title, error)
                continue
            share, memory = rate * WORK[work] / first_order[subject], device.peak_gb()
            per_key = STEPS_PER_KEY * 128 * NUM_VIEWS / rate
            results.add(
                title,
                f"{rate:.4g} sample-steps/s, {share:.2f} of first order, {per_key:.4g} s per ImageNet key"
                + ("" if memory is None else f", {memory:.1f} GB"),
                time.perf_counter() - started,
                rate=rate,
                share=share,
                seconds_per_key=per_key,
                peak_gb=memory,
            )


def compile_ahead(results: Results, toy: bool, limit: float) -> None:
    """Fills the cache of compiled kernels: one process a network."""
    programs = [[*PYTHON, __file__, "compile", str(index)] for index in range(len(SUBJECTS))]
    for process in [subprocess.Popen(program) for program in programs]:
        process.wait()


def one_pass(results: Results, toy: bool, limit: float) -> None:
    """Several keys in one pass against one by one, of small images."""
    device, repeats = Device(toy), 1 if toy else 5
    num_keys, num_images = (2, 2) if toy else (4, 50)
    for name in ("resnet", "vit", "convnext"):
        try:
            ways = passes(name, num_keys, device.name, num_images)
            rates = {}
            for way, run in ways.items():
                run()
                took = sorted(seconds(run, device.name) for _ in range(repeats))[repeats // 2]
                rates[way] = num_keys * num_images / max(took, 1e-9)
        except Exception as error:
            results.failed(name, error)
            continue
        ratio = rates["in one pass"] / rates["one by one"]
        shown = ", ".join(f"{way} {rate:.4g} sample-steps/s" for way, rate in rates.items())
        results.add(f"{name}, {num_keys} keys of {num_images} images", f"{shown}, ratio {ratio:.2f}", ratio=ratio)


def side_by_side(results: Results, toy: bool, limit: float) -> None:
    """One shard at a time against 2 and 4, each crafted by a process of its own on the same device."""
    counts = (1, 2) if toy else (1, 2, 4)
    workers = [Worker(__file__, "shards", "toy" if toy else "") for _ in range(counts[-1])]
    try:
        for subject in (TOYS[0],) if toy else (SUBJECTS[0], SMALL):
            alone = None
            for count in counts:
                title = f"{subject.model.removeprefix('timm/')} at {subject.image_size} px, {count} at a time"
                try:
                    # All are warm before any is timed, as the time of a rate starts with its third step.
                    for worker in workers[:count]:
                        worker.tell(**vars(subject), duration=0.01 if toy else 3.0)
                    rate = sum(worker.answer()["rate"] for worker in workers[:count])
                except Exception as error:
                    results.failed(title, error)
                    continue
                alone = alone or rate
                results.add(title, f"{rate:.4g} sample-steps/s, {rate / alone:.2f} of one", rate=rate)
    finally:
        for worker in workers:
            worker.close()


def peaks(results: Results, toy: bool, limit: float) -> None:
    """What the card can do at most, so that shares are of this card."""
    device, size = Device(toy), 128 if toy else 8192
    left, right = (torch.randn(size, size, device=device.name).to(torch.bfloat16) for _ in range(2))
    rate = device.rate(lambda: left @ right, 0.01 if toy else 2.0)
    results.add(f"bf16 matrix product of {size}", f"{rate * 2 * size**3 / 1e12:.4g} TFLOP/s")
    source = torch.empty(2**20 if toy else 2**32, dtype=torch.uint8, device=device.name)
    target = torch.empty_like(source)
    rate = device.rate(lambda: target.copy_(source), 0.01 if toy else 2.0)
    results.add(f"copy of {len(source) / 2**30:.3g} GiB", f"{rate * 2 * len(source) / 1e9:.4g} GB/s read and written")


def main() -> None:
    if sys.argv[1] == "compile":
        crafting_rate(SUBJECTS[int(sys.argv[2])], Device(False), "one_sided", torch.bfloat16, 0.1, compiled=True)
        return
    device = Device(toy=sys.argv[2:] == ["toy"])
    for line in sys.stdin:
        task = json.loads(line)
        duration = task.pop("duration")
        try:
            answer = {"rate": crafting_rate(Subject(**task), device, "one_sided", torch.bfloat16, duration)}
        except Exception as error:
            answer = {"reason": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
