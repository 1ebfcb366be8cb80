"""What every layout owes its readers, on the same images in each of them."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torchvision.transforms.v2.functional as reference
from PIL import Image, ImageFile

from taggants.data import open_source
from taggants.data.file_names import files_or_prefix
from taggants.data.image_codec import encode_png
from taggants.data.source import ImageSource, dataset_fingerprint, resize_and_crop
from taggants.errors import InputError
from taggants.storage import Root
from tests.s3_server import S3Server

LABELS = [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
NAMES = ["n01", "n02", "n03"]
KINDS = ("parquet", "imagefolder", "webdataset")
FIRST_FILE: dict[str, str] = {
    "parquet": "train-0.parquet",
    "imagefolder": "train/n01/00000.JPEG",
    "webdataset": "train-0.tar",
}


def pixels(num: int, shape: tuple[int, int, int] = (3, 6, 5), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, *shape), dtype=np.uint8)


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write(kind: str, root: Root, encoded: Sequence[bytes], labels: Sequence[int] = LABELS) -> None:
    """Writes the images in the order of their labels, Parquet and tars as two files."""
    halves = [range(len(labels) // 2), range(len(labels) // 2, len(labels))]
    if kind == "imagefolder":
        for i, (data, label) in enumerate(zip(encoded, labels, strict=True)):
            root.write_bytes(f"train/n{label + 1:02d}/{i:05d}.JPEG", data)
    elif kind == "webdataset":
        for half, ids in enumerate(halves):
            sink = io.BytesIO()
            with tarfile.open(fileobj=sink, mode="w") as tar:
                for i in ids:
                    add_member(tar, f"{i:05d}.cls", f"{labels[i]}\n".encode())
                    add_member(tar, f"{i:05d}.jpg", encoded[i])
            root.write_bytes(f"train-{half}.tar", sink.getvalue())
    else:
        image_type = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        for half, ids in enumerate(halves):
            images = pa.array([{"bytes": encoded[i], "path": f"{i}.png"} for i in ids], image_type)
            table = pa.table({"image": images, "label": [labels[i] for i in ids]})
            root.write_table(f"train-{half}.parquet", table.replace_schema_metadata({"class_names": json.dumps(NAMES)}))


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    """Local, unless a test asks for S3 too, where each takes seconds."""
    if getattr(request, "param", "local") == "local":
        return Root(str(tmp_path / "data"))
    server: S3Server = request.getfixturevalue("s3_environment")
    return Root(f"s3://{server.bucket}/{tmp_path.parent.name}-{tmp_path.name}")


local_and_s3 = pytest.mark.parametrize("root", ["local", pytest.param("s3", marks=pytest.mark.s3)], indirect=True)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def images() -> np.ndarray:
    return pixels(len(LABELS))


@pytest.fixture
def dataset(kind: str, root: Root, images: np.ndarray) -> ImageSource:
    write(kind, root, [encode_png(image) for image in images])
    return open_source(kind, root, "train")


@local_and_s3
def test_index(kind: str, dataset: ImageSource) -> None:
    index = dataset.index()
    assert index.labels.tolist() == LABELS
    assert index.labels.dtype == np.int64
    assert (index.num_rows, dataset.num_rows, index.num_classes) == (11, 11, 3)
    assert index.class_names == (None if kind == "webdataset" else tuple(NAMES))
    assert index.file_offsets == ((0, 3, 7, 11) if kind == "imagefolder" else (0, 5, 11))
    assert len(index.files) == len(index.file_offsets) - 1


def test_the_index_is_made_once_and_decodes_nothing(kind: str, root: Root) -> None:
    write(kind, root, [b"no image", b"", b"neither"], [0, 1, 1])
    dataset = open_source(kind, root, "train")
    assert dataset.index() is dataset.index()


@local_and_s3
def test_the_fingerprint_sees_every_byte_and_not_where_the_data_lie(
    kind: str, dataset: ImageSource, root: Root
) -> None:
    before = dataset.index().fingerprint
    other = root.child("other")
    for path in root.list():
        root.copy(path, other, path)
    assert dataset.at(other).index().fingerprint == before
    data = bytearray(other.read_bytes(FIRST_FILE[kind]))
    data[-600 if kind == "webdataset" else len(data) // 4] ^= 1  # padding of the tar; bytes of an image of the others
    other.write_bytes(FIRST_FILE[kind], bytes(data))
    assert dataset.at(other).index().fingerprint != before


@pytest.mark.parametrize("sample_ids", [[0], [10, 0, 7, 6, 3, 3], range(11), np.array([8, 2])])
def test_images_come_in_the_order_asked_for(
    dataset: ImageSource, images: np.ndarray, sample_ids: Sequence[int]
) -> None:
    wanted = images[np.asarray(sample_ids)]
    assert dataset.read_encoded(sample_ids) == [encode_png(image) for image in wanted]
    assert np.array_equal(dataset.read_images(sample_ids), wanted)


def test_read_all(dataset: ImageSource, images: np.ndarray) -> None:
    read, labels = dataset.read_all()
    assert np.array_equal(read, images)
    assert (read.dtype, labels.dtype, labels.tolist()) == (np.uint8, np.int64, LABELS)


@local_and_s3
def test_copies_pickle_small_and_read_the_same(dataset: ImageSource, images: np.ndarray, root: Root) -> None:
    fresh = pickle.loads(pickle.dumps(dataset))
    assert fresh == dataset
    index = dataset.index()
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 2000
    assert index.fingerprint.encode() not in pickled
    for copy in (fresh, pickle.loads(pickled)):
        assert np.array_equal(copy.read_images([9, 0]), images[[9, 0]])
        assert copy.place_of(9) == dataset.place_of(9)
        assert copy.index().fingerprint == index.fingerprint
        assert copy.read_all()[1].tolist() == LABELS


def test_places_name_the_file_and_the_sample(kind: str, dataset: ImageSource, root: Root) -> None:
    assert root.uri_of(FIRST_FILE[kind]) in dataset.place_of(0)
    assert "sample 0" in dataset.place_of(0)


@pytest.mark.parametrize("sample_id", [-1, 11, 10**12])
def test_unknown_sample_ids(dataset: ImageSource, sample_id: int) -> None:
    for read in (dataset.read_images, dataset.read_sized, dataset.read_encoded, lambda ids: dataset.place_of(ids[0])):
        with pytest.raises(InputError, match=f"Sample id {sample_id} is not in 0 to 10"):
            read([sample_id])


def test_no_sample_ids(dataset: ImageSource) -> None:
    assert dataset.read_encoded([]) == []
    assert dataset.read_sized([]) == []
    for read in (dataset.read_images, lambda ids: dataset.read_resized(ids, 4)):
        with pytest.raises(InputError, match="No sample id is given"):
            read([])


def test_sizes_and_channels(kind: str, root: Root) -> None:
    native = [pixels(1, shape, seed)[0] for seed, shape in enumerate([(3, 6, 5), (3, 9, 20), (1, 7, 7)])]
    write(kind, root, [encode_png(image) for image in native], [0, 0, 1])
    as_found = open_source(kind, root, "train")
    for found, sample_id in zip(as_found.read_sized([2, 0, 1]), (2, 0, 1), strict=True):
        assert np.array_equal(found, native[sample_id])
    for read in (lambda: as_found.read_images([0, 1]), as_found.read_all):
        with pytest.raises(
            InputError, match=r"sample 1.* has size 3x9x20 but sample 0 has 3x6x5 .*set data.image_size"
        ):
            read()
    with pytest.raises(InputError, match=r"sample 2.* has size 1x4x4 but sample 0 has 3x4x4.*set data.channels"):
        as_found.read_resized([0, 2], 4)
    with pytest.raises(InputError, match="size is 0"):
        as_found.read_resized([0], 0)
    in_colour = open_source(kind, root, "train", channels=3)
    assert [image.shape for image in in_colour.read_sized([0, 1, 2])] == [(3, 6, 5), (3, 9, 20), (3, 7, 7)]
    resized = in_colour.read_resized([2, 1], 4)
    colour = np.repeat(native[2], 3, axis=0)
    assert np.array_equal(resized, [resize_and_crop(colour, 4), resize_and_crop(native[1], 4)])
    with pytest.raises(InputError, match="channels is 2"):
        open_source(kind, root, "train", channels=2)


def test_a_damaged_image_is_named(kind: str, root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as packages that are imported beside this one do
    sink = io.BytesIO()
    Image.fromarray(pixels(1, (3, 40, 40))[0].transpose(1, 2, 0)).save(sink, "JPEG")
    jpeg = sink.getvalue()
    write(kind, root, [jpeg, jpeg[: len(jpeg) // 2], jpeg], [0, 0, 1])
    dataset = open_source(kind, root, "train", channels=3)
    assert dataset.read_images([2]).shape == (1, 3, 40, 40)
    reads: list[Callable[[], object]] = [
        lambda: dataset.read_images([0, 1]),
        lambda: dataset.read_sized([1]),
        lambda: dataset.read_resized([1], 8),
        dataset.read_all,
    ]
    for read in reads:
        with pytest.raises(InputError, match=r"sample 1.*: the image cannot be decoded"):
            read()


@local_and_s3
@pytest.mark.parametrize("kind", ["parquet", "webdataset"], indirect=True)  # an image folder's files are the images
def test_truncated_files_are_named(kind: str, dataset: ImageSource, root: Root) -> None:
    data = root.read_bytes(FIRST_FILE[kind])
    root.write_bytes(FIRST_FILE[kind], data[: len(data) // 2])
    for read in (dataset.index, dataset.read_all):
        with pytest.raises(InputError, match=f"{root.uri_of(FIRST_FILE[kind])} is damaged"):
            read()


@local_and_s3
def test_missing_data(kind: str, root: Root) -> None:
    with pytest.raises(InputError, match=f"{root.uri}.*; (check the path|give a folder)"):
        open_source(kind, root, "train").index()


def test_one_file_by_its_name(root: Root) -> None:
    encoded = [encode_png(image) for image in pixels(2)]
    for kind in ("parquet", "webdataset"):
        write(kind, root, encoded, [0, 1])
        assert open_source(kind, root, FIRST_FILE[kind]).num_rows == 1
        assert open_source(kind, root, "train").num_rows == 2


def test_how_it_is_read_tells_sources_apart(root: Root) -> None:
    sources = [open_source(kind, root, "train", channels=channels) for kind in KINDS for channels in (None, 1, 3)]
    sources += [
        open_source("parquet", root, "x", image_column="img"),
        open_source("parquet", root, "x", label_column="y"),
    ]
    assert len({dataset.how_read for dataset in sources}) == len(sources)
    assert open_source("parquet", root, "train").how_read == open_source("parquet", root.child("x"), "test").how_read


@pytest.mark.parametrize("shape", [(3, 30, 30), (3, 31, 77), (1, 77, 31), (3, 8, 50), (3, 9, 8), (1, 5, 17), (3, 1, 4)])
@pytest.mark.parametrize("size", [8, 13])
def test_resizing_is_that_of_torchvision(shape: tuple[int, int, int], size: int) -> None:
    image = pixels(1, shape)[0]
    picture = Image.fromarray(image[0] if shape[0] == 1 else image.transpose(1, 2, 0))
    cropped = reference.center_crop(reference.resize(picture, [size]), [size, size])
    expected = np.asarray(cropped).reshape(size, size, -1).transpose(2, 0, 1)
    found = resize_and_crop(image, size)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_fingerprint_is_the_documented_hash() -> None:
    entries = [("ü/a.png", "00ff", 1), ('"b"', "11", 2)]
    text = json.dumps([list(entry) for entry in entries], separators=(",", ":"))
    assert dataset_fingerprint(iter(entries)) == hashlib.sha256(text.encode()).hexdigest()
    assert dataset_fingerprint([]) == hashlib.sha256(b"[]").hexdigest()


@local_and_s3
def test_real_imagenet_reads_alike_as_folder_and_as_tars(real_data: Path, root: Root) -> None:
    """As ImageNet holds them: native sizes, greyscale among the colours."""
    labels = []
    with tarfile.open(real_data / "imagenet_sample.tar") as tar:
        members = sorted((m for m in tar if m.isfile()), key=lambda m: m.name.split("/"))
        members = members[:: 6 if root.uri.startswith("s3://") else 1]
        synsets = sorted({member.name.split("/")[1] for member in members})
        encoded = []
        for member in members:
            file = tar.extractfile(member)
            assert file is not None
            encoded.append(file.read())
            labels.append(synsets.index(member.name.split("/")[1]))
            root.write_bytes(member.name, encoded[-1])
    write("webdataset", root, encoded, labels)
    folder = open_source("imagefolder", root, "train", channels=3)
    tars = open_source("webdataset", root, "train", channels=3)
    assert folder.index().labels.tolist() == tars.index().labels.tolist() == labels
    assert folder.index().class_names == tuple(synsets)
    assert (folder.num_rows, folder.index().num_classes) == (len(members), 24)
    sample_ids = list(range(0, len(members), len(members) // 12))
    assert folder.read_encoded(sample_ids) == tars.read_encoded(sample_ids) == [encoded[i] for i in sample_ids]
    sized = folder.read_sized(sample_ids)
    assert len({image.shape for image in sized}) > 5
    resized = tars.read_resized(sample_ids, 64)
    assert resized.shape == (12, 3, 64, 64)
    for image, small, sample_id in zip(sized, resized, sample_ids, strict=True):
        with Image.open(io.BytesIO(encoded[sample_id])) as picture:
            picture = picture.convert("RGB")
            assert image.shape == (3, picture.height, picture.width)
            expected = reference.center_crop(reference.resize(picture, [64]), [64, 64])
        assert np.array_equal(small.transpose(1, 2, 0), np.asarray(expected))


def test_a_resize_that_would_take_gigabytes_is_refused(root: Root) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (60_000, 1)).save(sink, "PNG")
    write("imagefolder", root, [sink.getvalue()], [0])
    message = r"00000\.JPEG \(sample 0\): the image of 1 x 60000 px, resized to a shorter side of 224 px, is 224 x 13440000 px"
    with pytest.raises(InputError, match=message):
        open_source("imagefolder", root, "train").read_resized([0], 224)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["train.parquet", "trainval.parquet"], "begins the names of train.parquet and trainval.parquet"),
        (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"], "are 2 files of 3; fetch those"),
        (
            ["train-00000-of-00001.parquet", *(f"train-0000{i}-of-00002.parquet" for i in (0, 1))],
            "sets of 1 and 2 files",
        ),
        (["train-00000-of-00002.parquet"], "are 1 files of 2"),
    ],
)
def test_incomplete_and_mixed_sets_of_files_are_refused(names: list[str], sentence: str, tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    for name in names:
        root.write_bytes(name, b"")
    with pytest.raises(InputError, match=sentence):
        files_or_prefix(root, "train", ".parquet")


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        ["train-1-of-2.parquet", "train-2-of-2.parquet"],  # as some count
        ["train_0.parquet", "train/1.parquet", "train2.parquet"],
        ["trainval.parquet"],
    ],
)
def test_complete_sets_of_files_are_taken(names: list[str], tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    for name in [*names, "test-00000-of-00009.parquet"]:
        root.write_bytes(name, b"")
    assert files_or_prefix(root, "train", ".parquet") == tuple(sorted(names))
