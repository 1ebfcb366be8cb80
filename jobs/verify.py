"""Tests suspects with the secret keys of a crafted run and writes one certificate each.

For example: python jobs/verify.py --set verify.suspects=[path/to/model.safetensors]
"""

from __future__ import annotations

from dataclasses import dataclass

from taggants.cli import run_job
from taggants.config import Config
from taggants.detection import Certificate
from taggants.errors import InputError
from taggants.reporting import summaries
from taggants.reporting.progress import say
from taggants.run import Run, read_registration
from taggants.stages.verify import verify_all
from taggants.suspects import CheckpointSuspect


@dataclass(frozen=True)
class VerifyResult:
    certificates: tuple[Certificate, ...]
    exit_code: int = 0


def main(config: Config) -> VerifyResult:
    """Reads every suspect before it queries the first, so that a bad path or a wrong class count changes nothing."""
    if not config.verify.suspects:
        raise InputError(
            "verify.suspects is empty; name at least one checkpoint: --set verify.suspects=[model.safetensors]"
        )
    run = Run(config)
    read_registration(run)
    suspects = [CheckpointSuspect(uri) for uri in config.verify.suspects]
    certificates = verify_all(run, suspects)
    for certificate in certificates:
        say(summaries.certified(run, certificate))
    say(summaries.several_suspects(certificates))
    return VerifyResult(tuple(certificates))


if __name__ == "__main__":
    run_job(main, __doc__)
