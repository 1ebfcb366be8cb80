"""Datasets that torchvision downloads, written once as Parquet files in the layout of every other dataset."""

from __future__ import annotations

import tempfile
import urllib.error
from typing import Any

import numpy as np
import pyarrow as pa

from taggants.data.image_codec import encode_png
from taggants.data.image_table import image_table
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.errors import InputError
from taggants.storage import Root

# Those of raw pixels in one size, which PNG keeps as they are; what torchvision has as image files is an ImageFolder.
_BY_TRAIN_FLAG = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100")
_BY_SPLIT_NAME = ("SVHN", "STL10")
TORCHVISION_DATASETS = (*_BY_TRAIN_FLAG, *_BY_SPLIT_NAME)
ROW_GROUP_SIZE = 1000


def write_torchvision(name: str, root: Root, *, download_folder: str | None = None) -> None:
    """Writes `train.parquet` and `test.parquet` with the images of a torchvision dataset as PNG and its class names.

    Files that hold that dataset already are left alone, and nothing is downloaded for them.

    Args:
        name: one of `TORCHVISION_DATASETS`, spelt as the class in `torchvision.datasets`.
        root: where the two files go.
        download_folder: local folder in which torchvision looks for its own files before it downloads them, and keeps
            them; None downloads into a temporary one.

    Raises:
        InputError: the name is unknown, the download fails, or a file of that name holds another dataset.
    """
    if name not in TORCHVISION_DATASETS:
        raise InputError(f"torchvision dataset {name!r} is unknown; give one of {', '.join(TORCHVISION_DATASETS)}.")
    missing = [split for split in ("train", "test") if not _is_written(root, f"{split}.parquet", _source_of(name))]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as temporary:
        for split in missing:
            dataset = _open(name, split, download_folder or temporary)
            table = _table(dataset, name, split)
            root.write_table(
                f"{split}.parquet", table, row_group_size=ROW_GROUP_SIZE, compression="zstd", use_dictionary=["label"]
            )


def _source_of(name: str) -> str:
    return f"torchvision.datasets.{name}"


def _is_written(root: Root, path: str, source: str) -> bool:
    if not root.exists(path):
        return False
    try:
        with ParquetSource(root, (path,)).open_file(path) as file:
            if (file.schema_arrow.metadata or {}).get(b"source") == source.encode():
                return True
    except InputError:
        pass  # the message below says what to do about any other content
    raise InputError(f"{root.uri_of(path)} holds something other than {source}; choose an empty folder, or delete it.")


def _open(name: str, split: str, folder: str) -> Any:
    import torchvision.datasets  # a second of import that only this needs

    arguments = {"train": split == "train"} if name in _BY_TRAIN_FLAG else {"split": split}
    try:
        return getattr(torchvision.datasets, name)(folder, download=True, **arguments)
    except (urllib.error.URLError, ConnectionError, TimeoutError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{_source_of(name)} cannot be downloaded ({reason.rstrip('.')}); check the connection, or put "
            "torchvision's files into a download folder."
        ) from None


def _table(dataset: Any, name: str, split: str) -> pa.Table:
    encoded, labels = [], []
    for i in range(len(dataset)):
        image, label = dataset[i]
        pixels = np.asarray(image)
        channels_first = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
        encoded.append((encode_png(channels_first), f"{split}/{int(label)}/{i:05d}.png"))
        labels.append(int(label))
    # SVHN carries no names: its classes are the digits.
    names = [str(name) for name in getattr(dataset, "classes", range(max(labels) + 1))]
    return image_table(encoded, labels, names, _source_of(name))
