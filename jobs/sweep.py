"""Maps detection power over budgets, numbers of keys and more: python jobs/sweep.py --config jobs/configs/sweep_digits.yaml

Section `sweep` of the configuration names the values; each combination is a cell: a run of its own, with victims and
controls. What cells share is crafted and trained once. Safe to start again after any interruption.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass

from taggants.cli import ray_cluster, run_job
from taggants.config import Config
from taggants.errors import InputError
from taggants.reporting.progress import say, show
from taggants.sweep.report import write_report
from taggants.sweep.results import SweepResults
from taggants.sweep.stages import Sweep, collect, craft_shared, register, train_controls
from taggants.sweep.tables import cells_table, false_positives_text, recommendation_text


@dataclass(frozen=True)
class SweepJobResult:
    """sweep: uri of its folder. results: None when a shard failed for good. num_crafted: shards that this call crafted."""

    sweep: str
    results: SweepResults | None
    num_crafted: int

    @property
    def exit_code(self) -> int:
        return 0 if self.results is not None else 1


def main(config: Config) -> SweepJobResult:
    """Runs every stage and every cell that is not done yet."""
    if config.execution.pool != "ray":
        raise InputError("a sweep runs its cells as Ray Tune trials; set execution.pool=ray")
    sweep = Sweep(config)
    say(f"sweep   {sweep.root.uri}\n        {len(sweep.cells)} cells of {config.sweep.num_victims} victims")
    with ray_cluster(config):
        from taggants.sweep.tuning import check_loggers, run_trials  # Ray Tune takes seconds to import

        check_loggers(config)
        register(sweep)
        drives = craft_shared(sweep)
        num_crafted = sum(drive.num_crafted for drive in drives)
        failed = [reason for drive in drives for reason in drive.failed.items()]
        for shard, reason in failed:
            say(f"sweep: shard {shard} failed for good: {reason}")
        if failed:
            say("sweep: mend the cause and run the same command again")
            return SweepJobResult(sweep.root.uri, None, num_crafted)
        train_controls(sweep)
        run_trials(sweep)
    results = collect(sweep, f"python {shlex.join(sys.argv)}")
    show(cells_table(results))
    say(f"{false_positives_text(results)}\n\n{recommendation_text(results)}\n")
    report = write_report(results, sweep.output, f"sweeps/{sweep.hash}/report.html")
    say(f"results {sweep.root.uri_of('sweep.json')}\nreport  {report}")
    return SweepJobResult(sweep.root.uri, results, num_crafted)


if __name__ == "__main__":
    run_job(main, __doc__)
