"""Image datasets as Parquet files, image folders or WebDataset tars: reading them, their index, the embedded digits, subsets."""

from __future__ import annotations

from typing import Literal, TypeAlias

from taggants.data.image_folder import ImageFolder
from taggants.data.parquet_source import ParquetSource
from taggants.data.source import ImageSource
from taggants.data.webdataset import WebDataset
from taggants.storage import Root

SourceKind: TypeAlias = Literal["parquet", "imagefolder", "webdataset"]


def open_source(
    kind: SourceKind,
    root: Root,
    files: str,
    *,
    image_column: str = "image",
    label_column: str = "label",
    channels: int | None = None,
) -> ImageSource:
    """Returns: the dataset at `root` in one of three layouts; nothing is read yet.

    Args:
        kind: "parquet": Parquet files with an image and a label column; "imagefolder": one folder per class;
            "webdataset": tars of pairs KEY.jpg and KEY.cls.
        root: where it lies, local or on S3.
        files: one file (`train.parquet`, `train.tar`) or the prefix of several; for an image folder the folder of class
            folders below `root`, "" for `root` itself.
        image_column: of Parquet files; the other layouts have no columns.
        label_column: likewise.
        channels: 1 or 3 converts every image; None keeps greyscale images at 1 channel and RGB images at 3.

    Raises:
        InputError: channels is none of these.
    """
    if kind == "imagefolder":
        return ImageFolder(root, files, channels)
    if kind == "webdataset":
        return WebDataset(root, (files,) if files.endswith(".tar") else files, channels)
    assert kind == "parquet", kind
    return ParquetSource(root, (files,) if files.endswith(".parquet") else files, image_column, label_column, channels)
