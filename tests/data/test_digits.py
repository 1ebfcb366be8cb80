from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from taggants.data.digits import write_digits
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.errors import InputError
from taggants.storage import Root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    root = Root(str(tmp_path_factory.mktemp("digits")))
    write_digits(root)
    return root


def state(root: Root) -> dict[str, tuple[int, str]]:
    return {name: ((Path(root.uri) / name).stat().st_mtime_ns, root.sha256(name)) for name in root.list()}


def test_the_digits_of_both_files_are_those_of_scikit_learn(root: Root) -> None:
    found = []
    for name, num_rows in (("train.parquet", 1297), ("test.parquet", 500)):
        images, labels = ParquetSource(root, (name,)).read_all()
        assert images.shape == (num_rows, 1, 8, 8)
        found += [(image.tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True)]
    digits = load_digits()
    expected = [
        (bytes(round(level * 255 / 16) for level in levels), label)
        for levels, label in zip(digits.data.tolist(), digits.target.tolist(), strict=True)
    ]
    assert sorted(found) == sorted(expected)


def test_index(root: Root) -> None:
    index = ParquetSource(root, ("train.parquet",)).index()
    assert (index.num_rows, index.num_classes) == (1297, 10)
    assert index.class_names == tuple("0123456789")
    assert np.bincount(index.labels).min() >= 120


def test_a_row_is_a_greyscale_png_with_its_path(root: Root) -> None:
    row = root.read_table("test.parquet").slice(0, 1).to_pylist()[0]
    original = int(np.random.default_rng(0).permutation(1797)[1297])
    assert row["image"]["path"] == f"test/{row['label']}/{original:04d}.png"
    with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (8, 8))


def test_writing_again_changes_nothing(root: Root) -> None:
    before = state(root)
    write_digits(root)
    assert state(root) == before


def test_a_missing_file_is_written_as_before(root: Root, tmp_path: Path) -> None:
    other = Root(str(tmp_path))
    root.copy("train.parquet", other, "train.parquet")
    before = state(other)
    write_digits(other)
    assert other.sha256("test.parquet") == root.sha256("test.parquet")
    assert state(other)["train.parquet"] == before["train.parquet"]


def test_another_dataset_is_not_overwritten(root: Root, tmp_path: Path) -> None:
    other = Root(str(tmp_path))
    for data in (root.read_bytes("test.parquet"), root.read_bytes("train.parquet")[:-100]):
        other.write_bytes("train.parquet", data)
        with pytest.raises(InputError, match=r"train\.parquet holds something other than the digits"):
            write_digits(other)
        assert other.read_bytes("train.parquet") == data


@pytest.mark.slow
def test_hugging_face_datasets_reads_it(root: Root, tmp_path: Path) -> None:
    from datasets import load_dataset

    files = {"train": str(Path(root.uri) / "train.parquet"), "test": str(Path(root.uri) / "test.parquet")}
    dataset = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))
    images, labels = ParquetSource(root, ("test.parquet",)).read_all()
    assert dataset["train"].num_rows == 1297
    row = dataset["test"][5]
    assert isinstance(row["image"], Image.Image)
    assert np.array_equal(np.asarray(row["image"]), images[5, 0])
    assert dataset["test"].features["label"].names == [str(digit) for digit in range(10)]
    assert row["label"] == labels[5]
