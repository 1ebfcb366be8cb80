"""Measures what signing costs: victims against controls of a crafted run, with intervals over their seeds.

For example: python jobs/harm.py --set evaluation.num_victims=5 --set evaluation.num_controls=5
Models that are not trained yet are trained first. The figures are printed, and written to harm.json in the run folder.
"""

from __future__ import annotations

from dataclasses import dataclass

from taggants.cli import ray_cluster, run_job
from taggants.config import Config
from taggants.evaluation.harm import HarmReport, describe_harm, measure_harm
from taggants.reporting.progress import say
from taggants.run import Run


@dataclass(frozen=True)
class HarmResult:
    report: HarmReport
    exit_code: int = 0


def main(config: Config) -> HarmResult:
    run = Run(config)
    with ray_cluster(config):
        report = measure_harm(run)
    say(describe_harm(report))
    say(f"written to {run.root.uri_of('harm.json')}")
    return HarmResult(report)


if __name__ == "__main__":
    run_job(main, __doc__)
