from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taggants.data.image_codec import encode_png
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.data.layouts.parquet.subset import write_subset
from taggants.errors import InputError
from taggants.storage import Root

NAMES = ["ant", "bee", "cat", "dog"]
FEATURES = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
METADATA = {
    "huggingface": json.dumps({"info": {"features": FEATURES, "license": "mit"}}),
    "class_names": json.dumps(NAMES),
    "source": "drawn by chance",
}
LABELS = [[3, 1, 0, 2, 1, 0, 0], [2, 2, 1, 3, 0, 1]]


@pytest.fixture
def source(tmp_path: Path) -> ParquetSource:
    root = Root(str(tmp_path / "source"))
    rng = np.random.default_rng(0)
    for i, labels in enumerate(LABELS):
        cells = [
            {"bytes": encode_png(rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)), "path": f"{i}/{j}.png"}
            for j in range(len(labels))
        ]
        image_type = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        table = pa.table({"image": pa.array(cells, image_type), "label": labels}).replace_schema_metadata(METADATA)
        options = {"compression": {"image.bytes": "ZSTD", "image.path": "GZIP", "label": "NONE"}}
        root.write_table(f"{i}.parquet", table, row_group_size=3, use_dictionary=["label"], **options)
    return ParquetSource(root, "")


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path / "subset"))


def expected_rows(source: ParquetSource, num_classes: int, images_per_class: int | None) -> list[dict[str, object]]:
    rows = [row for name in source.file_names for row in source.root.read_table(name).to_pylist()]
    kept: list[dict[str, object]] = []
    for row in rows:
        before = sum(other["label"] == row["label"] for other in kept)
        if row["label"] < num_classes and (images_per_class is None or before < images_per_class):
            kept.append(row)
    return kept


@pytest.mark.parametrize(("num_classes", "images_per_class"), [(1, None), (2, 3), (3, 1), (4, 2), (4, None)])
def test_rows_in_source_order(
    source: ParquetSource, root: Root, num_classes: int, images_per_class: int | None
) -> None:
    write_subset(source, root, "x.parquet", num_classes=num_classes, images_per_class=images_per_class)
    assert root.read_table("x.parquet").to_pylist() == expected_rows(source, num_classes, images_per_class)


def test_metadata_and_layout(source: ParquetSource, root: Root) -> None:
    write_subset(source, root, "x.parquet", num_classes=2, images_per_class=None)
    with root.open_input("x.parquet") as handle, source.open_file("0.parquet") as original:
        file = pq.ParquetFile(handle)
        assert file.schema_arrow.equals(original.schema_arrow)
        metadata = {key.decode(): value.decode() for key, value in file.schema_arrow.metadata.items()}
        group = file.metadata.row_group(0)
        assert group.num_rows == 3
        assert [group.column(i).compression for i in range(3)] == ["ZSTD", "GZIP", "UNCOMPRESSED"]
        assert [group.column(i).has_dictionary_page for i in range(3)] == [False, False, True]
    assert metadata["class_names"] == '["ant", "bee"]'
    assert metadata["source"] == METADATA["source"]
    description = json.loads(metadata["huggingface"])
    assert description["info"]["features"]["label"] == {"names": ["ant", "bee"], "_type": "ClassLabel"}
    assert description["info"]["license"] == "mit"
    index = ParquetSource(root, "").index()
    assert (index.num_classes, index.class_names) == (2, ("ant", "bee"))


def test_without_class_names(source: ParquetSource, root: Root) -> None:
    table = source.root.read_table("0.parquet").replace_schema_metadata({"source": "s"})
    source.root.write_table("plain/0.parquet", table)
    plain = ParquetSource(source.root.child("plain"), "")
    write_subset(plain, root, "x.parquet", num_classes=3, images_per_class=1)
    assert root.read_table("x.parquet").schema.metadata == {b"source": b"s"}


def test_twice_is_once(source: ParquetSource, root: Root, tmp_path: Path) -> None:
    write_subset(source, root, "x.parquet", num_classes=3, images_per_class=2)
    before = (Path(root.uri) / "x.parquet").stat()
    write_subset(source, root, "x.parquet", num_classes=3, images_per_class=2)
    after = (Path(root.uri) / "x.parquet").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    write_subset(source, root, "y.parquet", num_classes=3, images_per_class=2)
    assert root.sha256("y.parquet") == root.sha256("x.parquet")


def test_other_content_is_not_overwritten(source: ParquetSource, root: Root) -> None:
    write_subset(source, root, "x.parquet", num_classes=3, images_per_class=2)
    root.write_bytes("text.parquet", b"no Parquet file")
    for path in ("x.parquet", "text.parquet"):
        before = root.sha256(path)
        with pytest.raises(InputError, match=f"{path} holds something other than this subset"):
            write_subset(source, root, path, num_classes=2, images_per_class=2)
        assert root.sha256(path) == before


@pytest.mark.parametrize(
    ("num_classes", "images_per_class", "message"),
    [
        (0, None, "num_classes is 0; the dataset has 4 classes"),
        (5, None, "num_classes is 5; the dataset has 4 classes"),
        (2, 0, "images_per_class is 0"),
        (4, 3, "images_per_class is 3; class 3 has 2 images"),
    ],
)
def test_bad_numbers(
    source: ParquetSource, root: Root, num_classes: int, images_per_class: int | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_subset(source, root, "x.parquet", num_classes=num_classes, images_per_class=images_per_class)
    assert root.list() == []


def test_files_of_two_kinds_are_refused(source: ParquetSource, root: Root) -> None:
    table = source.root.read_table("1.parquet")
    source.root.write_table("1.parquet", table.append_column("extra", table.column("label")))
    with pytest.raises(InputError, match=r"1\.parquet and 0\.parquet .* differ in their columns"):
        write_subset(ParquetSource(source.root, ""), root, "x.parquet", num_classes=1, images_per_class=None)
