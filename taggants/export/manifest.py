"""What an export consists of. Its manifest is written last: a folder without one is not complete."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

from taggants.data.layouts import LAYOUTS, Layout
from taggants.data.source import dataset_fingerprint
from taggants.errors import InputError
from taggants.export.side_by_side import map_in_order
from taggants.storage import Root

MANIFEST_PATH = "manifest.json"
EXPORT_AGAIN = "export the dataset again into an empty folder."
_FORMAT = "taggants-export/2"


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file of an export, as the manifest lists it."""

    path: str
    sha256: str
    size_bytes: int
    num_rows: int


@dataclass(frozen=True)
class ExportManifest:
    """What an export consists of; of an image folder it lists every image, about 300 bytes each in memory.

    Attributes:
        layout: of the files, a name in `LAYOUTS`.
        source_fingerprint: fingerprint of the dataset that was signed.
        fingerprint: fingerprint of the signed dataset.
        num_rows: rows over all files.
        files: the files, in the order of the sample ids.
        class_names: names by label of an export to another layout than the source's, if the source has names: tars have
            no place of their own for them.
        written_anew: what was done to all images, signed or not: "png", "credentials", "hashes"; see `ImageStorage`.
        signed_sample_ids: which rows of the source were changed, rising. Only in a private manifest: who has it can undo
            the signing.
    """

    layout: str
    source_fingerprint: str
    fingerprint: str
    num_rows: int
    files: tuple[ExportedFile, ...]
    class_names: tuple[str, ...] | None = None
    written_anew: tuple[str, ...] = ()
    signed_sample_ids: tuple[int, ...] | None = None

    @classmethod
    def from_json(cls, value: Any) -> ExportManifest:
        """Returns: the manifest that `write_manifest` wrote.

        Raises:
            InputError: it is none.
        """
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise InputError(f"The manifest is not of the format {_FORMAT}; export the dataset again.")
        LAYOUTS.find(str(value.get("layout")))
        try:
            class_names, signed_sample_ids = value.get("class_names"), value.get("signed_sample_ids")
            return cls(
                layout=value["layout"],
                source_fingerprint=str(value["source_fingerprint"]),
                fingerprint=str(value["fingerprint"]),
                num_rows=int(value["num_rows"]),
                files=tuple(_exported_file(file) for file in value["files"]),
                written_anew=tuple(str(what) for what in value.get("written_anew", ())),
                class_names=None if class_names is None else tuple(class_names),
                signed_sample_ids=None if signed_sample_ids is None else tuple(signed_sample_ids),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError("The manifest lacks fields or has malformed ones; export the dataset again.") from None


def _exported_file(value: dict[str, Any]) -> ExportedFile:
    file = ExportedFile(**value)
    kinds = (type(file.path), type(file.sha256), type(file.size_bytes), type(file.num_rows))
    if kinds != (str, str, int, int):
        raise TypeError("a path or hash that is no text, or a number that is none")
    return file


def write_manifest(destination: Root, manifest: ExportManifest, *, private: bool) -> None:
    """Writes the manifest, one line a file, without a trace of the signed sample ids or class names if it has none.

    Args:
        private: only the owner may read it (mode 0600, local only).
    """
    head: dict[str, Any] = {
        "format": _FORMAT,
        "layout": manifest.layout,
        "source_fingerprint": manifest.source_fingerprint,
        "fingerprint": manifest.fingerprint,
        "num_rows": manifest.num_rows,
    }
    if manifest.class_names is not None:
        head["class_names"] = manifest.class_names
    if manifest.written_anew:
        head["written_anew"] = manifest.written_anew
    if manifest.signed_sample_ids is not None:
        head["signed_sample_ids"] = manifest.signed_sample_ids
    with destination.writing(MANIFEST_PATH, private=private) as sink:
        _write_json(sink, head, manifest.files)


def _write_json(sink: BinaryIO, head: dict[str, Any], files: Iterable[ExportedFile]) -> None:
    sink.write(b"{\n")
    for name, value in head.items():
        sink.write(f" {json.dumps(name)}: {json.dumps(value)},\n".encode())
    sink.write(b' "files": [')  # one by one: the dictionaries of a million files would take a gigabyte
    separator = "\n  "
    for file in files:
        entry = {name: getattr(file, name) for name in ExportedFile.__dataclass_fields__}
        sink.write(f"{separator}{json.dumps(entry)}".encode())
        separator = ",\n  "
    sink.write(b"\n ]\n}\n")


def read_manifest(destination: Root) -> ExportManifest:
    """Returns: the manifest of a complete export.

    Raises:
        InputError: there is none, or it is malformed.
    """
    if not destination.exists(MANIFEST_PATH):
        raise InputError(
            f"{destination.uri} has no {MANIFEST_PATH}, so the export there is not complete; run it again."
        )
    try:
        return ExportManifest.from_json(destination.read_json(MANIFEST_PATH))
    except InputError as error:
        raise InputError(f"{destination.uri}: {error}") from None


def verify_export(destination: Root) -> ExportManifest:
    """Reads an export again and compares it with its manifest: sizes, SHA-256, row counts, fingerprint.

    Returns: the manifest.

    Raises:
        InputError: there is no manifest, or a file is missing or differs from it; the sentence names the file.
    """
    manifest = read_manifest(destination)
    sizes = destination.sizes()
    check = functools.partial(_check_file, destination, LAYOUTS.find(manifest.layout), sizes)
    num_rows = sum(map_in_order(check, manifest.files, num_threads=16))
    if (fingerprint_of(manifest.files), num_rows) != (manifest.fingerprint, manifest.num_rows):
        raise InputError(
            f"{destination.uri_of(MANIFEST_PATH)} has a fingerprint or row count that its files do not; {EXPORT_AGAIN}"
        )
    return manifest


def _check_file(destination: Root, layout: Layout[Any], sizes: dict[str, int], file: ExportedFile) -> int:
    """Returns: the number of rows of a file that is as the manifest says."""
    uri = destination.uri_of(file.path)
    if file.path not in sizes:
        raise InputError(f"{uri} is in the manifest but missing; {EXPORT_AGAIN}")
    if sizes[file.path] != file.size_bytes:
        raise InputError(f"{uri} has {sizes[file.path]} bytes, its manifest says {file.size_bytes}; {EXPORT_AGAIN}")
    sha256, num_rows = layout.hash_and_count(destination, file.path)
    if sha256 != file.sha256:
        raise InputError(f"{uri} has SHA-256 {sha256}, its manifest says {file.sha256}; {EXPORT_AGAIN}")
    if num_rows != file.num_rows:
        raise InputError(f"{uri} has {num_rows} rows, its manifest says {file.num_rows}; {EXPORT_AGAIN}")
    return num_rows


def fingerprint_of(files: Iterable[ExportedFile]) -> str:
    """Returns: the fingerprint of the dataset that the files make up."""
    return dataset_fingerprint((file.path, file.sha256, file.num_rows) for file in files)
