from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from taggants.data.image_codec import decode_image, encode_png
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.errors import InputError
from taggants.storage import Root

IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
HUGGINGFACE = {
    "info": {"features": {"image": {"_type": "Image"}, "label": {"names": list("abc"), "_type": "ClassLabel"}}}
}


def pixels(num: int, shape: tuple[int, int, int] = (3, 4, 5), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, *shape), dtype=np.uint8)


def write(
    root: Root,
    name: str,
    images: list[bytes | None],
    labels: list[int | None],
    metadata: dict[str, str] | None = None,
    **options: Any,
) -> None:
    cells = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    table = pa.table({"image": pa.array(cells, IMAGE_TYPE), "label": pa.array(labels, pa.int64())})
    root.write_table(name, table.replace_schema_metadata(metadata), **options)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path))


@pytest.fixture
def images() -> np.ndarray:
    return pixels(11)


@pytest.fixture
def source(root: Root, images: np.ndarray) -> ParquetSource:
    # Written in the wrong order: sample ids follow the names.
    write(root, "b.parquet", [encode_png(image) for image in images[7:]], [0, 1, 0, 2], row_group_size=3)
    write(root, "a.parquet", [encode_png(image) for image in images[:7]], [2, 2, 1, 0, 0, 1, 1], row_group_size=2)
    return ParquetSource(root, ("b.parquet", "a.parquet"))


LABELS = [2, 2, 1, 0, 0, 1, 1, 0, 1, 0, 2]


def test_index(root: Root, source: ParquetSource) -> None:
    index = source.index()
    assert index.labels.tolist() == LABELS
    assert index.labels.dtype == np.int64
    assert index.files == ("a.parquet", "b.parquet")
    assert index.file_offsets == (0, 7, 11)
    assert (index.num_rows, index.num_classes, index.class_names) == (11, 3, None)


def test_fingerprint_is_the_documented_hash_and_sees_every_byte(root: Root, source: ParquetSource) -> None:
    files = [(name, (Path(root.uri) / name).read_bytes()) for name in ("a.parquet", "b.parquet")]
    entries = [[name, hashlib.sha256(data).hexdigest(), rows] for (name, data), rows in zip(files, (7, 4), strict=True)]
    expected = hashlib.sha256(json.dumps(entries, separators=(",", ":")).encode()).hexdigest()
    assert source.index().fingerprint == expected
    write(root, "b.parquet", [encode_png(image) for image in pixels(4, seed=1)], [0, 1, 0, 2])
    assert ParquetSource(root, source.files).index().fingerprint != expected


def test_index_decodes_no_image(root: Root) -> None:
    write(root, "a.parquet", [b"no image", None], [0, 4])
    assert ParquetSource(root, ("a.parquet",)).index().num_classes == 5


def test_class_names_come_from_the_metadata(root: Root) -> None:
    data = [encode_png(pixels(1)[0])]
    write(root, "hf.parquet", data, [1], {"huggingface": json.dumps(HUGGINGFACE), "class_names": '["other"]'})
    write(root, "names.parquet", data, [1], {"class_names": '["x", "y", "z", "w"]'})
    write(root, "foreign.parquet", data, [1], {"huggingface": "not JSON", "class_names": "7"})
    by_name = {name: ParquetSource(root, (f"{name}.parquet",)).index() for name in ("hf", "names", "foreign")}
    assert (by_name["hf"].num_classes, by_name["hf"].class_names) == (3, ("a", "b", "c"))
    assert (by_name["names"].num_classes, by_name["names"].class_names) == (4, ("x", "y", "z", "w"))
    assert (by_name["foreign"].num_classes, by_name["foreign"].class_names) == (2, None)


@pytest.mark.parametrize("sample_ids", [[0], [10, 0, 7, 6, 3, 3], list(range(11)), np.array([8, 2])])
def test_images_come_in_the_order_asked_for(source: ParquetSource, images: np.ndarray, sample_ids: Any) -> None:
    assert np.array_equal(source.read_images(sample_ids), images[sample_ids])
    assert [decode_image(data).tolist() for data in source.read_encoded(sample_ids)] == images[sample_ids].tolist()


def test_only_the_needed_row_groups_are_read(
    source: ParquetSource, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = pq.ParquetFile.iter_batches

    def record(file: pq.ParquetFile, *args: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        read.append((file.metadata.num_rows, options["row_groups"], options["columns"]))
        return original(file, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", record)
    source.read_images([10, 3, 2, 10])
    assert read == [(7, [1], ["image.bytes"]), (4, [1], ["image.bytes"])]


def test_a_large_row_group_is_read_in_batches(root: Root) -> None:
    images = pixels(150)
    write(root, "a.parquet", [encode_png(image) for image in images], list(range(150)))
    source = ParquetSource(root, ("a.parquet",))
    sample_ids = [149, 0, 64, 63, 128, 64]
    assert np.array_equal(source.read_images(sample_ids), images[sample_ids])
    assert np.array_equal(source.read_all()[0], images)


def test_read_all(source: ParquetSource, images: np.ndarray) -> None:
    read, labels = source.read_all()
    assert np.array_equal(read, images)
    assert read.dtype == np.uint8
    assert labels.tolist() == LABELS


def test_a_prefix_takes_the_files_that_start_with_it(root: Root, images: np.ndarray) -> None:
    data = [encode_png(images[0])]
    for name in ("train-1.parquet", "train-0.parquet", "test.parquet", "sub/train-2.parquet"):
        write(root, name, data, [0])
    root.write_bytes("train.txt", b"")
    assert ParquetSource(root, "train").file_names == ("train-0.parquet", "train-1.parquet")
    assert len(ParquetSource(root, "").file_names) == 4
    assert ParquetSource(root.child("sub"), "").file_names == ("train-2.parquet",)


def test_it_pickles_with_and_without_what_it_learned(source: ParquetSource, images: np.ndarray) -> None:
    fresh = pickle.loads(pickle.dumps(source))
    assert fresh == source
    source.read_images([0])
    used = pickle.loads(pickle.dumps(source))
    for copy in (fresh, used):
        assert np.array_equal(copy.read_images([9]), images[[9]])
    assert pickle.loads(pickle.dumps(source.index())).labels.tolist() == LABELS


@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary()])
def test_a_plain_binary_column_and_other_names(root: Root, images: np.ndarray, binary: pa.DataType) -> None:
    data = pa.array([encode_png(image) for image in images], binary)
    labels = pa.array([5] * len(images), pa.uint16())
    root.write_table("a.parquet", pa.table({"img": data, "fine_label": labels}))
    source = ParquetSource(root, ("a.parquet",), image_column="img", label_column="fine_label")
    assert np.array_equal(source.read_images([4, 1]), images[[4, 1]])
    assert source.index().labels.tolist() == [5] * len(images)
    assert np.array_equal(source.read_all()[0], images)


def test_channels(root: Root) -> None:
    grey, colour = pixels(1, (1, 4, 4))[0], pixels(1, (3, 4, 4))[0]
    write(root, "a.parquet", [encode_png(grey), encode_png(colour)], [0, 0])
    native = ParquetSource(root, ("a.parquet",))
    assert native.read_images([0]).shape == (1, 1, 4, 4)
    assert native.read_images([1]).shape == (1, 3, 4, 4)
    as_colour = ParquetSource(root, ("a.parquet",), channels=3).read_images([0, 1])
    assert np.array_equal(as_colour, [np.repeat(grey, 3, axis=0), colour])
    assert ParquetSource(root, ("a.parquet",), channels=1).read_all()[0].shape == (2, 1, 4, 4)
    with pytest.raises(InputError, match=r"sample 0.* 1x4x4 .*sample 1 has 3x4x4.*set data.channels"):
        native.read_images([1, 0])


def test_sizes_that_differ_are_refused(root: Root) -> None:
    write(root, "a.parquet", [encode_png(image) for image in (pixels(1)[0], pixels(1, (3, 9, 5))[0])], [0, 0])
    source = ParquetSource(root, ("a.parquet",))
    assert source.read_images([1]).shape == (1, 3, 9, 5)
    for read in (lambda: source.read_images([0, 1]), source.read_all):
        with pytest.raises(InputError, match=r"sample 1\) has size 3x9x5 but sample 0 has 3x4x5"):
            read()


def test_missing_columns_are_named_with_what_there_is(source: ParquetSource, root: Root) -> None:
    for column in ("image", "label"):
        wrong = ParquetSource(root, source.files, **{f"{column}_column": "picture"})
        for use in (wrong.index, wrong.read_all):
            with pytest.raises(InputError, match=r"a\.parquet has no column 'picture'; it has image, label"):
                use()


def test_column_types_are_checked(root: Root, source: ParquetSource) -> None:
    root.write_table("text.parquet", pa.table({"image": ["x"], "label": ["cat"]}))
    with pytest.raises(InputError, match=r"'image' of .* is string"):
        ParquetSource(root, ("text.parquet",)).index()
    with pytest.raises(InputError, match=r"'image' of .* is struct.*give integer labels"):
        ParquetSource(root, source.files, label_column="image", image_column="image").index()


def test_no_files(root: Root) -> None:
    for files, message in (
        ((), "No files are given"),
        ("train", "no .parquet file that starts with 'train'"),
        (("a.parquet",), "does not exist"),
        (("a.parquet", "a.parquet"), "name one of them twice"),
    ):
        with pytest.raises(InputError, match=message):
            ParquetSource(root, files).index()


def test_files_without_rows(root: Root) -> None:
    write(root, "a.parquet", [], [])
    for use in (ParquetSource(root, "a").index, ParquetSource(root, "a").read_all):
        with pytest.raises(InputError, match="has no rows"):
            use()


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "page", "footer"])
def test_damaged_files_are_named(root: Root, source: ParquetSource, damage: str) -> None:
    data = root.read_bytes("a.parquet")
    damaged = {
        "truncated": data[: len(data) // 2],
        "empty": b"",
        "text": b"hello, this is no Parquet file",
        "page": data[:8] + b"\xff" * 400 + data[408:],
        "footer": data[:-60] + b"\xff" * 40 + data[-20:],
    }[damage]
    root.write_bytes("a.parquet", damaged)
    with pytest.raises(InputError, match=r"a\.parquet is damaged"):
        source.read_all()


def test_a_lost_connection_is_not_taken_for_damage(source: ParquetSource, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> pa.Table:
        raise OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fail)
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        source.read_images([0])


def test_a_corrupt_image_is_named_by_file_and_row(root: Root, source: ParquetSource) -> None:
    png = encode_png(pixels(1)[0])
    write(root, "b.parquet", [png, png[:50], png, None], [0, 0, 0, 0])
    for read in (lambda: source.read_images([8]), source.read_all):
        with pytest.raises(InputError, match=r"Row 1 of .*b\.parquet \(sample 8\): the image cannot be decoded"):
            read()
    with pytest.raises(InputError, match=r"Row 3 of .*b\.parquet \(sample 10\) holds no image bytes"):
        source.read_encoded([10])


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (-1, "Row 1 of .* has the label -1"),
        (None, "Row 1 of .* has no label"),
        (10**12, "has the label 1000000000000; labels are"),
    ],
)
def test_bad_labels(root: Root, label: int | None, message: str) -> None:
    png = encode_png(pixels(1)[0])
    write(root, "a.parquet", [png, png], [0, label])
    source = ParquetSource(root, ("a.parquet",))
    for read in (source.index, source.read_all):
        with pytest.raises(InputError, match=message):
            read()


def test_labels_and_class_names_have_to_agree(root: Root) -> None:
    png = encode_png(pixels(1)[0])
    write(root, "a.parquet", [png, png], [0, 3], {"huggingface": json.dumps(HUGGINGFACE)})
    with pytest.raises(InputError, match=r"Sample 1 of .* has label 3, but the class names allow 0 to 2"):
        ParquetSource(root, ("a.parquet",)).index()
    write(root, "b.parquet", [png], [0])
    with pytest.raises(InputError, match=r"b\.parquet and a\.parquet .* differ in their class names"):
        ParquetSource(root, ("a.parquet", "b.parquet")).index()


@pytest.mark.parametrize("sample_id", [-1, 11, 10**12])
def test_unknown_sample_ids(source: ParquetSource, sample_id: int) -> None:
    with pytest.raises(InputError, match=f"Sample id {sample_id} is not in 0 to 10"):
        source.read_images([sample_id])


def test_no_sample_ids(source: ParquetSource) -> None:
    assert source.read_encoded([]) == []
    with pytest.raises(InputError, match="No sample id is given"):
        source.read_images([])


def test_bad_channels(root: Root) -> None:
    with pytest.raises(InputError, match="channels is 2"):
        ParquetSource(root, "", channels=2)


def test_real_png(real_data: Path) -> None:
    source = ParquetSource(Root(str(real_data / "cifar100")), ("test.parquet",))
    index = source.index()
    assert (index.num_rows, index.num_classes) == (10_000, 100)
    assert np.bincount(index.labels).tolist() == [100] * 100
    assert index.class_names is not None
    images = source.read_images([9_999, 0])
    assert images.shape == (2, 3, 32, 32)
    by_hand = source.root.read_table("test.parquet").slice(9_999).to_pylist()[0]
    assert f"/{index.class_names[index.labels[9_999]]}/" in by_hand["image"]["path"]
    with Image.open(io.BytesIO(by_hand["image"]["bytes"])) as image:
        assert images[0].transpose(1, 2, 0).tolist() == np.asarray(image).tolist()


def test_real_jpeg_with_greyscale_among_it(real_data: Path) -> None:
    source = ParquetSource(Root(str(real_data / "tiny_imagenet20")), ("val.parquet",), channels=3)
    images, labels = source.read_all()
    assert images.shape == (1_000, 3, 64, 64)
    assert labels.max() == 19
    is_grey = (images == images[:, :1]).all(axis=(1, 2, 3))
    assert 0 < is_grey.sum() < 100


def test_deeply_nested_metadata_is_passed_over(root: Root, images: np.ndarray) -> None:
    for key in ("huggingface", "class_names"):
        write(root, "a.parquet", [encode_png(images[0])], [0], {key: "[" * 100_000})
        assert ParquetSource(root, ("a.parquet",)).index().class_names is None


def test_no_flipped_bit_gives_a_traceback(root: Root, images: np.ndarray) -> None:
    """Each bit flip of a file is read as something else or is an InputError."""
    write(
        root,
        "a.parquet",
        [encode_png(image) for image in images],
        LABELS,
        {"class_names": '["a", "b", "c"]'},
        row_group_size=4,
    )
    whole = root.read_bytes("a.parquet")
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, len(whole), 150), *rng.integers(len(whole) - footer, len(whole), 250)]
    num_refused = 0
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(8))
        root.write_bytes("a.parquet", bytes(data))
        source = ParquetSource(root, ("a.parquet",))
        try:
            source.index()
            source.read_all()
        except InputError:
            num_refused += 1
    assert num_refused > len(places) // 4  # most bits of a footer matter


def test_two_columns_of_one_name_are_refused(root: Root, images: np.ndarray) -> None:
    cells = pa.array([{"bytes": encode_png(images[0]), "path": ""}], IMAGE_TYPE)
    root.write_table(
        "a.parquet", pa.Table.from_arrays([cells, pa.array([0]), pa.array([1])], ["image", "label", "label"])
    )
    with pytest.raises(InputError, match=r"a.parquet has several columns 'label'; give each its own name"):
        ParquetSource(root, "").index()


def test_labels_of_64_bits_without_a_sign_are_named(root: Root, images: np.ndarray) -> None:
    cells = pa.array([{"bytes": encode_png(images[0]), "path": ""}] * 2, IMAGE_TYPE)
    root.write_table("a.parquet", pa.table({"image": cells, "label": pa.array([0, 2**64 - 1], pa.uint64())}))
    with pytest.raises(
        InputError, match=r"Row 1 of .*a.parquet has the label 18446744073709551615; labels are integers"
    ):
        ParquetSource(root, "").index()
