"""Trains one victim (on the signed export) or control (on the clean source) of a crafted run.

For example: taggants train RUN --role control --index 7
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from taggants.cli.configuration import add_config_arguments, read_config

if TYPE_CHECKING:
    from taggants.config import Config
    from taggants.training.job import TrainedModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, run_folder=True)
    parser.add_argument("--role", help="victim or control (train.role)")
    parser.add_argument("--index", help="seed offset and name, as in victim-0 (train.index)")


def run(given: argparse.Namespace) -> int:
    main(read_config(given, {"train.role": given.role, "train.index": given.index}))
    return 0


def main(config: Config) -> TrainedModel:
    """Trains, resumes or finds the model."""
    from taggants.reporting import summaries
    from taggants.reporting.progress import say
    from taggants.run import Run
    from taggants.stages.evaluate import train_suspect
    from taggants.stages.ray_connection import ray_cluster

    run = Run(config)
    with ray_cluster(config):
        model = train_suspect(run, config.train.role, config.train.index)
    say(summaries.trained(model, run.models.uri_of(model.path)))
    return model
