"""Parses the command line, runs the command and turns what it raises into exit codes.

Exit code 0: done. 2: bad input, one sentence on stderr. 1: a shard failed for good, or a bug (with its traceback). 130:
interrupted.
"""

from __future__ import annotations

import argparse
import errno
import io
import sys
from collections.abc import Sequence

from taggants import __version__
from taggants.cli.commands import COMMANDS
from taggants.errors import FailedShards, InputError


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of `taggants` with one subparser a command."""
    parser = argparse.ArgumentParser(
        prog="taggants",
        description="Sign an image dataset so that models trained on it can be recognised from outside.",
        epilog="Start with `taggants demo`. Every command explains itself: taggants COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"taggants {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        assert module.__doc__ is not None, "the docstring is the help"
        command = commands.add_parser(
            name,
            help=module.__doc__.partition("\n")[0].rstrip("."),
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, command=command)
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command line (without words, that of this process) and returns its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of what its encoding lacks, as stderr does
    parser = build_parser()
    given, unparsed = parser.parse_known_args(words)
    if unparsed and "suspects" in given and not any(word.startswith("-") for word in unparsed):
        given.suspects += unparsed  # argparse loses positional words that stand after an option
    elif unparsed:
        given.command.error(f"unrecognised arguments: {' '.join(unparsed)}")
    try:
        return int(given.run(given))
    except (InputError, FailedShards) as error:
        from taggants.reporting.progress import say_error

        say_error(str(error))
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        from taggants.reporting.progress import say_error

        place = f" ({error.filename})" if error.filename else ""
        say_error(f"the disk is full{place}; make room, then run the same command again to go on")
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
