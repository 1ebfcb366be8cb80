"""Writes the signed dataset in the owner's own layout, and proves that it differs in the signed pixels alone.

A signed image is stored as its original was: PNG losslessly; JPEG with the original's tables, sampling and metadata. What
readers of a JPEG see is therefore not the signed image itself but its decoded form, which `read_signed` returns.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from taggants.data.image_codec import decode_image, encode_like, is_jpeg, replaceable_shape, without_pixels
from taggants.data.parquet_source import ParquetSource, dataset_fingerprint, writer_like
from taggants.errors import InputError
from taggants.storage import Root

MANIFEST_PATH = "manifest.json"
_FORMAT = "taggants-export/1"
_EXPORT_AGAIN = "export the dataset again into an empty folder."
_Signed: TypeAlias = Mapping[int, NDArray[np.uint8]]  # images [C, H, W] by sample id, or by row
_Cell: TypeAlias = dict[str, Any] | bytes


@dataclass(frozen=True)
class ExportedFile:
    """One file of an export, as the manifest lists it."""

    path: str
    sha256: str
    size_bytes: int
    num_rows: int


@dataclass(frozen=True)
class ExportManifest:
    """What an export consists of. Its file is written last: a folder without it is not complete.

    Attributes:
        source_fingerprint: fingerprint of the dataset that was signed.
        fingerprint: fingerprint of the signed dataset.
        num_rows: rows over all files.
        files: the files, sorted by path.
        signed_sample_ids: which rows were changed, rising. Only in a private manifest: who has it can undo the signing.
    """

    source_fingerprint: str
    fingerprint: str
    num_rows: int
    files: tuple[ExportedFile, ...]
    signed_sample_ids: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns: the manifest as JSON values; without a trace of the signed sample ids if it has none."""
        value = {"format": _FORMAT, **dataclasses.asdict(self)}
        if self.signed_sample_ids is None:
            del value["signed_sample_ids"]
        return value

    @classmethod
    def from_json(cls, value: Any) -> ExportManifest:
        """Returns: the manifest that `to_json` gave.

        Raises:
            InputError: it is none.
        """
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise InputError(f"The manifest is not of the format {_FORMAT}; export the dataset again.")
        try:
            signed_sample_ids = value.get("signed_sample_ids")
            return cls(
                source_fingerprint=str(value["source_fingerprint"]),
                fingerprint=str(value["fingerprint"]),
                num_rows=int(value["num_rows"]),
                files=tuple(ExportedFile(**file) for file in value["files"]),
                signed_sample_ids=None if signed_sample_ids is None else tuple(signed_sample_ids),
            )
        except (KeyError, TypeError, ValueError):
            raise InputError("The manifest lacks fields or has malformed ones; export the dataset again.") from None


def export_dataset(
    source: ParquetSource,
    signed: _Signed,
    destination: Root,
    *,
    private: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExportManifest:
    """Writes a dataset with its signed images in place of the originals, checks every file, then writes the manifest.

    File names, schema, metadata, row order, row groups and codecs are the source's. Labels and the encoded bytes of
    untouched rows are copied; signed rows are PNG or JPEG as the original, which they equal in all but the pixels (and
    Huffman tables made for them); a file without signed rows is copied byte for byte. The bytes are a function of
    (source, signed) and the versions of Pillow and pyarrow alone. Running it again finishes a broken-off export, and only
    verifies a complete one.

    Args:
        source: the dataset.
        signed: by sample id the signed image, uint8 [C, H, W], of the shape that `source` reads. One with three
            channels that replaces a greyscale image has to be grey, and is stored in one channel.
        destination: the folder to write, without the source's own files.
        private: list the signed sample ids in the manifest, and let only the owner read that (mode 0600, local only).
        on_progress: called with (rows written, all rows) after each row group or copied file.

    Returns: the manifest.

    Raises:
        InputError: before anything is written: there are no signed images, a sample id is unknown, a shape differs, an
            original is neither a plain PNG nor a plain JPEG (`replaceable_shape`), or the destination holds another
            dataset or the unsigned one.
        RuntimeError: a file written does not read back as intended; there is no manifest then.
    """
    rows_by_file = _check_signed(source, signed)
    source_fingerprint = source.index().fingerprint
    if destination.exists(MANIFEST_PATH):
        manifest = _verify_same(source, rows_by_file, destination, source_fingerprint)
    else:
        _refuse_unsigned_files(source, rows_by_file, destination)
        files = []
        num_rows_written = 0
        for name, row_group_rows in zip(source.file_names, source.row_group_rows, strict=True):
            for num_rows in _write_file(source, name, rows_by_file.get(name, {}), destination):
                num_rows_written += num_rows
                if on_progress is not None:
                    on_progress(num_rows_written, source.num_rows)
            difference = _difference(source, name, rows_by_file.get(name, {}), destination)
            if difference is not None:
                raise RuntimeError(f"{destination.uri_of(name)} does not read back as written: {difference}")
            files.append(
                ExportedFile(name, destination.sha256(name), destination.size_bytes(name), sum(row_group_rows))
            )
        manifest = ExportManifest(source_fingerprint, _fingerprint(files), source.num_rows, tuple(files))
    asked_for = dataclasses.replace(
        manifest, signed_sample_ids=tuple(int(i) for i in sorted(signed)) if private else None
    )
    # A complete export keeps its manifest, unless it is to become public or private now.
    if not destination.exists(MANIFEST_PATH) or asked_for != manifest:
        destination.write_json(MANIFEST_PATH, asked_for.to_json(), private=private)
    return asked_for


def verify_export(destination: Root) -> ExportManifest:
    """Reads an export again and compares it with its manifest: sizes, SHA-256, row counts, fingerprint.

    Returns: the manifest.

    Raises:
        InputError: there is no manifest, or a file is missing or differs from it; the sentence names the file.
    """
    manifest = _read_manifest(destination)
    for file in manifest.files:
        uri = destination.uri_of(file.path)
        if not destination.exists(file.path):
            raise InputError(f"{uri} is in the manifest but missing; {_EXPORT_AGAIN}")
        size_bytes = destination.size_bytes(file.path)
        if size_bytes != file.size_bytes:
            raise InputError(f"{uri} has {size_bytes} bytes, its manifest says {file.size_bytes}; {_EXPORT_AGAIN}")
        sha256 = destination.sha256(file.path)
        if sha256 != file.sha256:
            raise InputError(f"{uri} has SHA-256 {sha256}, its manifest says {file.sha256}; {_EXPORT_AGAIN}")
        num_rows = _num_rows(destination, file.path)
        if num_rows != file.num_rows:
            raise InputError(f"{uri} has {num_rows} rows, its manifest says {file.num_rows}; {_EXPORT_AGAIN}")
    totals = (_fingerprint(manifest.files), sum(file.num_rows for file in manifest.files))
    if totals != (manifest.fingerprint, manifest.num_rows):
        raise InputError(
            f"{destination.uri_of(MANIFEST_PATH)} has a fingerprint or row count that its files do not; {_EXPORT_AGAIN}"
        )
    return manifest


def _check_signed(source: ParquetSource, signed: _Signed) -> Mapping[str, _Signed]:
    """Returns: per file with signed rows, by row in that file, the pixels as they will be stored."""
    if not signed:
        raise InputError("There are no signed images to export; give at least one.")
    rows_by_file: dict[str, dict[int, NDArray[np.uint8]]] = {}
    for _, group in itertools.groupby(sorted(signed), key=lambda sample_id: source.locate(sample_id)[:2]):
        sample_ids = list(group)
        for sample_id, original in zip(sample_ids, source.read_encoded(sample_ids), strict=True):
            file_index = source.locate(sample_id)[0]
            row = sample_id - source.file_offsets[file_index]
            pixels = _stored_pixels(source, sample_id, original, signed[sample_id])
            rows_by_file.setdefault(source.file_names[file_index], {})[row] = pixels
    return rows_by_file


def check_originals(source: ParquetSource, sample_ids: Sequence[int]) -> None:
    """Checks before any crafting that the export will be able to write these images again.

    Raises:
        InputError: an image is neither a plain PNG nor a plain JPEG (`replaceable_shape`), or has other channels than
            `source` reads; the sentence names it. A greyscale JPEG may be read as three channels, since datasets mix
            both: its codec stores their mean.
    """
    for sample_id, original in zip(sample_ids, source.read_encoded(sample_ids), strict=True):
        num_channels, *_ = _stored_shape(source.place_of(sample_id), original)
        is_mixed = is_jpeg(original) and (num_channels, source.channels) == (1, 3)
        if source.channels not in (None, num_channels) and not is_mixed:
            kind = "greyscale" if num_channels == 1 else "RGB"
            raise InputError(
                f"{source.place_of(sample_id)} is {kind} but data.channels = {source.channels}; images to sign must "
                f"have the channels that are read: set data.channels = {num_channels} or convert the dataset."
            )


def read_signed(source: ParquetSource, destination: Root, sample_ids: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """Reads signed images from a complete export as anyone who has the dataset reads them.

    Args:
        source: the dataset that was exported.
        destination: the folder that it was exported to.

    Returns: by sample id uint8 [C, H, W], decoded as `source` decodes; the images may differ in size.

    Raises:
        InputError: the export is not complete, or a sample id is unknown.
    """
    _read_manifest(destination)
    exported = dataclasses.replace(source, root=destination, files=source.file_names)
    encoded = exported.read_encoded(sample_ids)
    return {
        int(sample_id): decode_image(data, source.channels) for sample_id, data in zip(sample_ids, encoded, strict=True)
    }


def _stored_shape(place: str, original: bytes) -> tuple[int, int, int]:
    """Returns: (C, H, W) of an original that can be written again as it is."""
    try:
        return replaceable_shape(original)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def _stored_pixels(
    source: ParquetSource, sample_id: int, original: bytes, image: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Returns: the signed image in the channels of the original; refuses what that cannot hold."""
    place = source.place_of(sample_id)
    num_channels, *size = _stored_shape(place, original)
    read_shape = (source.channels or num_channels, *size)
    if image.dtype != np.uint8 or image.shape != read_shape:
        raise InputError(
            f"The signed image for {place} is {image.dtype} of shape {image.shape}; give uint8 of shape {read_shape}."
        )
    if num_channels > len(image):
        raise InputError(f"{place} is RGB but was signed in greyscale; read the source with channels=3 or none.")
    if num_channels < len(image) and not (image == image[:1]).all():
        raise InputError(f"{place} is greyscale but its signed image has colours; keep its three channels equal.")
    return image[:num_channels]


def _verify_same(
    source: ParquetSource, rows_by_file: Mapping[str, _Signed], destination: Root, source_fingerprint: str
) -> ExportManifest:
    manifest = _read_manifest(destination)
    if manifest.source_fingerprint != source_fingerprint:
        raise InputError(
            f"{destination.uri} holds an export of the dataset {manifest.source_fingerprint}, not of "
            f"{source_fingerprint}; give an empty folder."
        )
    verify_export(destination)
    if any(_difference(source, name, rows_by_file.get(name, {}), destination) for name in source.file_names):
        raise InputError(f"{destination.uri} holds an export with other signed images; give an empty folder.")
    return manifest


def _refuse_unsigned_files(source: ParquetSource, rows_by_file: Mapping[str, _Signed], destination: Root) -> None:
    # Without this, an export into the source's own folder would destroy the originals.
    for name in rows_by_file:
        if (
            destination.exists(name)
            and destination.size_bytes(name) == source.root.size_bytes(name)
            and destination.sha256(name) == source.root.sha256(name)
        ):
            raise InputError(f"{destination.uri_of(name)} is the unsigned file; give an empty folder to export to.")


def _write_file(source: ParquetSource, name: str, rows: _Signed, destination: Root) -> Iterator[int]:
    """Yields: the number of rows of each piece written; the file appears after the last."""
    if not rows:
        source.root.copy(name, destination, name)
        yield _num_rows(source.root, name)
        return
    sink = io.BytesIO()
    with (
        source.open_file(name) as file,
        writer_like(file, sink, file.schema_arrow) as writer,
    ):
        start = 0
        for row_group in range(file.num_row_groups):
            table = file.read_row_group(row_group)
            here = {row - start: image for row, image in rows.items() if start <= row < start + table.num_rows}
            column = table.schema.get_field_index(source.image_column)
            images = _replace_images(table.column(column), here)
            signed_table = table.set_column(column, table.schema.field(column), images)
            writer.write_table(signed_table, row_group_size=max(table.num_rows, 1))
            start += table.num_rows
            yield table.num_rows
    destination.write_bytes(name, sink.getvalue())


def _replace_images(column: pa.ChunkedArray, rows: _Signed) -> pa.ChunkedArray:
    chunks = []
    start = 0
    for chunk in column.chunks:
        is_struct = pa.types.is_struct(chunk.type)
        encoded = chunk.field("bytes") if is_struct else chunk
        values = encoded.to_pylist()
        for row, image in rows.items():
            if start <= row < start + len(values):
                values[row - start] = encode_like(image, like=values[row - start])
        replaced = pa.array(values, encoded.type)
        if is_struct:
            fields = list(chunk.type)
            parts = [replaced if field.name == "bytes" else chunk.field(field.name) for field in fields]
            replaced = pa.StructArray.from_arrays(parts, fields=fields, mask=chunk.is_null())
        chunks.append(replaced)
        start += len(values)
    return pa.chunked_array(chunks, column.type)


def _difference(source: ParquetSource, name: str, rows: _Signed, destination: Root) -> str | None:
    """Returns: the first way in which a file is not the source's with the signed images in place; None if it is."""
    exported = dataclasses.replace(source, root=destination)
    with source.open_file(name) as before, exported.open_file(name) as after:
        if not after.schema_arrow.equals(before.schema_arrow, check_metadata=True):
            return "the schema differs"
        if _layout(after) != _layout(before):
            return "the row groups or codecs differ"
        start = 0
        for row_group in range(before.num_row_groups):
            old, new = before.read_row_group(row_group), after.read_row_group(row_group)
            if not new.drop_columns(source.image_column).equals(old.drop_columns(source.image_column)):
                return f"a label or other column differs in row group {row_group}"
            old_images, new_images = old.column(source.image_column), new.column(source.image_column)
            here = {row - start: image for row, image in rows.items() if start <= row < start + old.num_rows}
            is_untouched = np.ones(old.num_rows, dtype=np.bool_)
            is_untouched[list(here)] = False
            if not new_images.filter(pa.array(is_untouched)).equals(old_images.filter(pa.array(is_untouched))):
                return f"an untouched image differs in row group {row_group}"
            for row, image in here.items():
                if not _is_replaced(old_images[row].as_py(), new_images[row].as_py(), image):
                    return f"row {start + row} does not hold its signed image"
            start += old.num_rows
    return None


def _is_replaced(old: _Cell, new: _Cell, image: NDArray[np.uint8]) -> bool:
    """Returns: whether a cell is the old one but for the pixels, and reads as the image does once it is stored there."""
    old_bytes, old_rest = _split(old)
    new_bytes, new_rest = _split(new)
    try:
        # By pixels, not bytes: another version of the encoder may write the same pixels otherwise.
        expected = decode_image(encode_like(image, like=old_bytes)) if is_jpeg(old_bytes) else image
        return (
            new_rest == old_rest
            and without_pixels(new_bytes) == without_pixels(old_bytes)
            and np.array_equal(decode_image(new_bytes), expected)
        )
    except InputError:  # it cannot be read
        return False


def _split(cell: _Cell) -> tuple[bytes, dict[str, Any]]:
    """Returns: the encoded image, and what else the cell holds (its path)."""
    if isinstance(cell, bytes):
        return cell, {}
    return cell["bytes"] or b"", {key: value for key, value in cell.items() if key != "bytes"}


def _layout(file: pq.ParquetFile) -> list[tuple[int, list[str]]]:
    groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    return [(group.num_rows, [group.column(i).compression for i in range(group.num_columns)]) for group in groups]


def _num_rows(root: Root, path: str) -> int:
    with root.open_input(path) as handle:
        try:
            return int(pq.ParquetFile(handle).metadata.num_rows)
        except pa.ArrowInvalid:
            raise InputError(f"{root.uri_of(path)} is not a whole Parquet file; {_EXPORT_AGAIN}") from None


def _fingerprint(files: Sequence[ExportedFile]) -> str:
    return dataset_fingerprint((file.path, file.sha256, file.num_rows) for file in files)


def _read_manifest(destination: Root) -> ExportManifest:
    if not destination.exists(MANIFEST_PATH):
        raise InputError(
            f"{destination.uri} has no {MANIFEST_PATH}, so the export there is not complete; run it again."
        )
    try:
        return ExportManifest.from_json(destination.read_json(MANIFEST_PATH))
    except InputError as error:
        raise InputError(f"{destination.uri}: {error}") from None
