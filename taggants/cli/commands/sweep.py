"""Maps detection power over budgets, numbers of keys and more.

For example: taggants sweep --preset sweep_digits
Section `sweep` of the configuration names the values; each combination is a cell: a run of its own, with victims and controls.
What cells share is crafted and trained once. Safe to start again after any interruption.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taggants.cli.configuration import add_config_arguments, read_config
from taggants.errors import InputError

if TYPE_CHECKING:
    from taggants.config import Config
    from taggants.sweep.results import SweepResults


@dataclass(frozen=True)
class SweepJobResult:
    """sweep: uri of its folder. results: None when a shard failed for good. num_crafted: shards that this call crafted."""

    sweep: str
    results: SweepResults | None
    num_crafted: int

    @property
    def exit_code(self) -> int:
        return 0 if self.results is not None else 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)


def run(given: argparse.Namespace) -> int:
    return main(read_config(given)).exit_code


def main(config: Config) -> SweepJobResult:
    """Runs every stage and every cell that is not done yet."""
    from taggants.reporting import summaries
    from taggants.reporting.progress import say, show
    from taggants.stages.ray_connection import ray_cluster
    from taggants.sweep.report import write_report
    from taggants.sweep.stages import Sweep, collect, craft_shared, register, train_controls
    from taggants.sweep.tables import cells_table, false_positives_text, recommendation_text

    if config.execution.pool != "ray":
        raise InputError("a sweep runs its cells as Ray Tune trials; set execution.pool=ray")
    sweep = Sweep(config)
    say(summaries.sweep_opening(sweep))
    with ray_cluster(config):
        from taggants.sweep.tuning import check_loggers, run_trials  # Ray Tune takes seconds to import

        check_loggers(config)
        register(sweep)
        drives = craft_shared(sweep)
        num_crafted = sum(drive.num_crafted for drive in drives)
        failed = [reason for drive in drives for reason in drive.failed.items()]
        if failed:
            say(summaries.sweep_failed(failed))
            return SweepJobResult(sweep.root.uri, None, num_crafted)
        train_controls(sweep)
        run_trials(sweep)
    program, *words = sys.argv
    results = collect(
        sweep, shlex.join(["python", program, *words] if program.endswith(".py") else ["taggants", *words])
    )
    show(cells_table(results))
    say(f"{false_positives_text(results)}\n\n{recommendation_text(results)}\n")
    report = write_report(results, sweep.output, f"sweeps/{sweep.hash}/report.html")
    say(f"results {sweep.root.uri_of('sweep.json')}\nreport  {report}")
    return SweepJobResult(sweep.root.uri, results, num_crafted)
