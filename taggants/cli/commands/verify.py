"""Tests suspects with the secret keys of a crafted run and writes one certificate each.

For example: taggants verify RUN path/to/model.safetensors
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taggants.cli.configuration import add_config_arguments, read_config
from taggants.errors import InputError

if TYPE_CHECKING:
    from taggants.config import Config
    from taggants.detection import Certificate


@dataclass(frozen=True)
class VerifyResult:
    certificates: tuple[Certificate, ...]
    exit_code: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, run_folder=True)
    parser.add_argument(
        "suspects",
        metavar="SUSPECT",
        nargs="*",
        help="what to test: a model.safetensors, or a description file .yaml; docs/verify.md lists all kinds (verify.suspects)",
    )
    parser.add_argument(
        "--label-map",
        metavar="MAP",
        help="where the suspect has other classes than the keys: names (equal ones), fitted (on plain covers), or a file of the "
        "owner's class and the suspect's, .csv or .json (verify.label_map)",
    )
    parser.add_argument(
        "--sequential",
        action="store_true",
        help="insist on a test that asks key by key and stops as soon as it is decided: the registered statistic must be "
        "sequential, and stops so by itself",
    )


def run(given: argparse.Namespace) -> int:
    if given.run_folder is not None and (given.config or given.preset):  # which run it is, is said already
        given.suspects.insert(0, given.run_folder)
        given.run_folder = None
    config = read_config(given)
    update = {"suspects": tuple(given.suspects), "label_map": given.label_map}
    changed = config.verify.model_copy(update={name: value for name, value in update.items() if value})
    return main(config.model_copy(update={"verify": changed}), sequential=given.sequential).exit_code


def main(config: Config, *, sequential: bool = False) -> VerifyResult:
    """Tests every suspect that can be tested, and names the others: exit code 2.

    sequential: refuse a run whose registered statistic needs the answers to all keys.
    """
    from taggants.detection.statistics import ANYTIME
    from taggants.reporting import summaries
    from taggants.reporting.progress import say, say_error
    from taggants.run import Run, read_registration
    from taggants.stages.verify import owner_of, verify_all
    from taggants.suspects import open_suspect

    if not config.verify.suspects:
        raise InputError("no suspect is named; name at least one checkpoint: taggants verify RUN model.safetensors")
    run = Run(config)
    statistic = read_registration(run).statistic
    if sequential and statistic not in ANYTIME:
        raise InputError(
            f"the registered statistic is {statistic!r}, which needs the answers to all keys, and none is chosen afterwards; set "
            "detection.statistic: sequential before the keys are registered"
        )
    refused: list[InputError] = []

    def refuse(error: InputError) -> None:
        refused.append(error)
        say_error(str(error))

    suspects = []
    for text in config.verify.suspects:
        try:
            suspects.append(open_suspect(text, owner_of(run)))
        except InputError as error:
            refuse(error)
    certificates = verify_all(run, suspects, label_map=config.verify.label_map, on_refused=refuse)
    for certificate in certificates:
        say(summaries.certified(run, certificate))
    say(summaries.several_suspects(certificates))
    return VerifyResult(tuple(certificates), exit_code=2 if refused else 0)
