"""Shows how well clean networks tell the keys apart, and how small a p-value can become if they do not.

By the surrogates, references and controls that are trained, or by checkpoints that you name. Without a key file yet, examples of
the configured family are shown. For example: taggants keys inspect RUN --model other/model.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from taggants.cli.configuration import read_config
from taggants.errors import InputError

if TYPE_CHECKING:
    from taggants.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those beside the configuration's, which `taggants keys` adds."""
    parser.add_argument(
        "--model",
        metavar="CHECKPOINT",
        action="append",
        default=[],
        help="model.safetensors of a clean model, in place of the run's own; may be repeated",
    )


def run(given: argparse.Namespace) -> int:
    return main(read_config(given), given.model)


def main(config: Config, checkpoints: Sequence[str] = ()) -> int:
    """Prints a line a model and draws the keys with their cosines beside the key file."""
    import secrets

    from taggants.evaluation.separation import clean_models, inspect_keys
    from taggants.keys import derive_keys
    from taggants.reporting import summaries
    from taggants.reporting.progress import say
    from taggants.reporting.similarity import draw_similarity
    from taggants.run import Run
    from taggants.stages.key_choice import chooser_of, is_reproduced

    run = Run(config)
    folders = [PurePosixPath(uri).parent.name for uri in checkpoints]
    named = [
        folder if folder and folders.count(folder) == 1 else uri
        for folder, uri in zip(folders, checkpoints, strict=True)
    ]
    models = dict(zip(named, checkpoints, strict=True)) or clean_models(run)
    if not models:
        raise InputError(
            "no surrogate, reference or control of this run is trained yet; name clean models with --model, or run "
            "`taggants craft` first"
        )
    are_drawn = run.keys_root.exists(f"{config.keys.name}.json")
    if are_drawn:
        keys = run.keys
    else:
        secret, choose = secrets.token_bytes(32), chooser_of(run)
        keys = derive_keys(secret, run.key_spec if choose is None else choose(secret, run.key_spec))
    found = inspect_keys(run, keys, models)
    worst = max(found, key=lambda seen: float(seen.pairs.mean()))
    path = f"{config.keys.name}-{'separation' if are_drawn else 'examples'}.png"
    run.keys_root.write_bytes(path, draw_similarity(keys.images, worst.cosines), private=True)  # as secret as the keys
    say(summaries.keys_inspected(keys, found, run.keys_root.uri_of(path), worst.name, are_drawn=are_drawn))
    if are_drawn and keys.spec.choice is not None:
        say(f"choice  the configured pool and networks {'give' if is_reproduced(run) else 'DO NOT give'} these keys")
    return 0
