"""Writes a certificate as one page that a lawyer can read, as HTML or PDF.

For example: taggants report runs/HASH/certificates/SUSPECT.json -o certificate.pdf --timestamp registration.tsr
The page loads nothing. Everything on it is computed again from the certificate, which stays the record.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from taggants.cli.commands.timestamp import add_timestamps
from taggants.errors import InputError

if TYPE_CHECKING:
    from taggants.detection import Certificate

_MOST_BYTES = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("certificate", metavar="CERTIFICATE", help="a certificate's JSON file, a path or s3:// URI")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="page.html, or page.pdf (needs pip install 'taggants[report]'); default: the certificate's name with .html, here",
    )
    add_timestamps(parser, "dates the registration or the signing record, as of `taggants check`")


def run(given: argparse.Namespace) -> int:
    output = given.output or PurePosixPath(given.certificate).name.removesuffix(".json") + ".html"
    kind = PurePosixPath(output).suffix.lower()
    if kind not in (".html", ".pdf"):
        raise InputError(f"--output {output} must end in .html or .pdf")

    from taggants.detection import Certificate
    from taggants.reporting.certificate_page import as_pdf, render
    from taggants.reporting.progress import say
    from taggants.storage import Root

    try:
        certificate = Certificate.from_text(_read(given.certificate))
    except InputError as error:
        raise InputError(f"{given.certificate}: {error}") from error
    page = render(certificate, [_dated(path, given.tsa_root, certificate) for path in given.timestamp])
    written, path = Root.of_file(output)
    written.write_bytes(path, as_pdf(page) if kind == ".pdf" else page.encode())
    say(f"written {written.uri_of(path)}")
    return 0


def _dated(path: str, roots: Sequence[str], certificate: Certificate) -> str:
    """Returns what a timestamp says of the certificate's public records, and whether it holds, in one sentence."""
    from taggants.claims.timestamps import Timestamp, check_timestamp

    numbers = {"the registration": certificate.registration.registration_sha256}
    if certificate.signing is not None:
        numbers["the signing record"] = certificate.signing.sha256
    tested_at = datetime.fromisoformat(certificate.created_at)
    try:
        timestamp = Timestamp(path, _read(path), tuple(map(_read, roots)))
        holds, said = check_timestamp(timestamp, numbers, tested_at)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return said if holds else f"{'not proved' if holds is None else 'REFUSED'}: {said}"


def _read(uri: str) -> bytes:
    from taggants.storage import Root

    root, name = Root.of_file(uri)
    if root.size_bytes(name) > _MOST_BYTES:
        raise InputError(f"{root.uri_of(name)} is larger than {_MOST_BYTES} bytes; give the file that it should be")
    return root.read_bytes(name)
