"""Writes what a time-stamping service needs to date a run's public records; nothing is sent.

For example: taggants timestamp RUN
For the commitment, the registration and the signing record, where they exist, two files are written beside them:
timestamps/NAME.canonical.json, whose SHA-256 is the number of the record (for `ots stamp`), and NAME.tsq, an RFC 3161 request.
Keep what the services answer, NAME.canonical.json.ots and NAME.tsr, for `taggants check --timestamp`.
"""

from __future__ import annotations

import argparse

from taggants.cli.configuration import add_config_arguments, read_config


def add_timestamps(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Adds the options that hand in what the services answered; meaning: what a timestamp is for in this command."""
    parser.add_argument("--timestamp", metavar="FILE", action="append", default=[], help=f"{meaning}; may be repeated")
    parser.add_argument(
        "--tsa-root",
        metavar="FILE",
        action="append",
        default=[],
        help="certificates in PEM form that the time-stamping authority is trusted by; may be repeated",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser, run_folder=True)


def run(given: argparse.Namespace) -> int:
    from taggants.claims.timestamps import timestamp_request
    from taggants.detection.registration import Registration, SigningRecord
    from taggants.keys import KeysCommitment
    from taggants.reporting.progress import say
    from taggants.run import Run, registration_paths
    from taggants.stages.keys import COMMITMENT_PATH
    from taggants.stages.questions import SIGNING_PATH

    run = Run(read_config(given))
    records: dict[str, Registration | KeysCommitment | SigningRecord] = {}
    registration = run.registration  # says so where there is none
    records[registration_paths(run)[-1]] = registration
    if run.root.exists(COMMITMENT_PATH):
        records[COMMITMENT_PATH] = KeysCommitment.from_text(run.root.read_bytes(COMMITMENT_PATH))
    if run.root.exists(SIGNING_PATH):
        records[SIGNING_PATH] = SigningRecord.from_text(run.root.read_bytes(SIGNING_PATH))
    for path, record in records.items():
        name = f"timestamps/{path.removesuffix('.json')}"
        run.root.write_bytes(f"{name}.canonical.json", record.canonical)
        run.root.write_bytes(f"{name}.tsq", timestamp_request(record.canonical))
        say(f"written {run.root.uri_of(name)}.tsq and .canonical.json")
    say(
        "then    curl --data-binary @NAME.tsq -H 'Content-Type: application/timestamp-query' -o NAME.tsr URL-OF-THE-AUTHORITY\n"
        "or      ots stamp NAME.canonical.json"
    )
    return 0
