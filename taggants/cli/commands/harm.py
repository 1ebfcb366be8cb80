"""Measures what signing costs: victims against controls of a crafted run, with intervals over their seeds.

For example: taggants harm RUN --set evaluation.num_victims=5 --set evaluation.num_controls=5
Models that are not trained yet are trained first. The figures are printed, and written to harm.json in the run folder.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from taggants.cli.configuration import add_config_arguments, read_config

if TYPE_CHECKING:
    from taggants.config import Config
    from taggants.evaluation.harm import HarmReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, run_folder=True)


def run(given: argparse.Namespace) -> int:
    main(read_config(given))
    return 0


def main(config: Config) -> HarmReport:
    from taggants.evaluation.harm import describe_harm, measure_harm
    from taggants.reporting.progress import say
    from taggants.run import Run
    from taggants.stages.ray_connection import ray_cluster

    run = Run(config)
    with ray_cluster(config):
        report = measure_harm(run)
    say(describe_harm(report))
    say(f"written to {run.root.uri_of('harm.json')}")
    return report
