"""Writes a disclosure of keys for somebody who is to check a certificate: some of them, all of them, or the secret.

For example: taggants disclose RUN --keys 0-4 -o disclosure.json
Each key comes with a proof that it was registered. A disclosed key is spent: whoever has it can teach it to a model. The others
stay secret, for the next suspect. With --secret the file holds the secret, so that all keys, in every run with this secret, are
spent; only that shows how the labels were drawn.
"""

from __future__ import annotations

import argparse
import re

from taggants.cli.configuration import add_config_arguments, read_config
from taggants.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, run_folder=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--keys", metavar="LIST", help="indices from 0, such as 0-4 or 1,3,7-9; or all")
    what.add_argument("--secret", action="store_true", help="disclose the secret itself, and so every key of it")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        default="disclosure.json",
        help="a new file, mode 0600; default: disclosure.json",
    )


def run(given: argparse.Namespace) -> int:
    from taggants.claims.disclosure import disclosure_of
    from taggants.keys import load_secret
    from taggants.reporting.progress import say
    from taggants.run import Run
    from taggants.storage import Root, encode_json

    run = Run(read_config(given))
    registration, keys = run.registration, run.keys
    if keys.commitment != registration.keys_commitment:
        raise InputError(f"keys {run.config.keys.name!r} are not those registered in {run.uri}; use the right key file")
    secret = load_secret(run.keys_root, f"{run.config.keys.name}.json") if given.secret else None
    indices = [] if given.secret else key_indices(given.keys, registration.num_keys)
    content = encode_json(disclosure_of(registration, keys, indices, secret))
    root, name = Root.of_file(given.output)
    if not root.create_bytes(name, content, private=True):
        raise InputError(f"{root.uri_of(name)} exists and is never overwritten; name another file with -o")
    spent = (
        "the secret: every key of it is spent" if given.secret else f"{len(indices)} of {registration.num_keys} keys"
    )
    say(
        f"disclose {root.uri_of(name)} holds {spent}; give it only to who checks the certificate, with the certificate, the "
        "registration and, with a question, answers/*.parquet that it names"
    )
    return 0


def key_indices(text: str, num_keys: int) -> list[int]:
    """Returns the indices that a list such as "0-4,7" or "all" names, rising.

    Raises:
        InputError: it is no such list, or names a key that does not exist.
    """
    if text == "all":
        return list(range(num_keys))
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip(), re.ASCII)
        first = int(match[1]) if match else 0
        last = int(match[2]) if match and match[2] else first
        if match is None or not first <= last < num_keys:
            raise InputError(f"--keys is {text!r} but must name keys from 0 to {num_keys - 1}, such as 0-4, 1,3 or all")
        found.update(range(first, last + 1))
    return sorted(found)
