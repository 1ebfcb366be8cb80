"""The embedded default dataset: scikit-learn's handwritten digits, written in the layout of every other dataset."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taggants.data.image_codec import encode_png
from taggants.data.image_table import image_table
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.errors import InputError
from taggants.storage import Root

NUM_TRAIN = 1297
NUM_TEST = 500
ROW_GROUP_SIZE = 500


def write_digits(root: Root) -> None:
    """Writes `train.parquet` (1,297 rows) and `test.parquet` (500 rows): 8x8 greyscale PNG images of the digits 0 to 9.

    Source: UCI Optical Recognition of Handwritten Digits, test part, as `sklearn.datasets.load_digits` ships it. Its 17
    grey levels become round(level * 255 / 16). The split is a fixed permutation. Files that hold exactly this are left
    alone.

    Args:
        root: where the two files go.

    Raises:
        InputError: a file of that name holds another dataset.
    """
    from sklearn.datasets import load_digits  # a second of import that nothing else needs

    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)[:, None]  # [N, 1, 8, 8]
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    assert len(order) == NUM_TRAIN + NUM_TEST
    for split, rows in (("train", order[:NUM_TRAIN]), ("test", order[NUM_TRAIN:])):
        path = f"{split}.parquet"
        if not _is_complete(root, path, images[rows], labels[rows]):
            table = _table(split, rows, images[rows], labels[rows])
            root.write_table(path, table, row_group_size=ROW_GROUP_SIZE, compression="zstd", use_dictionary=["label"])


def _is_complete(root: Root, path: str, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> bool:
    if not root.exists(path):
        return False
    try:
        found_images, found_labels = ParquetSource(root, (path,)).read_all()
        if np.array_equal(found_images, images) and np.array_equal(found_labels, labels):
            return True
    except InputError:
        pass  # the message below says what to do about any other content
    raise InputError(
        f"{root.uri_of(path)} holds something other than the digits; choose an empty folder, or delete it."
    )


def _table(split: str, rows: NDArray[np.int64], images: NDArray[np.uint8], labels: NDArray[np.int64]) -> pa.Table:
    encoded = [
        (encode_png(image), f"{split}/{label}/{row:04d}.png")
        for row, image, label in zip(rows, images, labels, strict=True)
    ]
    names = [str(digit) for digit in range(10)]
    source = "UCI Optical Recognition of Handwritten Digits, as sklearn.datasets.load_digits"
    return image_table(encoded, labels, names, source)
