"""Trains one victim (on the signed export) or control (on the clean source) of a crafted run.

For example: taggants train RUN --role control --index 7
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taggants.cli.configuration import add_config_arguments, read_config

if TYPE_CHECKING:
    from taggants.config import Config
    from taggants.training.job import TrainedModel


@dataclass(frozen=True)
class TrainResult:
    """checkpoint: uri of the model.safetensors file, to give to `taggants verify`."""

    model: TrainedModel
    checkpoint: str
    exit_code: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, run_folder=True)
    parser.add_argument("--role", help="victim or control (train.role)")
    parser.add_argument("--index", help="seed offset and name, as in victim-0 (train.index)")


def run(given: argparse.Namespace) -> int:
    chosen = {"train.role": given.role, "train.index": given.index}
    settings = [f"{field}={value}" for field, value in chosen.items() if value is not None]
    return main(read_config(given, settings)).exit_code


def main(config: Config) -> TrainResult:
    """Trains, resumes or finds the model."""
    from taggants.reporting import summaries
    from taggants.reporting.progress import say
    from taggants.run import Run
    from taggants.stages.evaluate import train_suspect
    from taggants.stages.ray_connection import ray_cluster

    run = Run(config)
    with ray_cluster(config):
        model = train_suspect(run, config.train.role, config.train.index)
    checkpoint = run.models.uri_of(model.path)
    say(summaries.trained(model, checkpoint))
    return TrainResult(model, checkpoint)
