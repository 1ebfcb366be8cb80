"""Detection of real victims on CIFAR-100, the part `power` of benchmarks/gpu.py; with --toy drawn images and one epoch.

40 classes whole, 10 keys of 50 images each, at 16/255 and 8/255, crafted on three surrogates at once. Victims of other seeds of
the three families, one more by Mixup and CutMix, and a control of each kind, 60 epochs. Several processes share the device.

Run as a program it is such a process: a task a line on its standard input, a result a line on its standard output.
"""

from __future__ import annotations

import io
import json
import queue
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.gpu import Results, Row, Worker
from benchmarks.gpu_carry import unpacked
from taggants.config import Config
from taggants.evaluation.rehearsal import rehearse
from taggants.reporting.progress import console
from taggants.run import Run
from taggants.stages.craft import craft
from taggants.stages.export import export
from taggants.stages.keys import prepare_keys
from taggants.stages.model_training import train_model, training_job
from taggants.stages.plan import make_plan

RAW = "cifar100_40.parquet"
EPSILONS = ("16/255", "8/255")
NUM_PROCESSES = 4

SHARED = {
    "num_epochs": 60,
    "batch_size": 256,
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "crop_padding": 4,
    "flip": True,
    "precision": "bfloat16",
    "channels_last": True,
    "device": "cuda",
    "loader": "device",
}
KINDS: dict[str, dict[str, Any]] = {
    "ResNet-18": {"model": "timm/resnet18"},
    "ConvNeXt, small images": {"model": "small/convnext", "recipe": "small-images", "drop_path": 0.1},
    "ViT, small images": {"model": "small/vit", "recipe": "small-images", "drop_path": 0.1, "learning_rate": 1e-3},
    "ResNet-18, Mixup and CutMix": {"model": "timm/resnet18", "recipe": "deit3", "learning_rate": 4e-3},
}
TOY_SHARED = {**SHARED, "num_epochs": 1, "batch_size": 20, "device": "cpu"}
TOY_KINDS: dict[str, dict[str, Any]] = {
    "CNN": {"model": "cnn"},
    "ViT": {"model": "small/vit"},
    "CNN, Mixup and CutMix": {"model": "cnn", "recipe": "deit3"},
}
NUM_SURROGATES = {False: 3, True: 2}  # the first kinds


def sections(toy: bool) -> dict[str, dict[str, Any]]:
    """How each kind of model is trained, by name."""
    shared, kinds = (TOY_SHARED, TOY_KINDS) if toy else (SHARED, KINDS)
    return {name: shared | kind for name, kind in kinds.items()}


def the_run(folder: str, toy: bool, epsilon: str, kind: str, role: str) -> Run:
    """role: "victim" or "control", of which the rehearsal trains one."""
    training = sections(toy)[kind]
    tree: dict[str, Any] = {
        "data": {"source": "parquet", "root": f"{folder}/data", "channels": 3},
        "keys": {"root": f"{folder}/secrets", "name": "gpu", "num_keys": 2 if toy else 10, "cell_size": 4},
        "signing": {"images_per_key": 4 if toy else 50, "selection": "loss"},
        "surrogate": training,
        "detection": {"statistic": "rank", "question": None},  # references would take the time of victims
        "crafting": {
            "epsilon": epsilon,
            "num_steps": 2 if toy else 250,
            "crop_padding": 4,
            "flip": True,
            "precision": "bfloat16",
            "channels_last": True,
            "microbatch": 100,
            "device": training["device"],
        },
        "evaluation": {"training": training, "num_victims": role == "victim", "num_controls": role == "control"},
        "execution": {"pool": "inline"},
        "output": {"root": f"{folder}/runs"},
    }
    tree["evaluation"] |= {name: int(tree["evaluation"][name]) for name in ("num_victims", "num_controls")}
    # The run's name says nothing of the kind of its victims, so all victims of an epsilon are of one run.
    tree["surrogate"] = sections(toy)[next(iter(sections(toy)))]
    return Run(Config.model_validate(tree))


def train_surrogate(run: Run, toy: bool, index: int) -> Any:
    """Each with a recipe and learning rate of its own, which one section of a configuration cannot say."""
    section = type(run.config.evaluation.training).model_validate(list(sections(toy).values())[index])
    job = training_job(run, f"surrogate-{index}", section, run.sources[0], run.index.fingerprint, seed=1000 + index)
    return train_model(run, job)


def do(task: Mapping[str, Any]) -> Row:
    """Returns what the task found."""
    toy = task["toy"]
    first = next(iter(sections(toy)))
    run = the_run(task["folder"], toy, task["epsilon"], task.get("kind", first), task.get("role", "victim"))
    if task["what"] == "surrogate":
        trained = train_surrogate(run, toy, task["index"])
        return {"accuracy": trained.accuracy, "took": trained.seconds}
    if task["what"] == "craft":
        surrogates = [train_surrogate(run, toy, index) for index in range(NUM_SURROGATES[toy])]  # found done
        started = time.perf_counter()
        plan = make_plan(run, surrogates)
        craft(run, plan, surrogates)
        seconds = time.perf_counter() - started
        exported = export(run, plan)
        return {"before": exported.alignment_before, "after": exported.alignment, "took": seconds}
    (tested,) = rehearse(run).values()
    certificate = tested.certificate
    return {"accuracy": tested.accuracy, "p": certificate.p_value, "hits": certificate.num_hits}


def write_data(raw: Path, folder: Path, toy: bool) -> str:
    """Writes train.parquet and test.parquet, images as PNG; returns what they hold."""
    if toy:
        generator = np.random.default_rng(0)
        columns = {
            split: (generator.integers(0, 256, (count, 32, 32, 3), np.uint8), np.arange(count) % 4)
            for split, count in (("train", 80), ("test", 20))
        }
    else:
        table, columns = pq.read_table(raw), {}
        for split in ("train", "test"):
            part = table.filter(pc.equal(table["split"], split))
            planes = np.frombuffer(b"".join(part["pixels"].to_pylist()), np.uint8).reshape(-1, 3, 32, 32)
            columns[split] = unpacked(planes), part["label"].to_numpy()
    folder.mkdir(parents=True, exist_ok=True)
    for split, (pixels, labels) in columns.items():
        images = [{"bytes": _png(image), "path": None} for image in pixels]
        struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(images, struct), "label": pa.array(labels, pa.int64())})
        pq.write_table(table, folder / f"{split}.parquet")
    return ", ".join(f"{len(labels)} {split} images" for split, (_, labels) in columns.items())


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def power(results: Results, out: Path, data: Path, toy: bool) -> None:
    """Trains, crafts and tests, writing a line for each model as it is done."""
    started = time.perf_counter()
    folder = out / "power"
    what = write_data(data / RAW, folder / "data", toy)
    kinds, shared = list(sections(toy)), {"folder": str(folder), "toy": toy}
    for epsilon in EPSILONS:
        run = the_run(str(folder), toy, epsilon, kinds[0], "victim")
        run.write_config()
        prepare_keys(run)
    results.add("data", what, time.perf_counter() - started)

    workers: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    num_processes = 2 if toy else NUM_PROCESSES
    all_workers = [Worker(__file__) for _ in range(num_processes)]
    for worker in all_workers:
        workers.put(worker)

    def ask(title: str, text: str, **task: Any) -> bool:
        worker, asked = workers.get(), time.perf_counter()
        try:
            worker.tell(**shared, **task)
            answer = worker.answer()
        except (RuntimeError, OSError) as error:
            results.failed(title, error)
            return False
        finally:
            workers.put(worker)
        results.add(title, text.format(**answer), time.perf_counter() - asked, **answer)
        return True

    tested = "p {p:.2g} (rank), {hits} hits, accuracy {accuracy:.4f}"
    try:
        with ThreadPoolExecutor(num_processes) as pool:
            text = "accuracy {accuracy:.4f}, trained in {took:.0f} s"
            surrogates = [
                pool.submit(ask, f"surrogate {kind}", text, what="surrogate", index=index, epsilon=EPSILONS[0])
                for index, kind in enumerate(kinds[: NUM_SURROGATES[toy]])
            ]
            others: list[Future[bool]] = [
                pool.submit(ask, f"control {kind}", tested, what="test", kind=kind, role="control", epsilon=EPSILONS[0])
                for kind in kinds
            ]
            wait(surrogates)
            if not all(surrogate.result() for surrogate in surrogates):
                return
            text = "alignment {before:.3f} -> {after:.3f}, in {took:.0f} s"
            crafted = {e: pool.submit(ask, f"crafting, {e}", text, what="craft", epsilon=e) for e in EPSILONS}
            for epsilon, signed in crafted.items():
                if signed.result():
                    others += [
                        pool.submit(ask, f"victim {kind}, {epsilon}", tested, what="test", kind=kind, epsilon=epsilon)
                        for kind in kinds
                    ]
            wait(others)
    finally:
        for worker in all_workers:
            worker.close()


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # the stages say what they do
    console.file = sys.stderr
    for line in sys.stdin:
        try:
            answer = do(json.loads(line))
        except Exception as error:
            answer = {"reason": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
