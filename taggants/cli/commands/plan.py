"""Says what a run will do and what it will take, before anything is done; creates no key and writes into no run folder.

For example: taggants plan --config taggants.yaml --price 2.50
A few steps of each stage are timed on this machine, which takes half a minute or less. What is found done is not counted.
The power of the test is given for assumed effects (--effect), and for those measured on the run's own victims once it was
rehearsed with a question.
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
    parser.add_argument(
        "--effect",
        type=float,
        action="append",
        metavar="Z",
        help="show the test's power if labels are favoured by Z standard deviations of a key's evidence; may be given several "
        "times (default: 0.5, 1, 1.5, 2)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(given: argparse.Namespace) -> int:
    if given.price is not None and not 0 <= given.price < 1e6:
        raise InputError(f"--price {given.price} must be US $ an hour, from 0 to a million")
    config = read_config(given)

    from taggants.estimation.doubts import doubts, record, wanted_of
    from taggants.estimation.estimate import estimate
    from taggants.estimation.power import ASSUMED_EFFECTS, power_of
    from taggants.estimation.timing import NO_TIME, time_stages
    from taggants.estimation.work import work_of
    from taggants.reporting import summaries
    from taggants.run import Run

    run = Run(config)
    work = work_of(run)
    power = power_of(run, work.classes, given.effect or ASSUMED_EFFECTS)
    found = estimate(run, work, NO_TIME if work.is_done else time_stages(run))
    wanted = wanted_of(config, work.images, work.classes, work.image_size[1], work.images_per_key)
    if given.json:
        further = {"power": None if power is None else power.to_json(), "doubts": doubts(wanted)}
        print(json.dumps(found.to_json(given.price) | further))
    else:
        print(summaries.planned(found, config, given.price))
        print(summaries.power_table(power, config))
        print(summaries.prospects(record(wanted), doubts(wanted)))
    return 0
