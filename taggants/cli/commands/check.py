"""Checks a certificate as a stranger does: says of each part of the claim whether it holds, does not, or stays open.

For example: taggants check certificate.json --registration registration.json --disclosure disclosure.json --answers *.parquet
Exit code 0: everything that could be checked holds. 1: something does not, so the claim is refused. 2: a file is missing. Without
--suspect and --reference it needs neither torch nor Ray. Take --published and --timestamp from where they were published.
"""

from __future__ import annotations

import argparse
import functools
import re

from taggants.cli.commands.timestamp import add_timestamps
from taggants.errors import InputError

_MOST_BYTES = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("certificate", metavar="CERTIFICATE", help="JSON file, a path or s3:// URI, as all files here")
    parser.add_argument(
        "--registration",
        metavar="FILE",
        required=True,
        help="as it was published before the data; decides what was fixed",
    )
    parser.add_argument("--disclosure", metavar="FILE", help="as `taggants disclose` writes it")
    parser.add_argument(
        "--answers", metavar="FILE", nargs="+", default=[], help="recorded answers of the suspect and of all references"
    )
    parser.add_argument(
        "--published",
        metavar="SHA256",
        action="append",
        default=[],
        help="number that the owner published; may be repeated",
    )
    add_timestamps(
        parser, "RFC 3161 response (.tsr) or OpenTimestamps proof (.ots) of the registration or the signing record"
    )
    parser.add_argument("--suspect", metavar="SUSPECT", help="asks the suspect again, as `taggants verify` names it")
    parser.add_argument(
        "--reference",
        metavar="MODEL",
        action="append",
        default=[],
        help="asks a reference again, likewise; may be repeated",
    )
    parser.add_argument(
        "--covers", metavar="DATASET", help="folder of the dataset that the registered covers are taken from"
    )


def run(given: argparse.Namespace) -> int:
    from taggants.claims.check import Asker, ClaimFiles, check_claim
    from taggants.claims.timestamps import Timestamp
    from taggants.detection import Registration
    from taggants.text import one_line

    for number in given.published:
        if not re.fullmatch("[0-9a-f]{64}", number):
            raise InputError(f"--published is {number!r} but must be 64 lower-case hex digits")
    roots = tuple(_read(path) for path in given.tsa_root)
    registration = _read(given.registration)
    covers = labels = by_rule = None
    if given.covers is not None:
        from taggants.claims.asking import read_covers

        covers, labels, by_rule = read_covers(given.covers, Registration.from_text(registration))
    suspect: Asker | None = None
    references: tuple[Asker, ...] = ()
    if given.suspect is not None or given.reference:
        from taggants.claims.asking import ask

        suspect = None if given.suspect is None else functools.partial(ask, given.suspect, covers)
        references = tuple(functools.partial(ask, named, covers) for named in given.reference)
    findings = check_claim(
        ClaimFiles(
            certificate=_read(given.certificate),
            registration=registration,
            disclosure=None if given.disclosure is None else _read(given.disclosure),
            answers=tuple((path, _read(path)) for path in given.answers),
            timestamps=tuple(Timestamp(path, _read(path), roots) for path in given.timestamp),
            published=tuple(given.published),
            cover_labels=labels,
            covers_by_rule=by_rule,
            suspect=suspect,
            references=references,
        )
    )
    said = {True: "yes", False: "NO", None: "open"}
    for finding in findings:
        print(f"{said[finding.holds]:<6}{finding.subject:<14}{one_line(finding.text)}")
    num_refused, num_open = (sum(finding.holds is holds for finding in findings) for holds in (False, None))
    if num_refused:
        print(f"REFUSED: {num_refused} of {len(findings)} lines do not hold")
        return 1
    print(f"everything that was checked holds; {num_open} of {len(findings)} lines stay open")
    return 0


def _read(uri: str) -> bytes:
    from taggants.storage import Root

    root, name = Root.of_file(uri)
    if root.size_bytes(name) > _MOST_BYTES:
        raise InputError(f"{root.uri_of(name)} is larger than {_MOST_BYTES} bytes; give the file that it should be")
    return root.read_bytes(name)
