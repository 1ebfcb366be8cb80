"""Creates the secret keys of a configuration and registers the test, without crafting anything.

The registration is public: publish it, or its SHA-256, before the signed dataset.
"""

from __future__ import annotations

from dataclasses import dataclass

from taggants.cli import run_job
from taggants.config import Config
from taggants.keys import Registration
from taggants.reporting import summaries
from taggants.reporting.progress import say
from taggants.run import Run
from taggants.stages.check import check
from taggants.stages.keys import prepare_keys


@dataclass(frozen=True)
class KeysResult:
    run: str
    registration: Registration
    exit_code: int = 0


def main(config: Config) -> KeysResult:
    """Creates the key file unless it exists; a second call changes nothing."""
    run = Run(config)
    check(run)
    run.write_config()
    registration = prepare_keys(run)
    say(summaries.registered(run, registration))
    return KeysResult(run.root.uri, registration)


if __name__ == "__main__":
    run_job(main, __doc__)
