"""Images/s of reading a dataset, against plain pyarrow and torchvision's ImageFolder with a DataLoader on the same files.

    TAGGANTS_DATA=... python benchmarks/ingest.py [--repeats 5] [--copies 4] [--before CHECKOUT]

Two datasets: the ImageNet sample as an image folder of native JPEGs (each file `--copies` times, since the sample is small),
decoded to 3x224x224; and the training split of CIFAR-100 as Parquet with PNGs, decoded at its 32 px. Two steps: the index
(labels, class names and places of the images; ours hashes every byte too, which the others do not), then reading and
decoding all images into uint8 arrays, batch by batch. The checksum of all pixels has to agree, so the work is the same.

Every measurement is a process of its own on a warm page cache, start-up and imports not counted but those of DataLoader
workers are; those to be compared take turns. "ratio" is ours: the median over turns of the peer's seconds by ours, above 1
where ours is faster, and in brackets the same of CPU seconds (its own and those of its workers); "least CPU" is the least CPU
seconds of the peer over all turns by ours, which neighbours on the machine disturb least. With `--before`, another
checkout of this project is one more peer.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torchvision.transforms.v2 as transforms
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder as TorchvisionFolder

from taggants.data import open_source
from taggants.data.source import ImageSource
from taggants.storage import Root

IMAGE_SIZE = 224
BATCH = 64
Batches = Iterator[NDArray[np.uint8]]


def our_folder(folder: Path) -> ImageSource:
    return open_source("imagefolder", Root(str(folder)), "train", channels=3)


def our_parquet(folder: Path) -> ImageSource:
    return open_source("parquet", Root(str(folder)), "train.parquet", channels=3)


def batches(source: ImageSource) -> Iterator[range]:
    for start in range(0, source.num_rows, BATCH):
        yield range(start, min(start + BATCH, source.num_rows))


def read_our_folder(folder: Path) -> Batches:
    source = our_folder(folder)
    return (source.read_resized(ids, IMAGE_SIZE) for ids in batches(source))


def read_our_parquet(folder: Path) -> Batches:
    yield our_parquet(folder).read_all()[0]


class OurBatches(Dataset[NDArray[np.uint8]]):
    """Batches of a source for a DataLoader, whose workers get a pickled copy."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._ids = list(batches(source))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, i: int) -> NDArray[np.uint8]:
        return self._source.read_resized(self._ids[i], IMAGE_SIZE)


def read_our_folder_in_workers(folder: Path) -> Batches:
    yield from DataLoader(OurBatches(our_folder(folder)), batch_size=None, num_workers=2)


def torchvision_folder(folder: Path) -> TorchvisionFolder:
    transform = transforms.Compose(
        [transforms.Resize(IMAGE_SIZE), transforms.CenterCrop(IMAGE_SIZE), transforms.PILToTensor()]
    )
    return TorchvisionFolder(str(folder / "train"), transform)


def read_torchvision(folder: Path, num_workers: int) -> Batches:
    for images, _ in DataLoader(torchvision_folder(folder), BATCH, num_workers=num_workers):
        yield images.numpy()


def index_pyarrow(folder: Path) -> None:
    pq.read_table(folder / "train.parquet", columns=["label"])


def read_pyarrow(folder: Path) -> Batches:
    with pq.ParquetFile(folder / "train.parquet") as file:
        for batch in file.iter_batches(BATCH, columns=["image"]):
            cells = batch.column("image").to_pylist()
            images = [np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in cells]
            yield np.stack(images).transpose(0, 3, 1, 2)


# By dataset and step: name and work of each; the first is ours, which the others are compared with.
CASES: dict[str, dict[str, dict[str, Callable[[Path], Any]]]] = {
    "ImageNet sample, JPEG folder": {
        "index": {
            "ours (with SHA-256)": lambda folder: our_folder(folder).index(),
            "torchvision ImageFolder": torchvision_folder,
        },
        "read and decode": {
            "ours": read_our_folder,
            "ImageFolder, DataLoader": functools.partial(read_torchvision, num_workers=0),
        },
        "read and decode, 2 workers": {
            "ours in a DataLoader": read_our_folder_in_workers,
            "ImageFolder, DataLoader": functools.partial(read_torchvision, num_workers=2),
        },
    },
    "CIFAR-100, Parquet": {
        "index": {"ours (with SHA-256)": lambda folder: our_parquet(folder).index(), "pyarrow": index_pyarrow},
        "read and decode": {"ours": read_our_parquet, "pyarrow and Pillow": read_pyarrow},
    },
}


def measure(work: Callable[[Path], Any], folder: Path) -> dict[str, float]:
    """Returns: seconds, CPU seconds, and the number of images and checksum of the pixels if it reads any."""
    start, start_cpu = time.perf_counter(), cpu_seconds()
    answer = work(folder)
    num_images, checksum = 0, 0
    if isinstance(answer, Iterator):
        for images in answer:
            num_images += len(images)
            checksum += int(np.asarray(images).sum(dtype=np.uint64))
    seconds = time.perf_counter() - start
    del answer
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds() - start_cpu,
        "num_images": num_images,
        "checksum": checksum,
    }


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def extract(tar_path: Path, folder: Path, num_copies: int) -> int:
    """Returns: the number of images written below `train/`."""
    num_images = 0
    with tarfile.open(tar_path) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is None:
                continue
            data = content.read()
            for copy in range(num_copies):
                path = folder / f"{member.name.removesuffix('.JPEG')}-{copy}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                num_images += 1
    return num_images


def compare(dataset: str, step: str, folder: Path, num_images: int, repeats: int, before: Path | None) -> None:
    here = Path(__file__).resolve().parent.parent
    peers = {name: (name, here) for name in CASES[dataset][step]}
    our_name = next(iter(peers))
    if before is not None:
        peers[f"{our_name}, before"] = our_name, before.resolve()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in peers}
    for turn in range(repeats):
        # The first of two finds other caches than the second: they take turns in that as well.
        for label, (name, checkout) in list(peers.items())[:: (-1) ** turn]:
            command = [sys.executable, __file__, "--measure", json.dumps([dataset, step, name, str(folder)])]
            environment = {**os.environ, "PYTHONPATH": str(checkout)}
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
            found[label].append(json.loads(done.stdout))
    read = {(one["num_images"], one["checksum"]) for ones in found.values() for one in ones}
    assert len(read) == 1, f"not the same pixels: {read}"
    ours = found[our_name]
    for name in peers:
        seconds = sorted(one["seconds"] for one in found[name])
        median_s, cpu_s = (statistics.median(one[of] for one in found[name]) for of in ("seconds", "cpu_seconds"))
        wall, cpu = (
            statistics.median(peer[of] / our[of] for our, peer in zip(ours, found[name], strict=True))
            for of in ("seconds", "cpu_seconds")
        )
        least = [min(one["cpu_seconds"] for one in ones) for ones in (found[name], ours)]
        print(
            f"| {dataset} | {step} | {name} | {median_s:.3g} ({seconds[0]:.3g}-{seconds[-1]:.3g}) | {cpu_s:.3g} "
            f"| {num_images / median_s:.0f} | {wall:.2f} ({cpu:.2f}) | {least[0] / least[1]:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--before", type=Path, help="another checkout of this project")
    parser.add_argument("--only", choices=[step for steps in CASES.values() for step in steps], help="one step")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.measure:
        dataset, step, name, folder = json.loads(given.measure)
        print(json.dumps(measure(CASES[dataset][step][name], Path(folder))))
        return
    data = os.environ.get("TAGGANTS_DATA")
    if not data:
        sys.exit("TAGGANTS_DATA names no folder with imagenet_sample.tar and cifar100/train.parquet.")
    print("| dataset | step | what | s, median (min-max) | CPU s | images/s | ratio, wall (CPU) | least CPU |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        places = {
            "ImageNet sample, JPEG folder": (
                Path(temporary),
                extract(Path(data) / "imagenet_sample.tar", Path(temporary), given.copies),
            ),
            "CIFAR-100, Parquet": (
                Path(data) / "cifar100",
                pq.read_metadata(Path(data) / "cifar100" / "train.parquet").num_rows,
            ),
        }
        for dataset, (folder, num_images) in places.items():
            for step in CASES[dataset]:
                if given.only in (None, step):
                    compare(dataset, step, folder, num_images, given.repeats, given.before)


if __name__ == "__main__":
    main()
