"""Writes a certificate as one page that a lawyer can read, as HTML or PDF.

For example: taggants report runs/HASH/certificates/SUSPECT.json -o certificate.pdf
The page loads nothing. Everything on it is computed again from the certificate, which stays the record.
"""

from __future__ import annotations

import argparse
from pathlib import PurePosixPath

from taggants.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("certificate", metavar="CERTIFICATE", help="a certificate's JSON file, a path or s3:// URI")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="page.html, or page.pdf (needs pip install 'taggants[report]'); default: the certificate's name with .html, here",
    )


def run(given: argparse.Namespace) -> int:
    output = given.output or PurePosixPath(given.certificate).name.removesuffix(".json") + ".html"
    kind = PurePosixPath(output).suffix.lower()
    if kind not in (".html", ".pdf"):
        raise InputError(f"--output {output} must end in .html or .pdf")

    from taggants.detection import Certificate
    from taggants.reporting.certificate_page import as_pdf, render
    from taggants.reporting.progress import say
    from taggants.storage import Root

    root, name = Root.of_file(given.certificate)
    try:
        certificate = Certificate.from_text(root.read_bytes(name))
    except InputError as error:
        raise InputError(f"{root.uri_of(name)}: {error}") from error
    page = render(certificate)
    written, path = Root.of_file(output)
    written.write_bytes(path, as_pdf(page) if kind == ".pdf" else page.encode())
    say(f"written {written.uri_of(path)}")
    return 0
