from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taggants.data.image_codec import encode_png
from taggants.data.layouts.image_folder import ImageFolder
from taggants.data.source import dataset_fingerprint
from taggants.errors import InputError
from taggants.storage import Root

IMAGE = np.random.default_rng(0).integers(0, 256, (3, 4, 4), dtype=np.uint8)
PNG = encode_png(IMAGE)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path))


def write(root: Root, *paths: str) -> None:
    for path in paths:
        root.write_bytes(path, PNG)


def test_order_is_by_class_then_by_path(root: Root) -> None:
    # "a b" sorts before "a/" as a path but after "a" as a class; upper case before lower; nested files count.
    paths = ["a/Z.png", "a/b/c.png", "a/é.png", "a b/0.JPEG", "b/10.jpg", "b/9.jpg"]
    write(root, *(f"train/{path}" for path in reversed(paths)))
    source = ImageFolder(root, "train")
    assert [source.path_of(i) for i in range(6)] == [f"train/{path}" for path in paths]
    index = source.index()
    assert index.class_names == ("a", "a b", "b")
    assert index.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert (index.files, index.file_offsets) == (("train/a", "train/a b", "train/b"), (0, 3, 4, 6))


@pytest.mark.parametrize("folder", ["train", "train/", "./train"])
def test_the_spelling_of_the_folder_does_not_matter(root: Root, folder: str) -> None:
    write(root, "train/a/0.png", "val/a/0.png")
    assert ImageFolder(root, folder).path_of(0) == "train/a/0.png"
    assert ImageFolder(root, folder).index().fingerprint == ImageFolder(root, "train").index().fingerprint


def test_the_root_may_hold_the_classes(root: Root) -> None:
    write(root, "a/0.png", "b/0.png")
    assert ImageFolder(root).path_of(1) == "b/0.png"
    assert ImageFolder(root).index().class_names == ("a", "b")


def test_fingerprint_is_over_paths_and_contents(root: Root) -> None:
    write(root, "train/a/0.png", "train/b/0.png")
    sha256 = hashlib.sha256(PNG).hexdigest()
    expected = dataset_fingerprint([("train/a/0.png", sha256, 1), ("train/b/0.png", sha256, 1)])
    assert ImageFolder(root, "train").index().fingerprint == expected


def test_what_is_no_image_is_skipped(root: Root) -> None:
    write(
        root, "train/a/0.png", "train/README.md", "train/a/boxes.txt", "train/.cache/x.png", "train/a/.x.png", "LICENSE"
    )
    assert ImageFolder(root, "train").num_rows == 1


def test_images_as_imagenet_holds_them(root: Root) -> None:
    """Every one is named .JPEG; grey, palette, CMYK and a PNG are among them."""
    picture = Image.fromarray(np.tile(IMAGE.transpose(1, 2, 0), (8, 8, 1)))
    expected = []
    for i, (mode, encoding) in enumerate(
        [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGB", "PNG"), ("RGBA", "PNG")]
    ):
        sink = io.BytesIO()
        picture.convert(mode).save(sink, encoding)
        root.write_bytes(f"train/a/{i}.JPEG", sink.getvalue())
        with Image.open(sink) as stored:
            expected.append(np.asarray(stored.convert("RGB")).transpose(2, 0, 1))
    assert np.array_equal(ImageFolder(root, "train", channels=3).read_images(range(5)), expected)


def test_sixteen_bits_are_refused_with_the_name(root: Root) -> None:
    sink = io.BytesIO()
    Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000).save(sink, "PNG")
    root.write_bytes("train/a/0.JPEG", sink.getvalue())
    with pytest.raises(InputError, match=r"a/0\.JPEG \(sample 0\): .*8 bits"):
        ImageFolder(root, "train", channels=3).read_images([0])


def test_no_classes(root: Root, tmp_path: Path) -> None:
    (tmp_path / "train" / "empty").mkdir(parents=True)
    for folder in ("train", "missing"):
        with pytest.raises(InputError, match=f"no class folders in .*{folder}"):
            ImageFolder(root, folder).index()


def test_an_empty_folder_is_no_class(root: Root, tmp_path: Path) -> None:
    write(root, "train/a/0.png", "train/c/0.png")
    (tmp_path / "train" / "b").mkdir()
    assert ImageFolder(root, "train").index().class_names == ("a", "c")


def test_a_class_without_images_is_named(root: Root) -> None:
    write(root, "train/a/0.png", "train/b/notes.txt")
    with pytest.raises(InputError, match=r"Class 'b' in .*train has no images"):
        ImageFolder(root, "train").index()


def test_an_image_beside_the_classes_is_named(root: Root) -> None:
    write(root, "train/a/0.png", "train/stray.jpeg")
    with pytest.raises(InputError, match=r"train/stray\.jpeg is beside the class folders"):
        ImageFolder(root, "train").index()


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_a_name_that_is_not_utf8(root: Root, tmp_path: Path) -> None:
    write(root, "train/a/0.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/train/a/\xff.png")).write_bytes(PNG)
    with pytest.raises(InputError, match=r"'train/a/\\udcff\.png' .* is not UTF-8"):
        ImageFolder(root, "train").index()


def test_a_copy_lists_only_the_classes_it_reads(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root, *(f"train/{name}/{i}.png" for name in "abc" for i in range(2)))
    source = ImageFolder(root, "train")
    source.index()
    copy = pickle.loads(pickle.dumps(source))
    listed = []
    original = Root.list
    monkeypatch.setattr(Root, "list", lambda self, path="": listed.append(path) or original(self, path))
    assert np.array_equal(copy.read_images([3, 2, 3]), [IMAGE] * 3)
    assert listed == ["train/b"]


def test_a_class_that_changed_since_it_was_indexed(root: Root) -> None:
    write(root, "train/a/0.png", "train/b/0.png")
    source = ImageFolder(root, "train")
    source.index()
    copy = pickle.loads(pickle.dumps(source))
    write(root, "train/b/1.png")
    assert copy.path_of(0) == "train/a/0.png"
    with pytest.raises(InputError, match=r"Class 'b' in .* has 2 images but had 1"):
        copy.read_images([1])
    root.delete("train/a/0.png")
    with pytest.raises(InputError, match=r"a/0\.png does not exist"):
        source.read_images([0])
