"""The order of the stages of a run; each stage finds what is done and does the rest.

data -> keys -> surrogates -> plan -> craft -> export -> references -> train victims and controls -> verify.
"""

from __future__ import annotations

from dataclasses import dataclass

from taggants.crafting.driver import DriveResult
from taggants.crafting.plan import Plan
from taggants.errors import FailedShards
from taggants.estimation.doubts import gain_in_words, wanted_of
from taggants.estimation.probe import Probe, first_look
from taggants.reporting import summaries
from taggants.reporting.progress import say
from taggants.run import Run, signing_size
from taggants.stages.craft import craft
from taggants.stages.export import ExportResult, export
from taggants.stages.keys import register
from taggants.stages.plan import make_plan
from taggants.stages.questions import record_signing, train_references
from taggants.stages.surrogates import train_surrogates
from taggants.training.job import TrainedModel


def prepare(run: Run) -> tuple[list[TrainedModel], Plan]:
    """Trains the surrogates and makes the plan of a run whose keys are drawn and registered.

    With `surrogate.retrainings` the same run with one retraining less is signed first: the surrogates learn from its data.

    Raises:
        FailedShards: of a run with fewer retrainings.
    """
    earlier = run.before_retraining
    if earlier is None:
        surrogates = train_surrogates(run)
        return surrogates, make_plan(run, surrogates)
    say(f"retrain: on the data signed with {earlier.config.surrogate.retrainings} retrainings, in {earlier.root.uri}")
    register(earlier)
    earlier.write_config()
    signing = sign(earlier)
    if signing.export is None:
        shard, reason = sorted(signing.drive.failed.items())[0]
        raise FailedShards(
            f"shard {shard} of run {earlier.root.uri} failed for good: {reason}; fix the cause and start again"
        )
    surrogates = train_surrogates(run, earlier)
    first = earlier
    while first.before_retraining is not None:
        first = first.before_retraining
    return surrogates, make_plan(run, surrogates, train_surrogates(first))


@dataclass(frozen=True)
class Signing:
    """What `sign` did. export: None when a shard failed for good, as `drive` says."""

    surrogates: list[TrainedModel]
    plan: Plan
    drive: DriveResult
    export: ExportResult | None


def sign(run: Run) -> Signing:
    """Trains the surrogates, crafts and exports a run whose keys are drawn and registered.

    Raises:
        FailedShards: of a run with fewer retrainings.
        InputError: as the stages.
    """
    surrogates, plan = prepare(run)
    drive = craft(run, plan, surrogates, first_look(run, plan, lambda probed: _say_gain(run, probed)))
    say(summaries.crafted(plan, drive))
    if drive.failed:
        return Signing(surrogates, plan, drive, None)
    exported = export(run, plan)
    train_references(run)
    record_signing(run)
    say(summaries.exported(run, exported))
    return Signing(surrogates, plan, drive, exported)


def _say_gain(run: Run, probed: Probe) -> None:
    index = run.index
    wanted = wanted_of(run.config, index.num_rows, index.num_classes, run.model_size[1], signing_size(run))
    words = gain_in_words(probed.transfer.gain, wanted)
    say(summaries.gained(probed.model, probed.transfer, words))
