"""Signs a dataset: keys, surrogate, crafting, export; then rehearses detection on victims and controls of its own.

Safe to start again after any interruption: what is done is found in the run folder, the rest is done now.
"""

from __future__ import annotations

from dataclasses import dataclass

from taggants import pipeline, reports
from taggants.cli import ray_cluster, run_job
from taggants.config import Config
from taggants.crafting.driver import DriveResult
from taggants.detection import Certificate
from taggants.progress import say
from taggants.run import Run, check
from taggants.transfer import transfer_to_control


@dataclass(frozen=True)
class CraftResult:
    """run: uri of the run folder. export: None when a shard failed for good."""

    run: str
    drive: DriveResult
    export: pipeline.ExportResult | None
    certificates: dict[str, Certificate]

    @property
    def exit_code(self) -> int:
        return 1 if self.drive.failed else 0


def main(config: Config) -> CraftResult:
    """Runs every stage that is not done yet."""
    run = Run(config)
    check(run)
    say(reports.opening(run))
    run.write_config()
    registration = pipeline.prepare_keys(run)
    say(reports.registered(run, registration))
    with ray_cluster(config):
        surrogates = pipeline.train_surrogates(run)
        plan = pipeline.make_plan(run, surrogates)
        drive = pipeline.craft(run, plan, surrogates)
        say(reports.crafted(plan, drive))
        if drive.failed:
            return CraftResult(run.root.uri, drive, None, {})
        export = pipeline.export(run, plan)
        say(reports.exported(run, export))
        rehearsal = pipeline.rehearse(run)
        transfer = transfer_to_control(run, plan)
    say(reports.rehearsed(run, rehearsal, transfer))
    return CraftResult(run.root.uri, drive, export, {name: outcome.certificate for name, outcome in rehearsal.items()})


if __name__ == "__main__":
    run_job(main, __doc__)
