"""Creates the secret keys of a configuration and registers the test, without crafting anything.

The registration is public: publish it, or its SHA-256, before the signed dataset.

So that nobody can say you tried secrets until their labels suited, let public randomness draw the labels: `taggants keys commit`
names a source and a round that is still to come, and writes a commitment to publish; `taggants keys draw` takes the value once it
is known, and registers the test.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taggants.cli.commands import keys_inspect
from taggants.cli.configuration import add_config_arguments, read_config

if TYPE_CHECKING:
    from taggants.config import Config
    from taggants.detection import Registration


@dataclass(frozen=True)
class KeysResult:
    run: str
    registration: Registration
    exit_code: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    actions = parser.add_subparsers(title="actions", metavar="ACTION")
    commit = actions.add_parser(
        "commit",
        help="draw the secret, and commit to it before public randomness draws the labels",
        description="Draws the secret, and writes a commitment to publish before the source gives out the value of the round.",
    )
    _add_config_arguments(commit)
    commit.add_argument(
        "--source", required=True, help="who gives out the value, such as 'drand mainnet' or 'NIST beacon'"
    )
    commit.add_argument("--round", required=True, help="which of its values: a number or date that is still to come")
    commit.set_defaults(run=run_commit)
    draw = actions.add_parser(
        "draw",
        help="draw the labels from the secret and the public value, and register the test",
        description="Draws the labels from the secret and the value that the source gave out, once, and registers the test.",
    )
    _add_config_arguments(draw)
    draw.add_argument("value", metavar="VALUE", help="as the source publishes it")
    draw.set_defaults(run=run_draw)
    inspect = actions.add_parser(
        "inspect",
        help="show how well clean networks tell the keys apart",
        description=keys_inspect.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_config_arguments(inspect, run_folder=True)
    keys_inspect.add_arguments(inspect)
    inspect.set_defaults(run=keys_inspect.run)
    export = actions.add_parser(
        "export",
        help="write the images of the test as files without labels, for suspects that take files by hand",
        description="Writes all images that a suspect is shown, as PNG under shuffled names, and answers.csv to be filled in "
        "with its best labels, or with scores: then taggants verify RUN answers.csv",
    )
    export.add_argument("run_folder", metavar="RUN", help="folder of a crafted run, a path or s3:// URI")
    export.add_argument(
        "--to", metavar="DIR", required=True, help="empty folder or s3:// prefix, not in the run folder"
    )
    export.set_defaults(run=run_export)


def _add_config_arguments(action: argparse.ArgumentParser, *, run_folder: bool = False) -> None:
    """Those of the command, which may stand before the name of the action, too: no default of the action overrides them."""
    add_config_arguments(action, run_folder=run_folder)
    for argument in action._actions:
        argument.default = argparse.SUPPRESS


def run(given: argparse.Namespace) -> int:
    return main(read_config(given)).exit_code


def main(config: Config, value: str | None = None) -> KeysResult:
    """Creates the key file unless it exists, or draws its labels from a public value; a second call changes nothing."""
    from taggants.reporting import summaries
    from taggants.reporting.progress import say
    from taggants.run import Run
    from taggants.stages.check import check
    from taggants.stages.keys import draw_keys_labels, prepare_keys

    run = Run(config)
    check(run)
    registration = prepare_keys(run) if value is None else draw_keys_labels(run, value)
    run.write_config()
    say(summaries.registered(run, registration))
    return KeysResult(run.root.uri, registration)


def run_draw(given: argparse.Namespace) -> int:
    return main(read_config(given), given.value).exit_code


def run_commit(given: argparse.Namespace) -> int:
    from taggants.reporting.progress import say
    from taggants.run import Run
    from taggants.stages.check import check
    from taggants.stages.keys import COMMITMENT_PATH, commit_keys

    run = Run(read_config(given))
    check(run)
    commitment = commit_keys(run, given.source, given.round)
    run.write_config()
    say(
        f"keys    secret in {run.keys_root.uri_of(run.config.keys.name + '.json')}; labels wait for {commitment.source}, round "
        f"{commitment.round}\n"
        f"publish {run.root.uri_of(COMMITMENT_PATH)} before that round, where it gets a date, or this number in it:\n"
        f"        {commitment.sha256}\n"
        "then    taggants keys draw VALUE, with the same configuration"
    )
    return 0


def run_export(given: argparse.Namespace) -> int:
    from taggants.reporting.progress import say
    from taggants.run import Run
    from taggants.stages.query_export import TEMPLATE, export_queries
    from taggants.stages.verify import checked_registration
    from taggants.storage import Root

    run = Run.open(given.run_folder)
    num = export_queries(run, checked_registration(run), given.to)
    say(
        f"keys    {num} images in {Root(given.to).uri}, shuffled and without labels; fill in {TEMPLATE} there, a class number or "
        f"name in each place, best first,\n        and then: taggants verify {run.uri} {Root(given.to).uri_of(TEMPLATE)}"
    )
    return 0
