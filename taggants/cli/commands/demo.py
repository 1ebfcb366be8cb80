"""Signs scikit-learn's digits and tests victims and controls of its own: a few minutes on two CPU cores.

The secret is public, so that everybody sees the same numbers: the certificates show how it works and prove nothing. It runs in
this process; with --ray by two actors of a Ray that it starts.
"""

from __future__ import annotations

import argparse
import json
from typing import Final

from taggants.cli.commands import craft
from taggants.cli.configuration import preset_path
from taggants.errors import InputError

PRESET: Final = "demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ray", action="store_true", help="craft and train side by side with Ray, which takes half the time"
    )
    parser.add_argument(
        "--root", metavar="FOLDER", default=".", help="where the folders runs and secrets go; default: here"
    )


def run(given: argparse.Namespace) -> int:
    from taggants.config import load_config

    if not given.root:
        raise InputError("--root is empty; name a folder, or leave it out for the one you are in")
    pool = "ray" if given.ray else "inline"
    folder = given.root.rstrip("/")
    places = (f"output.root={json.dumps(f'{folder}/runs')}", f"keys.root={json.dumps(f'{folder}/secrets')}")
    return craft.main(load_config(preset_path(PRESET), [f"execution.pool={pool}", *places])).exit_code
