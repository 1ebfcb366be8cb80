from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from taggants.data.layouts.parquet.source import ParquetSource
from taggants.errors import InputError
from taggants.export import (
    ExportManifest,
    export_dataset,
    verify_export,
)
from taggants.storage import Root
from tests.export.datasets import NUM_ROWS


def test_manifest(source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root) -> None:
    manifest = export_dataset(source, signed, destination)
    files = []
    for name, num_rows in NUM_ROWS.items():
        data = destination.read_bytes(name)
        sha256 = hashlib.sha256(data).hexdigest()
        files.append({"path": name, "sha256": sha256, "size_bytes": len(data), "num_rows": num_rows})
    assert destination.read_json("manifest.json") == {
        "format": "taggants-export/2",
        "layout": "parquet",
        "source_fingerprint": source.index().fingerprint,
        "fingerprint": ParquetSource(destination, "").index().fingerprint,
        "num_rows": 16,
        "files": files,
    }
    assert ExportManifest.from_json(destination.read_json("manifest.json")) == manifest == verify_export(destination)


def test_a_private_manifest_lists_the_signed_rows(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root
) -> None:
    numpy_ids = {np.int64(sample_id): image for sample_id, image in signed.items()}
    manifest = export_dataset(source, numpy_ids, destination, private=True)
    assert manifest.signed_sample_ids == (0, 2, 6, 13)
    assert destination.read_json("manifest.json")["signed_sample_ids"] == [0, 2, 6, 13]
    assert stat.S_IMODE((Path(destination.uri) / "manifest.json").stat().st_mode) == 0o600
    assert verify_export(destination) == manifest
    # Asked for a public one now, no trace of them is left.
    assert export_dataset(source, signed, destination).signed_sample_ids is None
    assert "signed_sample_ids" not in destination.read_json("manifest.json")


@pytest.mark.parametrize("damage", ["missing", "longer", "flipped", "not listed", "manifest", "format", "fields"])
def test_verifying_names_what_is_wrong(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root, damage: str
) -> None:
    export_dataset(source, signed, destination)
    data = destination.read_bytes("b.parquet")
    manifest = destination.read_json("manifest.json")
    message = {
        "missing": r"b\.parquet is in the manifest but missing",
        "longer": r"b\.parquet has \d+ bytes, its manifest says",
        "flipped": r"b\.parquet has SHA-256 .*, its manifest says",
        "not listed": r"manifest\.json has a fingerprint or row count",
        "manifest": r"b\.parquet has 5 rows, its manifest says 6",
        "format": "not of the format taggants-export/2",
        "fields": "lacks fields or has malformed ones",
    }[damage]
    if damage == "missing":
        destination.delete("b.parquet")
    elif damage == "longer":
        destination.write_bytes("b.parquet", data + b"\0")
    elif damage == "flipped":
        destination.write_bytes("b.parquet", data[:50] + bytes([data[50] ^ 1]) + data[51:])
    elif damage == "not listed":
        del manifest["files"][1]
    elif damage == "manifest":
        manifest["files"][1]["num_rows"] = 6
    elif damage == "format":
        manifest["format"] = "taggants-export/1"
    elif damage == "fields":
        manifest["files"][1]["extra"] = 1
    destination.write_json("manifest.json", manifest)
    with pytest.raises(InputError, match=message):
        verify_export(destination)
    with pytest.raises(InputError, match=message):
        export_dataset(source, signed, destination)
