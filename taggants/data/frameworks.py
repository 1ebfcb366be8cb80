"""Datasets of Hugging Face and torch: written as files that can be signed, and opened again once they are."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from taggants.data.image_codec import channels_first, decode_image, encode_png
from taggants.data.image_table import image_table
from taggants.data.inspection import TEST_NAMES, TRAIN_NAMES
from taggants.data.source import ImageSource
from taggants.errors import InputError
from taggants.reporting.progress import stage
from taggants.storage import Root, encode_table

DatasetKind: TypeAlias = Literal["huggingface", "torch"]

_ROW_GROUP_SIZE = 500
_LEVEL_TOLERANCE = 1e-3  # of float pixels times 255, from a whole level


def write_dataset(dataset: Any, test: Any, root: Root) -> tuple[Root, bool]:
    """Writes datasets as Parquet files under a hash of their content, unless they are there.

    Encoded images of Hugging Face stay as they are, byte for byte; pixels become PNG. The encoded images are held in memory
    until they are written: a dataset that is too large for that is better given as the folder of its files.

    Args:
        dataset: the training split: a Hugging Face `Dataset`, or a `DatasetDict` whose splits are found by their names; or
            anything with a length and items (image, label), as torch's map-style datasets. An image is a picture of Pillow
            in mode L or RGB, or a tensor [C, H, W] or array [H, W, C] or [H, W] of uint8 levels, or of levels / 255.
        test: the test split, likewise, or None.
        root: folder of all datasets.

    Returns: the folder of this one, with train.parquet and, where there is a test split, test.parquet; and whether there is.

    Raises:
        InputError: it is no such dataset, the columns are not clear, an image changes from one look to the next (random
            augmentation), its pixels are not whole levels (normalisation), or a label is no whole number from 0.
    """
    if _is_hugging_face(dataset, "DatasetDict"):
        splits = {name: next((split for split in names if split in dataset), None) for name, names in _SPLITS.items()}
        if splits["train"] is None:
            raise InputError(f"the DatasetDict has no split 'train' but {', '.join(dataset)}; give one of its splits")
        if test is None and splits["test"] is not None:
            test = dataset[splits["test"]]
        dataset = dataset[splits["train"]]
    tables = {"train.parquet": _table(dataset, "training")}
    if test is not None:
        tables["test.parquet"] = _table(test, "test")
    files = {
        name: encode_table(table, row_group_size=_ROW_GROUP_SIZE, compression="zstd") for name, table in tables.items()
    }
    content = "".join(hashlib.sha256(data).hexdigest() for data in files.values())
    folder = root.child(hashlib.sha256(content.encode()).hexdigest()[:16])
    for name, data in files.items():
        if not folder.exists(name):
            folder.write_bytes(name, data)
    return folder, test is not None


_SPLITS = {"train": TRAIN_NAMES, "test": TEST_NAMES}


def as_hugging_face(source: ImageSource) -> Any:
    """Returns the images of a dataset, still encoded, and its labels as a Hugging Face `Dataset` in memory.

    Its columns are image (`Image`) and label (`ClassLabel` if the classes have names).

    Raises:
        InputError: the package datasets is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(
            "a Hugging Face Dataset needs the package datasets; pip install 'taggants[huggingface]', or ask for kind='torch'"
        ) from None
    index = source.index()
    label = datasets.Value("int64") if index.class_names is None else datasets.ClassLabel(names=list(index.class_names))
    return datasets.Dataset.from_dict(
        {
            "image": [{"bytes": data, "path": None} for data in source.read_encoded(range(source.num_rows))],
            "label": index.labels.tolist(),
        },
        features=datasets.Features({"image": datasets.Image(), "label": label}),
    )


class TorchImages(Dataset[tuple[Tensor, int]]):
    """A map-style dataset of (image, label): uint8 [C, H, W] in its own size, and the label as int.

    Encoded images are held in memory and decoded when asked for.

    Attributes:
        classes: names by label, or None.
    """

    def __init__(self, source: ImageSource) -> None:
        index = source.index()
        self.classes = None if index.class_names is None else list(index.class_names)
        self._labels: list[int] = index.labels.tolist()
        self._encoded = source.read_encoded(range(source.num_rows))
        self._channels = source.channels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return torch.from_numpy(decode_image(self._encoded[position], self._channels)), self._labels[position]


def _is_hugging_face(dataset: Any, name: str) -> bool:
    loaded = sys.modules.get("datasets")  # an object of it can only be there if it was imported
    return loaded is not None and isinstance(dataset, getattr(loaded, name))


@dataclass(frozen=True)
class _Labelled:
    """pairs: yields each image's encoded bytes and label. class_names: by label, if known."""

    num_rows: int
    pairs: Callable[[], Iterator[tuple[bytes, Any]]]
    class_names: list[str] | None


def _table(dataset: Any, split: str) -> Any:
    found = _of_hugging_face(dataset) if _is_hugging_face(dataset, "Dataset") else _of_pairs(dataset)
    if found.num_rows == 0:
        raise InputError(f"the {split} dataset is empty; give one with images")
    encoded: list[tuple[bytes, str]] = []
    labels: list[int] = []
    with stage(f"write {split} images", found.num_rows, "images") as advance:
        for data, label in found.pairs():
            labels.append(_label(label, len(labels)))
            encoded.append((data, f"{labels[-1]}/{len(encoded):07d}"))
            advance(len(encoded), "")
    names = found.class_names
    if names is not None and max(labels) >= len(names):
        names = None
    return image_table(encoded, labels, names, "a dataset given in Python")


def _of_hugging_face(dataset: Any) -> _Labelled:
    import datasets

    features = dataset.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    named = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    integers = [name for name, feature in features.items() if "int" in str(getattr(feature, "dtype", ""))]
    image, label = _only(images, "image"), _only(named or integers, "label")
    undecoded = dataset.with_format(None).select_columns([image, label])
    undecoded = undecoded.cast_column(image, datasets.Image(decode=False))

    def pairs() -> Iterator[tuple[bytes, Any]]:
        for row in undecoded:
            data = row[image]["bytes"]
            if data is None:
                folder, file = Root.of_file(row[image]["path"])
                data = folder.read_bytes(file)
            yield data, row[label]

    return _Labelled(len(dataset), pairs, list(features[label].names) if named else None)


def _only(columns: list[str], kind: str) -> str:
    if kind in columns:
        return kind
    if len(columns) != 1:
        raise InputError(
            f"the Dataset has {', '.join(columns) or 'no column'} for its {kind}s; rename the one that is meant to {kind!r}"
        )
    return columns[0]


def _of_pairs(dataset: Any) -> _Labelled:
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise InputError(
            f"{type(dataset).__name__} cannot be signed; give a path or URI, a Hugging Face Dataset, or one "
            "with a length and items (image, label)"
        )

    def encoded(position: int) -> tuple[bytes, Any]:
        try:
            image, label = dataset[position]
        except (TypeError, ValueError):
            raise InputError(f"item {position} of the dataset is not a pair (image, label); give such pairs") from None
        return encode_png(_pixels(image, position)), label

    def pairs() -> Iterator[tuple[bytes, Any]]:
        for position in range(len(dataset)):
            item = encoded(position)
            if position < 8 and encoded(position) != item:
                raise InputError(
                    f"item {position} of the dataset changes each time it is read; leave random augmentation out"
                )
            yield item

    classes = getattr(dataset, "classes", None)
    names = [str(name) for name in classes] if isinstance(classes, list | tuple) else None
    return _Labelled(len(dataset), pairs, names)


def _pixels(image: Any, position: int) -> NDArray[np.uint8]:
    """Returns uint8 [C, H, W]."""
    if isinstance(image, Image.Image):
        if image.mode not in ("L", "RGB"):
            raise InputError(f"image {position} has mode {image.mode}; convert it to L or RGB")
        return channels_first(image)
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim == 3 and not isinstance(image, Tensor):
        pixels = pixels.transpose(2, 0, 1)
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or 0 in pixels.shape:
        raise InputError(
            f"image {position} has shape {np.shape(image)}; give a tensor [C, H, W] or an array [H, W, C] with 1 or 3 channels"
        )
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    levels = np.rint(pixels * 255.0) if pixels.dtype.kind == "f" else np.full(pixels.shape, -1.0)
    if not (levels.min() >= 0 and levels.max() <= 255) or np.abs(pixels * 255.0 - levels).max() > _LEVEL_TOLERANCE:
        raise InputError(
            f"image {position} of type {pixels.dtype} does not hold levels 0 to 255 as uint8 or levels / 255; leave "
            "normalisation and augmentation out"
        )
    return np.ascontiguousarray(levels.astype(np.uint8))


def _label(label: Any, position: int) -> int:
    try:
        value = int(label)
    except (TypeError, ValueError):
        value = -1
    if value != label or value < 0:
        raise InputError(f"image {position} has the label {label!r:.40}; labels are whole numbers from 0")
    return value
