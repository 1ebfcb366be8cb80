"""What a folder of images holds, found out by looking: its layout, splits, columns, classes and image sizes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from taggants.data import open_source
from taggants.data.file_names import IMAGE_SUFFIXES, suffix_of
from taggants.data.fitness import problem_of
from taggants.data.image_codec import open_picture
from taggants.data.layouts import LAYOUTS
from taggants.data.layouts.parquet.source import ParquetSource, json_metadata, label_feature_of
from taggants.data.source import ImageSource
from taggants.errors import InputError
from taggants.storage import Root, damage_named

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "dev", "eval")
"""Words by which files and folders of a split are recognised, in the order of preference."""

_LABEL_NAMES = ("label", "labels", "fine_label", "target", "class", "cls")
_NUM_IMAGES_LOOKED_AT = 64


@dataclass(frozen=True)
class Inspection:
    """What was found in a dataset. Nothing was hashed, and of the images only the headers of a few were read.

    Attributes:
        layout: a name in `LAYOUTS`, as `data.source`.
        root: folder or s3:// prefix, as `data.root`.
        train: training split below it, as `data.train`.
        test: test split, as `data.test`; None if there is none.
        image_column: of Parquet files; "image" for the other layouts.
        label_column: likewise; "label".
        num_images: of the training split.
        num_test_images: of the test split; 0 without one.
        class_sizes: training images of each label from 0 to num_classes - 1.
        class_names: by label, if the dataset carries them.
        channels: 1 if all images looked at are grey, else 3.
        sizes: (height, width) of the images looked at, each once, the commonest first.
        encodings: Pillow's names of their formats ("JPEG", "PNG"), the commonest first.
    """

    layout: str
    root: str
    train: str
    test: str | None
    image_column: str
    label_column: str
    num_images: int
    num_test_images: int
    class_sizes: tuple[int, ...]
    class_names: tuple[str, ...] | None
    channels: int
    sizes: tuple[tuple[int, int], ...]
    encodings: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_sizes)

    @property
    def one_size(self) -> int | None:
        """The side in px if all images looked at are square and of one size, else None."""
        height, width = self.sizes[0]
        return height if len(self.sizes) == 1 and height == width else None


def inspect_dataset(
    uri: str,
    *,
    train: str | None = None,
    test: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Inspection:
    """Returns what the dataset at a path or s3:// URI holds.

    Parquet files are looked for first, then tars, then class folders. Splits are recognised by the words in `TRAIN_NAMES`
    and `TEST_NAMES` in the names of files and folders; without such a word everything is the training split.

    Args:
        uri: a folder, a prefix, or one .parquet or .tar file, which then is the training split.
        train: the training split if its name does not tell, as `data.train`.
        test: the test split, likewise.
        image_column: of Parquet files, if there are several that may be it.
        label_column: likewise.

    Raises:
        InputError: there is no such folder, or its address names a variable; no image in a known layout, or none that can be
            signed; no training split, or the test split is the same; several columns that may be the one, or a label that is
            missing.
    """
    if "$" in uri:
        raise InputError(
            f"{uri!r} has a $, which names an environment variable in a configuration; rename the folder, or write the path out"
        )
    root = Root(uri)
    if suffix_of(uri) in ("parquet", "tar"):
        root, file = Root.of_file(uri)
        if not root.exists(file):
            raise InputError(f"file {root.uri_of(file)} does not exist; check the path")
        train = file if train is None else train
    names = [name for name in root.list() if not any(part.startswith(".") for part in name.split("/"))]
    layout = _layout_of(root, names)
    suffix = LAYOUTS[layout].suffix
    split_names = [name for name in names if suffix_of(name) == suffix] if suffix else _folders_of_classes(names)
    if train is None:
        train = _split(root, split_names, TRAIN_NAMES, are_files=bool(suffix))
        if train is None:
            raise InputError(
                f"{root.uri} holds only a test split by the names of its files; name the training split yourself"
            )
        test = _split(root, split_names, TEST_NAMES, are_files=bool(suffix)) if test is None else test
    if test == train:
        raise InputError(
            f"the test split is {test!r}, as the training split: accuracies and covers would be of images that models learn "
            "from; name another, or none"
        )
    columns = _columns(root, train, image_column, label_column) if layout == "parquet" else ("image", "label")

    def source(split: str) -> ImageSource:
        return open_source(layout, root, split, image_column=columns[0], label_column=columns[1])

    training = source(train)
    labels = training.labels()
    if not len(labels) or labels.min() < 0:
        raise InputError(f"the training split {train!r} of {root.uri} has no images, or a negative label; correct it")
    class_names = training.class_names()
    class_sizes = np.bincount(labels, minlength=len(class_names or ()))
    modes, sizes, encodings = _look_at_images(training)
    return Inspection(
        layout=layout,
        root=root.uri,
        train=train,
        test=test,
        image_column=columns[0],
        label_column=columns[1],
        num_images=len(labels),
        num_test_images=0 if test is None else source(test).num_rows,
        class_sizes=tuple(int(size) for size in class_sizes),
        class_names=class_names,
        channels=1 if set(modes) <= {"1", "L"} else 3,
        sizes=tuple(sizes),
        encodings=tuple(encodings),
    )


def _layout_of(root: Root, names: Sequence[str]) -> str:
    found = Counter(suffix_of(name) for name in names)
    # Images may lie beside files that hold the dataset, such as a picture of it.
    for name, layout in sorted(LAYOUTS.items(), key=lambda entry: entry[1].suffix is None):
        if any(suffix in found for suffix in ([layout.suffix] if layout.suffix else IMAGE_SUFFIXES)):
            return name
    listed = ", ".join(f"{count} .{suffix}" for suffix, count in found.most_common(3) if suffix) or "no files"
    raise InputError(
        f"{root.uri} holds no dataset that can be read ({listed}); give a folder of Parquet files, of uncompressed tars, or "
        "with one folder of PNG or JPEG images for each class"
    )


def _folders_of_classes(names: Sequence[str]) -> list[str]:
    """Returns the folders below the root that hold class folders: a class may be called "train", too."""
    return sorted({name.split("/")[0] for name in names if suffix_of(name) in IMAGE_SUFFIXES and name.count("/") > 1})


def _split(root: Root, names: Sequence[str], words: Sequence[str], *, are_files: bool) -> str | None:
    """Returns the split whose files or folder carry one of the words, in the form of `data.train`; None if there is none.

    The training split is everything where no name carries a word of any split.
    """
    by_word: dict[str, list[str]] = {}
    for name in names:
        parts = set(re.split(r"[^a-z]+", name.lower()))
        word = next((word for word in (*TRAIN_NAMES, *TEST_NAMES) if word in parts), None)
        if word is not None and (are_files or name.lower() == word):
            by_word.setdefault(word, []).append(name)
    if not are_files and not by_word:
        return "" if words is TRAIN_NAMES else None
    if by_word:
        chosen = next((by_word[word] for word in words if word in by_word), [])
    else:
        chosen = list(names) if words is TRAIN_NAMES else []
    if not chosen:
        return None
    if len(chosen) == 1:
        return chosen[0]
    prefix = os.path.commonprefix(chosen)  # noqa: RUF071 - of names, not of folders
    shorter = prefix.rstrip("0123456789")
    for candidate in (shorter, prefix):
        if [name for name in names if name.startswith(candidate)] == chosen:
            return candidate
    raise InputError(
        f"no prefix names the files {chosen[0]}, {chosen[1]}, ... of {root.uri} and no others; name the splits yourself"
    )


def _columns(root: Root, train: str, image_column: str | None, label_column: str | None) -> tuple[str, str]:
    """Returns the image and the label column of the training files."""
    name = train if train.endswith(".parquet") else ParquetSource(root, train).file_names[0]
    schema = _schema(root, name)
    if image_column is None:
        candidates = [field.name for field in schema if _may_hold_images(field.type)]
        image_column = _only(root.uri_of(name), candidates, ("image", "img"), "image", "struct<bytes, path> or binary")
    if label_column is None:
        description = json_metadata(schema, b"huggingface")
        integers = [field.name for field in schema if pa.types.is_integer(field.type)]
        named = [column for column in integers if "names" in label_feature_of(description, column)]
        label_column = _only(root.uri_of(name), named or integers, _LABEL_NAMES, "label", "integer")
    return image_column, label_column


def _schema(root: Root, name: str) -> pa.Schema:
    with root.open_input(name) as handle, damage_named(root.uri_of(name)):
        return pq.read_schema(handle)


def _may_hold_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _only(uri: str, candidates: Sequence[str], preferred: Sequence[str], kind: str, wanted: str) -> str:
    for name in preferred:
        if name in candidates:
            return name
    if len(candidates) != 1:
        found = f"columns {', '.join(candidates)} may hold them" if candidates else f"no {wanted} column does"
        raise InputError(f"{uri} does not tell which column holds the {kind}s ({found}); name it as {kind}_column")
    return candidates[0]


def _look_at_images(source: ImageSource) -> tuple[list[str], list[tuple[int, int]], list[str]]:
    """Returns Pillow's modes, the sizes and the formats of a few images over the dataset that can be signed, the commonest first.

    Raises:
        InputError: none can be signed, or one cannot be read.
    """
    sample_ids = np.unique(np.linspace(0, source.num_rows - 1, _NUM_IMAGES_LOOKED_AT, dtype=np.int64)).tolist()
    modes: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    encodings: Counter[str] = Counter()
    problems: list[str] = []
    for sample_id, data in zip(sample_ids, source.read_encoded(sample_ids), strict=True):
        place = source.place_of(sample_id)
        try:
            with open_picture(data) as image:
                mode, size, encoding = image.mode, (image.height, image.width), image.format or "unknown"
        except Image.DecompressionBombError:
            raise InputError(
                f"{place} has more pixels than are read safely; make it smaller, or leave it out"
            ) from None
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        except (UnidentifiedImageError, OSError):
            raise InputError(f"{place} cannot be read as an image; replace it") from None
        problem = problem_of(data, 1) and problem_of(data, 3)
        if problem is not None:
            problems.append(f"{place} is {problem}")
            continue
        modes[mode] += 1
        sizes[size] += 1
        encodings[encoding] += 1
    if not modes:
        raise InputError(
            f"none of the {len(problems)} images looked at can be signed: {problems[0]}; convert them to 8-bit PNG or JPEG"
        )
    return ([value for value, _ in counter.most_common()] for counter in (modes, sizes, encodings))  # type: ignore[return-value]
