"""Parquet files of many kinds, rewritten: what is not a signed image stays as it is, byte for byte."""

from __future__ import annotations

import decimal
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taggants.data.image_codec import decode_image, encode_png
from taggants.data.layouts.parquet.delta import read_delta, write_delta
from taggants.data.layouts.parquet.layout import ParquetLayout
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.data.layouts.parquet.thrift import read_struct, write_struct
from taggants.data.signed_images import ImageStorage, Replacement
from taggants.errors import InputError
from taggants.export import export_dataset
from taggants.storage import Root
from tests.export.datasets import IMAGE_TYPE, encoded, parquet_bytes, pixels

NUM_ROWS = 50
# Alone, first and last of a row group, neighbours.
SIGNED = (0, 7, 8, 19, 20, 49)

WRITERS: dict[str, dict[str, Any]] = {
    "as pyarrow does": {},
    "without dictionaries": {"use_dictionary": False},
    "version 2 pages": {"data_page_version": "2.0", "compression": "zstd"},
    "version 2 pages, uncompressed": {"data_page_version": "2.0", "compression": "none", "use_dictionary": False},
    "small pages": {"data_page_size": 500, "write_batch_size": 3, "dictionary_pagesize_limit": 700},
    "page index and checksums": {
        "write_page_index": True,
        "write_page_checksum": True,
        "data_page_size": 400,
        "write_batch_size": 2,
        "use_dictionary": ["label"],
    },
    "page index of dictionaries": {"write_page_index": True, "data_page_size": 200, "write_batch_size": 2},
    "delta, brotli": {
        "use_dictionary": False,
        "column_encoding": {"label": "DELTA_BINARY_PACKED", "tags.list.element": "DELTA_BYTE_ARRAY"},
        "compression": "brotli",
    },
    "lengths as deltas": {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}},
    "lz4, no statistics": {"compression": "lz4", "write_statistics": False},
    "sorted, int96, decimals as integers": {
        "sorting_columns": [pq.SortingColumn(2)],
        "use_deprecated_int96_timestamps": True,
        "store_decimal_as_integer": True,
        "compression": "gzip",
    },
    "names of list items": {"use_compliant_nested_type": False},
    "without Arrow's schema": {"store_schema": False},
}


def table(*, with_nulls: bool = False, with_copies: bool = False) -> pa.Table:
    images: list[Any] = [encode_png(image) for image in pixels(NUM_ROWS, (3, 5, 4))]
    if with_copies:  # of one image that is signed and one that is not
        images[8] = images[9] = images[30] = images[7]
    cells: list[Any] = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    if with_nulls:
        cells[3], cells[4] = None, {"bytes": None, "path": "4.png"}
    return pa.table(
        {
            "image": pa.array(cells, IMAGE_TYPE),
            "label": pa.array(np.arange(NUM_ROWS) // 10),
            "tags": pa.array([[f"tag{i % 3}"] * (i % 4) for i in range(NUM_ROWS)], pa.list_(pa.string())),
            "price": pa.array([decimal.Decimal(i) / 8 for i in range(NUM_ROWS)], pa.decimal128(9, 3)),
            "time": pa.array(range(NUM_ROWS), pa.timestamp("us")),
        }
    )


def written(source: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, source.schema, **options) as writer:
        writer.write_table(source, row_group_size=20)
        writer.add_key_value_metadata({"license": "CC-BY", "content_defined_chunking": "true"})
    return sink.getvalue()


def signed_images() -> dict[int, np.ndarray]:
    new = pixels(len(SIGNED), (3, 5, 4), seed=9)
    return dict(zip(SIGNED, new, strict=True))


def export(data: bytes, tmp_path: Path) -> bytes:
    root = Root(str(tmp_path / "source"))
    root.write_bytes("a.parquet", data)
    source = ParquetSource(root, "")
    ParquetLayout().check_rewritable(source, "a.parquet")
    export_dataset(source, signed_images(), Root(str(tmp_path / "signed")))
    return Root(str(tmp_path / "signed")).read_bytes("a.parquet")


@pytest.mark.parametrize("kind", ["plain", "with_nulls", "with_copies"])
@pytest.mark.parametrize("writer", WRITERS)
def test_only_signed_images_change(writer: str, kind: str, tmp_path: Path) -> None:
    original = table(**({} if kind == "plain" else {kind: True}))
    before = written(original, **WRITERS[writer])
    after = export(before, tmp_path)
    old, new = (pq.ParquetFile(io.BytesIO(data)) for data in (before, after))
    assert new.schema.equals(old.schema)
    assert new.schema_arrow.equals(old.schema_arrow, check_metadata=True)
    assert new.metadata.metadata == old.metadata.metadata
    assert new.metadata.created_by == old.metadata.created_by
    new_table = new.read()
    assert new_table.drop_columns("image").equals(old.read().drop_columns("image"))
    for row, (a, b) in enumerate(zip(old.read()["image"].to_pylist(), new_table["image"].to_pylist(), strict=True)):
        if row in SIGNED:
            assert np.array_equal(decode_image(b["bytes"]), signed_images()[row])
            assert a["path"] == b["path"]
        else:
            assert a == b
    check_metadata_of(old, new)
    for i in range(old.num_row_groups):
        for k in range(1, old.metadata.num_columns):
            assert chunk(before, old, i, k) == chunk(after, new, i, k)
    check_pages_by_hand(after, new)


def chunk(data: bytes, file: pq.ParquetFile, group: int, column: int) -> bytes:
    metadata = file.metadata.row_group(group).column(column)
    start = metadata.dictionary_page_offset or metadata.data_page_offset
    return data[start : start + metadata.total_compressed_size]


def check_metadata_of(old: pq.ParquetFile, new: pq.ParquetFile) -> None:
    """All but sizes, places and bounds is as it was; the bounds hold."""
    for i in range(old.num_row_groups):
        before, after = old.metadata.row_group(i), new.metadata.row_group(i)
        assert after.sorting_columns == before.sorting_columns
        assert after.num_rows == before.num_rows
        assert after.total_byte_size == sum(after.column(k).total_uncompressed_size for k in range(after.num_columns))
        for k in range(before.num_columns):
            a, b = before.column(k), after.column(k)
            for name in (
                "path_in_schema",
                "physical_type",
                "compression",
                "encodings",
                "num_values",
                "has_offset_index",
            ):
                assert getattr(a, name) == getattr(b, name)
            if k:
                assert a.statistics == b.statistics
        statistics = after.column(0).statistics
        if statistics is not None and statistics.has_min_max:
            held = [cell["bytes"] for cell in new.read_row_group(i)["image"].to_pylist() if cell and cell["bytes"]]
            assert (statistics.min, statistics.max) == (min(held), max(held))


def check_pages_by_hand(data: bytes, file: pq.ParquetFile) -> None:
    """The sizes in the footer are those of the pages; the offset index names each page's place, size and first row."""
    footer_size = int.from_bytes(data[-8:-4], "little")
    footer, _ = read_struct(data, len(data) - 8 - footer_size)
    for group in footer.elements(4):
        for column in group.elements(1):
            metadata = column.value(3)
            position = metadata.value(11) or metadata.value(9)
            end = position + metadata.value(7)
            places, row, uncompressed = [], 0, 0
            while position < end:
                header, body = read_struct(data, position)
                details = header.value(5) or header.value(8)
                uncompressed += body - position + header.value(2)
                size = body - position + header.value(3)
                if details is not None:
                    places.append((position, size, row))
                    row += details.value(1)
                position += size
            assert position == end
            assert uncompressed == metadata.value(6)
            if metadata.value(3) != [b"tags"] and column.value(4) and b"tags" not in metadata.elements(3):
                index, _ = read_struct(data, column.value(4))
                assert [tuple(place.value(i) for i in (1, 2, 3)) for place in index.elements(1)] == places


def test_page_checksums_are_right(tmp_path: Path) -> None:
    after = export(written(table(), **WRITERS["page index and checksums"]), tmp_path)
    file = pq.ParquetFile(io.BytesIO(after), page_checksum_verification=True)
    assert file.read().num_rows == NUM_ROWS


def test_no_pages_but_those_of_signed_rows_change(tmp_path: Path) -> None:
    options = {"use_dictionary": False, "data_page_size": 1, "write_batch_size": 1, "write_statistics": False}
    before = written(table(), **options)
    after = export(before, tmp_path)
    pages = [list(pages_of(data)) for data in (before, after)]
    assert [a != b for a, b in zip(*pages, strict=True)] == [row in SIGNED for row in range(NUM_ROWS)]


def pages_of(data: bytes) -> Iterator[bytes]:
    """Yields: each data page of the first column."""
    footer, _ = read_struct(data, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
    for group in footer.elements(4):
        metadata = group.elements(1)[0].value(3)
        position = metadata.value(9)
        end = position + metadata.value(7)
        while position < end:
            header, body = read_struct(data, position)
            yield data[position : body + header.value(3)]
            position = body + header.value(3)


def test_a_footer_is_written_as_it_was() -> None:
    for options in WRITERS.values():
        data = written(table(), **options)
        start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        struct, end = read_struct(data, start)
        assert (end, write_struct(struct)) == (len(data) - 8, data[start:-8])


def test_a_dictionary_keeps_no_image_that_no_row_holds(tmp_path: Path) -> None:
    images = [encode_png(image) for image in pixels(3, (3, 5, 4))]
    cells = pa.array([{"bytes": images[i], "path": ""} for i in (0, 1, 1, 2, 1)], IMAGE_TYPE)
    options = {"use_dictionary": True, "compression": "none", "write_statistics": False}
    data = written(pa.table({"image": cells, "label": [0, 1, 0, 1, 0]}), **options)
    root = Root(str(tmp_path / "source"))
    root.write_bytes("a.parquet", data)
    new = dict(zip((1, 2, 4), pixels(3, (3, 5, 4), seed=9), strict=True))
    export_dataset(ParquetSource(root, ""), new, Root(str(tmp_path / "signed")))
    after = (tmp_path / "signed" / "a.parquet").read_bytes()
    assert [data.count(image) for image in images] == [1, 1, 1]
    assert [after.count(image) for image in images] == [1, 0, 1]
    held = [cell["bytes"] for cell in pq.read_table(io.BytesIO(after))["image"].to_pylist()]
    assert held == [images[0], encode_png(new[1]), encode_png(new[2]), images[2], encode_png(new[4])]


@pytest.mark.parametrize("says_length", [True, False])
def test_bloom_filters_of_images_go_from_all_files(says_length: bool, tmp_path: Path) -> None:
    def offset_and_length(data: bytes, column: int) -> tuple[int | None, int | None]:
        footer, _ = read_struct(data, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
        metadata = footer.elements(4)[0].elements(1)[column].value(3)
        return metadata.value(14), metadata.value(15)

    filters = {"image.bytes": {"ndv": NUM_ROWS}, "label": {"ndv": NUM_ROWS}}
    before = written(table(), bloom_filter_options=filters)
    if not says_length:
        start = len(before) - 8 - int.from_bytes(before[-8:-4], "little")
        footer, _ = read_struct(before, start)
        for group in footer.elements(4):
            for column in group.elements(1):
                column.value(3).pop(15, None)
        changed = write_struct(footer)
        before = before[:start] + changed + len(changed).to_bytes(4, "little") + b"PAR1"
    offset, _ = offset_and_length(before, 0)
    assert offset is not None
    bits = before[offset : offset + 200]
    root = Root(str(tmp_path / "source"))
    for name in "ab":
        root.write_bytes(f"{name}.parquet", before)
    export_dataset(ParquetSource(root, ""), signed_images(), Root(str(tmp_path / "signed")))
    for name in "ab":
        after = (tmp_path / "signed" / f"{name}.parquet").read_bytes()
        assert offset_and_length(after, 0) == (None, None)
        assert bits not in after
        label = pq.ParquetFile(io.BytesIO(before)).metadata.row_group(0).column(2).path_in_schema
        assert label == "label"
        old_place, new_place = (offset_and_length(data, 2)[0] for data in (before, after))
        assert old_place is not None
        assert new_place is not None
        assert before[old_place:][:32] == after[new_place:][:32]
        assert pq.read_table(io.BytesIO(after)).drop_columns("image").equals(table().drop_columns("image"))


def test_row_groups_above_2_gib_are_written_page_by_page(tmp_path: Path) -> None:
    """Sizes as of one, in a file that says so and is small: what is read and written is pages."""
    large = 5 * 2**30

    def sizes(data: bytes) -> list[tuple[int, int]]:
        footer, _ = read_struct(data, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
        return [(group.value(2), group.elements(1)[0].value(3).value(6)) for group in footer.elements(4)]

    plain = written(table())
    start = len(plain) - 8 - int.from_bytes(plain[-8:-4], "little")
    footer, _ = read_struct(plain, start)
    for group in footer.elements(4):
        metadata = group.elements(1)[0].value(3)
        group.change(2, group.value(2) + large)
        metadata.change(6, metadata.value(6) + large)
    data = write_struct(footer)
    after = export(plain[:start] + data + len(data).to_bytes(4, "little") + b"PAR1", tmp_path / "large")
    expected = sizes(export(plain, tmp_path / "plain"))
    assert sizes(after) == [(whole + large, images + large) for whole, images in expected]
    held = pq.ParquetFile(io.BytesIO(after)).read()["image"].to_pylist()
    for row, image in signed_images().items():
        assert np.array_equal(decode_image(held[row]["bytes"]), image)


def test_an_encoding_that_cannot_be_written_again_is_found_before_crafting(tmp_path: Path) -> None:
    options = {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_BYTE_ARRAY"}}
    root = Root(str(tmp_path))
    root.write_bytes("a.parquet", written(table(), **options))
    with pytest.raises(InputError, match=r"a.parquet cannot be signed: .* encoding number 7; write them as PLAIN"):
        ParquetLayout().check_rewritable(ParquetSource(root, ""), "a.parquet")


@given(st.lists(st.integers(0, 2**31 - 1), max_size=300), st.sampled_from([(128, 4), (256, 1), (64, 8)]))
def test_integers_as_deltas(values: list[int], shape: tuple[int, int]) -> None:
    data = write_delta(values, shape)
    assert read_delta(data + b"rest", 300) == (values, shape, len(data))


def test_long_images_lose_their_bounds_as_arrow_leaves_them_out(tmp_path: Path) -> None:
    images = [encode_png(image) for image in pixels(4, (3, 4, 4))]
    source = pa.table(
        {"image": pa.array([{"bytes": i, "path": ""} for i in images], IMAGE_TYPE), "label": [0, 1, 2, 3]}
    )
    root = Root(str(tmp_path / "source"))
    root.write_bytes("a.parquet", written(source, write_page_index=True))
    sink = io.BytesIO()
    layout, parquet = ParquetLayout(), ParquetSource(root, "")
    noise = np.random.default_rng(0).integers(0, 256, (3, 4, 4), dtype=np.uint8)
    list(layout.rewrite(parquet, "a.parquet", {1: Replacement(noise, ImageStorage())}, sink))
    assert pq.ParquetFile(sink).metadata.row_group(0).column(0).statistics.has_min_max


@pytest.mark.parametrize("name", ["list_item.parquet", "int96.parquet", "key_value_metadata.parquet"])
def test_files_that_once_failed(name: str, cases: Path, tmp_path: Path) -> None:
    before = (cases / name).read_bytes()
    root = Root(str(tmp_path / "source"))
    root.write_bytes("a.parquet", before)
    source = ParquetSource(root, "")
    image = source.read_sized([2])[0]
    export_dataset(source, {2: 255 - image}, Root(str(tmp_path / "signed")))
    after = (tmp_path / "signed" / "a.parquet").read_bytes()
    old, new = (pq.ParquetFile(io.BytesIO(data)) for data in (before, after))
    check_metadata_of(old, new)
    assert new.schema.equals(old.schema)
    assert new.metadata.metadata == old.metadata.metadata
    changed = [k for k in range(1, old.metadata.num_columns) if chunk(before, old, 0, k) != chunk(after, new, 0, k)]
    assert not changed


def test_statistics_by_which_pyarrow_ends_the_process_do_not_end_it(tmp_path: Path) -> None:
    """Of a column that is neither image nor label, in a row group without signed images: read when the export is checked."""
    source = Root(str(tmp_path))
    cells = [{"bytes": encoded(image, "PNG"), "path": "x"} for image in pixels(40)]
    table = pa.table({"image": cells, "label": [0, 1] * 20, "tags": [["a"], []] * 20})
    data = parquet_bytes(table, row_group_size=20, use_dictionary=False)
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer, _ = read_struct(data, start)
    tags = footer.elements(4)[1].elements(1)[-1].value(3)
    tags.value(16).elements(3).append(0)  # a level more than there is
    changed = write_struct(footer)
    source.write_bytes("train.parquet", data[:start] + changed + len(changed).to_bytes(4, "little") + b"PAR1")
    opened = ParquetSource(source, "train.parquet", channels=3)
    with pytest.raises(InputError, match=rf"^{source.uri_of('train.parquet')} is damaged"):
        export_dataset(opened, {1: pixels(1, seed=8)[0]}, Root(str(tmp_path / "export")))
