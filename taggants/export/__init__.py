"""Writes the signed dataset, in the owner's own layout or another, and proves that it differs in the signed pixels alone.

A signed image is stored as its original was: PNG losslessly; JPEG with the original's tables, sampling and metadata. What
readers of a JPEG see is therefore not the signed image itself but its decoded form, which `read_signed` returns.
"""

from __future__ import annotations

from taggants.export.dataset import export_dataset, read_signed
from taggants.export.image_storage import PNG_WRITTEN_ANEW, StoragePolicy, image_storage_of
from taggants.export.manifest import MANIFEST_PATH, ExportedFile, ExportManifest, read_manifest, verify_export
from taggants.export.originals import originals_of

__all__ = [
    "MANIFEST_PATH",
    "PNG_WRITTEN_ANEW",
    "ExportManifest",
    "ExportedFile",
    "StoragePolicy",
    "export_dataset",
    "image_storage_of",
    "originals_of",
    "read_manifest",
    "read_signed",
    "verify_export",
]
