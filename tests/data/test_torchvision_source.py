from __future__ import annotations

import struct
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from taggants.data.layouts.parquet.source import ParquetSource
from taggants.data.torchvision_source import write_torchvision
from taggants.errors import InputError
from taggants.storage import Root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path / "data"))


def write_idx(folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes what torchvision has of an MNIST split once it is downloaded (IDX files, yann.lecun.com/exdb/mnist)."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = {"train": "train", "test": "t10k"}[split]
    header = struct.pack(">IIII", 0x803, *images.shape)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(labels)) + labels.tobytes())


def test_fashion_mnist_from_its_own_files(root: Root, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = {
        split: (rng.integers(0, 256, (size, 28, 28), dtype=np.uint8), rng.integers(0, 10, size, dtype=np.uint8))
        for split, size in (("train", 7), ("test", 3))
    }
    for split, (images, labels) in drawn.items():
        write_idx(tmp_path / "cache" / "FashionMNIST" / "raw", split, images, labels)
    write_torchvision("FashionMNIST", root, download_folder=str(tmp_path / "cache"))
    assert root.list() == ["test.parquet", "train.parquet"]
    for split, (images, labels) in drawn.items():
        source = ParquetSource(root, (f"{split}.parquet",))
        read, read_labels = source.read_all()
        assert np.array_equal(read, images[:, None])
        assert read_labels.tolist() == labels.tolist()
        assert source.index().class_names == tuple(torchvision.datasets.FashionMNIST.classes)


class Drawn(torchvision.datasets.FakeData):
    """Takes the place of a class that downloads."""

    opened: list[tuple[Any, ...]]

    def __init__(self, folder: str, *, download: bool, **split: Any) -> None:
        assert download
        self.opened.append(tuple(split.items()))
        super().__init__(size=4, image_size=(3, 8, 8), num_classes=10, random_offset=len(self.opened))


def drawn(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> type[Drawn]:
    dataset = type(name, (Drawn,), {"opened": [], **attributes})
    monkeypatch.setattr(torchvision.datasets, name, dataset)
    return dataset


def test_written_once(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = drawn(monkeypatch, "CIFAR10", classes=list("abcdefghij"))
    write_torchvision("CIFAR10", root)
    assert dataset.opened == [(("train", True),), (("train", False),)]
    before = {path: root.read_bytes(path) for path in root.list()}
    write_torchvision("CIFAR10", root)
    root.delete("test.parquet")
    write_torchvision("CIFAR10", root)
    assert dataset.opened[2:] == [(("train", False),)]
    assert root.read_bytes("train.parquet") == before["train.parquet"]
    source = ParquetSource(root, ("train.parquet",))
    expected = torchvision.datasets.FakeData(4, (3, 8, 8), 10, random_offset=1)
    for image, (picture, label), found in zip(
        source.read_images(range(4)), expected, source.index().labels, strict=False
    ):
        assert np.array_equal(image.transpose(1, 2, 0), np.asarray(picture))
        assert found == label


def test_a_dataset_without_class_names(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = drawn(monkeypatch, "SVHN", __getitem__=lambda self, i: (Image.new("RGB", (8, 8)), np.int64(i * 3)))
    write_torchvision("SVHN", root)
    assert dataset.opened == [(("split", "train"),), (("split", "test"),)]
    index = ParquetSource(root, ("train.parquet",)).index()
    assert index.class_names == tuple(str(i) for i in range(10))
    assert index.labels.tolist() == [0, 3, 6, 9]


def test_other_files_are_not_overwritten(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn(monkeypatch, "CIFAR10")
    dataset = drawn(monkeypatch, "CIFAR100")
    write_torchvision("CIFAR10", root)
    for content in (root.read_bytes("test.parquet"), b"text"):
        root.write_bytes("test.parquet", content)
        with pytest.raises(InputError, match=r"parquet holds something other than torchvision\.datasets\.CIFAR100"):
            write_torchvision("CIFAR100", root)
    assert dataset.opened == []


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), RuntimeError("File not found or corrupted.")])
def test_a_failed_download(root: Root, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(InputError, match=r"CIFAR10 cannot be downloaded \(.*\); check the connection"):
        write_torchvision("CIFAR10", root)
    assert root.list() == []


def test_unknown_names(root: Root) -> None:
    with pytest.raises(InputError, match=r"'ImageNet' is unknown; give one of MNIST, .*CIFAR10"):
        write_torchvision("ImageNet", root)
