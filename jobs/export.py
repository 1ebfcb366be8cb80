"""Exports a crafted run once more, to a place and in a layout of choice: python jobs/export.py --layout webdataset
--set export.destination=s3://bucket/prefix

The layout is parquet, imagefolder or webdataset; without one it is that of the source, whose untouched files are copied
(from S3 to S3 by the server). --layout X is short for --set export.layout=X. Safe to start again: right files stay.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taggants.cli import run_job
from taggants.config import Config
from taggants.errors import InputError
from taggants.export import ExportManifest, export_dataset
from taggants.reporting.progress import say, stage
from taggants.run import Run
from taggants.stages.export import read_signed_sets
from taggants.storage import Root


@dataclass(frozen=True)
class ExportJobResult:
    destination: Root
    manifest: ExportManifest
    exit_code: int = 0


def main(config: Config) -> ExportJobResult:
    """Exports what is committed; nothing is crafted."""
    if config.export.destination is None:
        raise InputError(
            "export.destination is not set; name an empty folder: --set export.destination=s3://bucket/prefix"
        )
    destination = Root(config.export.destination)
    run = Run(config)
    if not run.root.exists("plan.json"):
        raise InputError(f"run folder {run.root.uri} has no plan; run jobs/craft.py with this configuration first")
    plan = run.folder.read_plan()
    images: dict[int, NDArray[np.uint8]] = {}
    for signed_set in read_signed_sets(run, plan):
        images |= signed_set.images
    if run.index.fingerprint != plan.dataset_fingerprint:
        raise InputError(f"the dataset in {run.sources[0].root.uri} changed since it was signed; restore it")
    with stage("export", run.index.num_rows, "rows") as advance:
        manifest = export_dataset(
            run.sources[0],
            images,
            destination,
            layout=config.export.layout,
            private=config.output.private_manifest,
            on_progress=lambda done, total: advance(done, ""),
        )
    say(
        f"export: {destination.uri}, {manifest.num_rows} rows in {len(manifest.files)} files ({manifest.layout}), "
        f"{len(images)} signed, re-read and checked\nexport: fingerprint {manifest.fingerprint}"
    )
    return ExportJobResult(destination, manifest)


def as_settings(words: Sequence[str]) -> list[str]:
    """Returns: the command line with `--layout X` and `--layout=X` as `--set export.layout=X`."""
    settings: list[str] = []
    for word in words:
        if settings and settings[-1] == "--layout":
            settings[-1:] = ["--set", f"export.layout={word}"]
        elif word.startswith("--layout="):
            settings += ["--set", f"export.layout={word.removeprefix('--layout=')}"]
        else:
            settings.append(word)
    return settings


if __name__ == "__main__":
    sys.argv[1:] = as_settings(sys.argv[1:])
    run_job(main, __doc__)
