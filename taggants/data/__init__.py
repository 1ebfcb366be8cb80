"""Image datasets in any layout: reading them, their index, their rewriting; datasets that are prepared as Parquet files."""

from __future__ import annotations

from taggants.data.layouts import LAYOUTS
from taggants.data.source import ImageSource
from taggants.storage import Root


def open_source(
    layout: str,
    root: Root,
    files: str,
    *,
    image_column: str = "image",
    label_column: str = "label",
    channels: int | None = None,
) -> ImageSource:
    """Returns: the dataset at `root`; nothing is read yet.

    Args:
        layout: a name in `LAYOUTS`. "parquet": Parquet files with an image and a label column; "imagefolder": one folder
            per class; "webdataset": tars of pairs KEY.jpg and KEY.cls.
        root: where it lies, local or on S3.
        files: one file (`train.parquet`, `train.tar`) or the prefix of several; for an image folder the folder of class
            folders below `root`, "" for `root` itself.
        image_column: of Parquet files; the other layouts have no columns.
        label_column: likewise.
        channels: 1 or 3 converts every image; None keeps greyscale images at 1 channel and RGB images at 3.

    Raises:
        InputError: there is no such layout, or channels is none of these.
    """
    columns = {"image_column": image_column, "label_column": label_column}
    return LAYOUTS.find(layout).open(root, files, channels=channels, **columns)
