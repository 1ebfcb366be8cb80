"""Signs a dataset: keys, surrogate, crafting, export; then rehearses detection on victims and controls of its own.

Safe to start again after any interruption: what is done is found in the run folder, the rest is done now.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taggants.cli.configuration import add_config_arguments, read_config

if TYPE_CHECKING:
    from taggants.config import Config
    from taggants.crafting.driver import DriveResult
    from taggants.detection import Certificate
    from taggants.stages.export import ExportResult


@dataclass(frozen=True)
class CraftResult:
    """run: uri of the run folder. export: None when a shard failed for good."""

    run: str
    drive: DriveResult
    export: ExportResult | None
    certificates: dict[str, Certificate]

    @property
    def exit_code(self) -> int:
        return 1 if self.drive.failed else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, run_folder=True)


def run(given: argparse.Namespace) -> int:
    return main(read_config(given)).exit_code


def main(config: Config) -> CraftResult:
    """Runs every stage that is not done yet."""
    from taggants import pipeline
    from taggants.evaluation.rehearsal import rehearse
    from taggants.evaluation.transfer import transfer_to_control
    from taggants.reporting import summaries
    from taggants.reporting.progress import say
    from taggants.run import Run
    from taggants.stages.check import check
    from taggants.stages.keys import prepare_keys
    from taggants.stages.ray_connection import ray_cluster

    run = Run(config)
    check(run)
    say(summaries.opening(run))
    registration = prepare_keys(run)
    run.write_config()
    say(summaries.registered(run, registration))
    with ray_cluster(config):
        signing = pipeline.sign(run)
        if signing.export is None:
            return CraftResult(run.root.uri, signing.drive, None, {})
        rehearsal = rehearse(run)
        transfer = transfer_to_control(run, signing.plan)
    say(summaries.rehearsed(run, rehearsal, transfer))
    certificates = {name: outcome.certificate for name, outcome in rehearsal.items()}
    return CraftResult(run.root.uri, signing.drive, signing.export, certificates)
