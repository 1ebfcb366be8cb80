"""Exports a crafted run once more, to a place and in a layout of choice.

For example: taggants export RUN --to s3://bucket/prefix --layout webdataset
Without a layout it is that of the source, whose untouched files are copied (from S3 to S3 by the server). Safe to start again:
right files stay.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taggants.cli.configuration import add_config_arguments, read_config
from taggants.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from taggants.config import Config
    from taggants.export import ExportManifest
    from taggants.storage import Root


@dataclass(frozen=True)
class ExportJobResult:
    destination: Root
    manifest: ExportManifest
    exit_code: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, run_folder=True)
    parser.add_argument("--to", metavar="DESTINATION", help="empty folder or s3:// prefix (export.destination)")
    parser.add_argument("--layout", help="such as webdataset (export.layout)")


def run(given: argparse.Namespace) -> int:
    chosen = {"export.destination": given.to, "export.layout": given.layout}
    settings = [f"{field}={value}" for field, value in chosen.items() if value is not None]
    return main(read_config(given, settings)).exit_code


def main(config: Config) -> ExportJobResult:
    """Exports what is committed; nothing is crafted."""
    from taggants.export import export_dataset
    from taggants.reporting import summaries
    from taggants.reporting.progress import say, stage
    from taggants.run import Run
    from taggants.stages.crafting_settings import disguise_of
    from taggants.stages.export import read_signed_sets
    from taggants.storage import Root

    if config.export.destination is None:
        raise InputError("export.destination is not set; name an empty folder: --to s3://bucket/prefix")
    destination = Root(config.export.destination)
    run = Run(config)
    if not run.root.exists("plan.json"):
        raise InputError(f"run folder {run.root.uri} has no plan; run `taggants craft` with this configuration first")
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
            disguise=disguise_of(config),
            on_progress=lambda done, total: advance(done, ""),
        )
    left_out = () if manifest.layout == run.sources[0].layout else run.sources[0].extras
    say(summaries.exported_again(destination.uri, manifest, len(images), left_out))
    return ExportJobResult(destination, manifest)
