"""Creates the secret keys of a configuration and registers the test, without crafting anything.

The registration is public: publish it, or its SHA-256, before the signed dataset.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


def run(given: argparse.Namespace) -> int:
    return main(read_config(given)).exit_code


def main(config: Config) -> KeysResult:
    """Creates the key file unless it exists; a second call changes nothing."""
    from taggants.reporting import summaries
    from taggants.reporting.progress import say
    from taggants.run import Run
    from taggants.stages.check import check
    from taggants.stages.keys import prepare_keys

    run = Run(config)
    check(run)
    run.write_config()
    registration = prepare_keys(run)
    say(summaries.registered(run, registration))
    return KeysResult(run.root.uri, registration)
