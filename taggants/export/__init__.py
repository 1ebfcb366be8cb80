"""Writes the signed dataset, in the owner's own layout or another, and proves that it differs in the signed pixels alone.

A signed image is stored as its original was: PNG losslessly; JPEG with the original's tables, sampling and metadata. What
readers of a JPEG see is therefore not the signed image itself but its decoded form, which `read_signed` returns.
"""

from __future__ import annotations

from taggants.export.dataset import export_dataset, read_signed
from taggants.export.manifest import MANIFEST_PATH, ExportedFile, ExportManifest, read_manifest, verify_export
from taggants.export.originals import originals_of
from taggants.export.treatment import PNG_WRITTEN_ANEW, Disguise, treatment_of

__all__ = [
    "MANIFEST_PATH",
    "PNG_WRITTEN_ANEW",
    "Disguise",
    "ExportManifest",
    "ExportedFile",
    "export_dataset",
    "originals_of",
    "read_manifest",
    "read_signed",
    "treatment_of",
    "verify_export",
]
