"""Says what a run will do and what it will take, before anything is done; creates no key and writes into no run folder.

For example: taggants plan --config taggants.yaml --price 2.50
A few steps of each stage are timed on this machine, which takes half a minute or less. What is found done is not counted.
Digits, torchvision's datasets and subsets are first written as files under output.root/datasets, which the run needs too.
"""

from __future__ import annotations

import argparse
import json

from taggants.cli.configuration import add_config_arguments, read_config
from taggants.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, run_folder=True)
    parser.add_argument("--price", type=float, help="US $ a GPU-hour; without GPUs an hour of this machine")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(given: argparse.Namespace) -> int:
    if given.price is not None and not 0 <= given.price < 1e6:
        raise InputError(f"--price {given.price} must be US $ an hour, from 0 to a million")
    config = read_config(given)

    from taggants.estimation.estimate import estimate
    from taggants.estimation.timing import NO_TIME, time_stages
    from taggants.estimation.work import work_of
    from taggants.reporting import summaries
    from taggants.run import Run

    run = Run(config)
    work = work_of(run)
    found = estimate(run, work, NO_TIME if work.is_done else time_stages(run))
    print(json.dumps(found.to_json(given.price)) if given.json else summaries.planned(found, config, given.price))
    return 0
