"""Exports a crafted run once more, to a place and in a layout of choice.

For example: taggants export RUN --to s3://bucket/prefix --layout webdataset
Without a layout it is that of the source, whose untouched files are copied (from S3 to S3 by the server). Safe to start again:
right files stay.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from taggants.cli.configuration import add_config_arguments, read_config

if TYPE_CHECKING:
    from taggants.config import Config
    from taggants.stages.export import ExportCopy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, run_folder=True)
    parser.add_argument("--to", metavar="DESTINATION", help="empty folder or s3:// prefix (export.destination)")
    parser.add_argument("--layout", help="such as webdataset (export.layout)")


def run(given: argparse.Namespace) -> int:
    main(read_config(given, {"export.destination": given.to, "export.layout": given.layout}))
    return 0


def main(config: Config) -> ExportCopy:
    """Exports what is committed; nothing is crafted."""
    from taggants.reporting import summaries
    from taggants.reporting.progress import say
    from taggants.run import Run
    from taggants.stages.export import export_copy

    copy = export_copy(Run(config))
    say(summaries.exported_again(copy))
    return copy
