from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from taggants.data.inspection import inspect_dataset
from taggants.errors import InputError


def encoded(side: int = 6, mode: str = "RGB", kind: str = "PNG", width: int | None = None) -> bytes:
    sink = io.BytesIO()
    Image.new(mode, (width or side, side)).save(sink, format=kind)
    return sink.getvalue()


def write_class_folders(folder: Path, sizes: dict[str, int], data: bytes | None = None) -> None:
    for name, count in sizes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            (folder / name / f"{i}.png").write_bytes(data or encoded())


def write_parquet(
    path: Path, labels: list[int], image: str = "image", names: list[str] | None = None, **more: list[int]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = pa.array([{"bytes": encoded(mode="L"), "path": None} for _ in labels])
    table = pa.table({image: cells, "label": labels, **more})
    if names:
        feature = {"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(feature)})
    pq.write_table(table, path)


def write_tar(path: Path, labels: list[int]) -> None:
    with tarfile.open(path, "w") as tar:
        for i, label in enumerate(labels):
            for suffix, data in (("jpg", encoded(kind="JPEG")), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{i:04d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_finds_class_folders_and_their_splits(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", {"ant": 3, "bee": 2})
    write_class_folders(tmp_path / "val", {"ant": 1, "bee": 1})
    (tmp_path / "README.md").write_text("text")
    found = inspect_dataset(str(tmp_path))
    assert (found.layout, found.train, found.test) == ("imagefolder", "train", "val")
    assert (found.num_images, found.num_test_images, found.class_sizes) == (5, 2, (3, 2))
    assert found.class_names == ("ant", "bee")
    assert (found.channels, found.one_size, found.encodings) == (3, 6, ("PNG",))


def test_takes_the_folder_itself_where_there_are_no_splits_even_with_a_class_called_train(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"bus": 2, "train": 3})
    found = inspect_dataset(str(tmp_path))
    assert (found.train, found.test, found.class_names) == ("", None, ("bus", "train"))


@pytest.mark.parametrize(
    ("files", "train", "test"),
    [
        (["train.parquet", "test.parquet"], "train.parquet", "test.parquet"),
        (["train-0-of-2.parquet", "train-1-of-2.parquet", "validation-0.parquet"], "train-", "validation-0.parquet"),
        (["data/train/0.parquet", "data/train/1.parquet", "data/test/0.parquet"], "data/train/", "data/test/0.parquet"),
        (["part0.parquet", "part1.parquet"], "part", None),
        (["training.parquet", "val.parquet", "test.parquet"], "training.parquet", "test.parquet"),
    ],
)
def test_finds_the_splits_of_parquet_files(tmp_path: Path, files: list[str], train: str, test: str | None) -> None:
    for i, name in enumerate(files):
        write_parquet(tmp_path / name, [0, 1, 1][: 2 + (i == 0)])
    found = inspect_dataset(str(tmp_path))
    assert (found.layout, found.train, found.test) == ("parquet", train, test)
    num_train = sum(2 + (i == 0) for i, name in enumerate(files) if test is None or name.startswith(train))
    assert (found.num_images, found.channels) == (num_train, 1)


def test_takes_one_file_as_the_training_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [0, 1])
    write_parquet(tmp_path / "b.parquet", [0, 1, 1])
    assert inspect_dataset(str(tmp_path / "b.parquet")).num_images == 3
    with pytest.raises(InputError, match=r"c\.parquet does not exist"):
        inspect_dataset(str(tmp_path / "c.parquet"))


def test_counts_classes_by_their_names(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 2, 2], names=["ant", "bee", "cat", "dog"])
    found = inspect_dataset(str(tmp_path))
    assert (found.num_classes, found.class_sizes) == (4, (1, 0, 2, 0))


def test_finds_the_columns_or_asks_for_them(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], image="img", row=[7, 8])
    found = inspect_dataset(str(tmp_path))
    assert (found.image_column, found.label_column) == ("img", "label")
    table = pq.read_table(tmp_path / "train.parquet").rename_columns(["picture", "one", "two"])
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(InputError, match="columns one, two may hold them"):
        inspect_dataset(str(tmp_path))
    found = inspect_dataset(str(tmp_path), label_column="one")
    assert (found.image_column, found.label_column, found.class_sizes) == ("picture", "one", (1, 1))


def test_finds_tars(tmp_path: Path) -> None:
    write_tar(tmp_path / "set-train-0000.tar", [0, 1])
    write_tar(tmp_path / "set-train-0001.tar", [1, 1])
    write_tar(tmp_path / "set-val-0000.tar", [0])
    found = inspect_dataset(str(tmp_path))
    assert (found.layout, found.train, found.test) == ("webdataset", "set-train-", "set-val-0000.tar")
    assert (found.class_sizes, found.encodings) == ((1, 3), ("JPEG",))


def test_sees_that_sizes_differ(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"ant": 2, "bee": 2}, encoded(6, width=9))
    assert inspect_dataset(str(tmp_path)).one_size is None
    (tmp_path / "ant" / "0.png").write_bytes(encoded(4))
    assert inspect_dataset(str(tmp_path)).sizes == ((6, 9), (4, 4))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "no files"),
        ({"a.csv": b"", "b.csv": b""}, r"2 \.csv"),
        ({"test.parquet": None}, "only a test split"),
        ({"train.parquet": b"text"}, "not a complete Parquet file"),
        ({"ant/0.png": b"text", "bee/0.png": encoded()}, "cannot be read as an image"),
    ],
)
def test_says_what_is_wrong(tmp_path: Path, files: dict[str, bytes | None], sentence: str) -> None:
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            write_parquet(tmp_path / name, [0, 1])
        else:
            (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=sentence):
        inspect_dataset(str(tmp_path))


def test_looks_at_images_over_the_whole_dataset(tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"ant": 150, "bee": 1}, encoded(mode="L"))
    (tmp_path / "bee" / "0.png").write_bytes(encoded(mode="RGB"))
    found = inspect_dataset(str(tmp_path))
    assert found.channels == 3
    assert np.sum(found.class_sizes) == 151


def test_refuses_what_cannot_be_signed_and_says_why(tmp_path: Path) -> None:
    deep = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(deep, "PNG")
    write_class_folders(tmp_path, {"ant": 2, "bee": 2}, deep.getvalue())
    with pytest.raises(
        InputError, match=r"none of the 4 images looked at can be signed: .*16.*; convert them to 8-bit"
    ):
        inspect_dataset(str(tmp_path))
    (tmp_path / "bee" / "0.png").write_bytes(encoded(mode="L"))
    assert inspect_dataset(str(tmp_path)).channels == 1, "of those that can be signed"


def test_an_image_that_is_too_large_is_not_called_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class_folders(tmp_path, {"ant": 1, "bee": 1}, encoded())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(InputError, match="more pixels than are read safely"):
        inspect_dataset(str(tmp_path))


def test_refuses_a_test_split_that_is_trained_on_and_a_folder_that_names_a_variable(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", {"ant": 1, "bee": 1}, encoded())
    with pytest.raises(InputError, match="the test split is 'train', as the training split"):
        inspect_dataset(str(tmp_path), train="train", test="train")
    with pytest.raises(InputError, match=r"/\$HOME' has a \$.*rename the folder"):
        inspect_dataset(f"{tmp_path}/$HOME")
