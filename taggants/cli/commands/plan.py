"""Says what a run will do and what it will take, before anything is done; creates no key and writes into no run folder.

For example: taggants plan --config taggants.yaml --price 2.50
A few steps of each stage are timed on this machine, which takes half a minute or less. What is found done is not counted.
The power of the test is given for assumed effects (--effect), and for those measured on the run's own victims once it was
rehearsed with a question.
With --probe, two signing sets are crafted for decoy keys and measured on a clean model: a warning before hours of crafting are
spent on surrogates whose perturbations do not carry over. It trains the surrogates and one clean model, which the run then finds.
Digits, torchvision's datasets and subsets are first written as files under output.root/datasets, which the run needs too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import Any

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
    parser.add_argument(
        "--probe",
        action="store_true",
        help="craft two signing sets for decoy keys, and measure what they add on a clean model; trains surrogates and model",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(given: argparse.Namespace) -> int:
    if given.price is not None and not 0 <= given.price < 1e6:
        raise InputError(f"--price {given.price} must be US $ an hour, from 0 to a million")
    config = read_config(given)

    from taggants.estimation.doubts import doubts, gain_in_words, record, wanted_of
    from taggants.estimation.estimate import estimate
    from taggants.estimation.power import ASSUMED_EFFECTS, power_of
    from taggants.estimation.probe import probe
    from taggants.estimation.timing import NO_TIME, time_stages
    from taggants.estimation.work import work_of
    from taggants.reporting import summaries
    from taggants.run import Run
    from taggants.stages.check import check
    from taggants.stages.ray_connection import ray_cluster

    run = Run(config)
    work = work_of(run)
    power = power_of(run, work.classes, given.effect or ASSUMED_EFFECTS)
    found = estimate(run, work, NO_TIME if work.is_done else time_stages(run))
    wanted = wanted_of(config, work.images, work.classes, work.image_size[1], work.images_per_key)
    further: dict[str, Any] = {"power": None if power is None else power.to_json(), "doubts": doubts(wanted)}
    if not given.json:
        print(summaries.planned(found, config, given.price))
        print(summaries.power_table(power, config))
        print(summaries.prospects(record(wanted), doubts(wanted)))
    if given.probe:
        run = Run(config)  # the other one may have no fingerprint
        progress = contextlib.redirect_stdout(sys.stderr) if given.json else contextlib.nullcontext()
        with progress, ray_cluster(config):
            check(run)
            probed = probe(run)
        words = gain_in_words(probed.transfer.gain, wanted)
        further["probe"] = {"model": probed.model, "gains": probed.transfer.gains, "in_words": words}
        if not given.json:
            print(summaries.gained(probed.model, probed.transfer, words))
    if given.json:
        print(json.dumps(found.to_json(given.price) | further))
    return 0
