"""A look at how far perturbations carry over, before keys are drawn and hours of crafting are spent.

A few signing sets are crafted for decoy keys, derived from a public sentence, and what they add to the alignment is measured on a
clean model that nothing was crafted on. The run's own keys stay undrawn, so whatever the owner then changes cannot bias their
labels. Surrogates and the clean model are those that the run needs, and are kept.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from taggants.crafting.plan import Plan
from taggants.errors import FailedShards, InputError
from taggants.evaluation.transfer import Transfer, clean_job, measure_crafted, unseen_reference
from taggants.keys import KeySet, derive_keys
from taggants.reporting.progress import say
from taggants.run import Run, signing_size
from taggants.stages.craft import craft
from taggants.stages.evaluate import suspect_job
from taggants.stages.model_training import train_model
from taggants.stages.plan import make_plan
from taggants.stages.surrogates import train_surrogates
from taggants.training.job import TrainedModel, TrainingJob, load_trained

NUM_SETS: Final = 2


@dataclass(frozen=True)
class Probe:
    """transfer: of the decoy keys' signing sets to a clean model. model: its name."""

    model: str
    transfer: Transfer


def probe(run: Run) -> Probe:
    """Returns what `NUM_SETS` signing sets for decoy keys add on a clean model; trains it and the surrogates, or finds them.

    The sets lie in a run folder of their own under the output root's `probes`.

    Raises:
        InputError: the method crafts on no surrogate, so that gains say nothing, or as the stages.
        FailedShards: a set could not be crafted.
    """
    config = run.config
    if not config.crafting.optimised_share:
        raise InputError(
            f"crafting.method={config.crafting.method} crafts on no surrogate, so there is nothing to probe; leave --probe out"
        )
    decoy = _with_decoy_keys(run)
    surrogates = train_surrogates(decoy)
    job = clean_job(run) or suspect_job(run, "control", 0)
    clean = train_model(run, job)
    plan = make_plan(decoy, surrogates)
    say(f"probe: {len(plan.shards)} signing sets for decoy keys")
    drive = craft(decoy, plan, surrogates)
    if drive.failed:
        raise FailedShards(f"signing set {min(drive.failed)} of the probe failed: {drive.failed[min(drive.failed)]}")
    return Probe(clean.name, measure_crafted(decoy, plan.shards, _on_device(run, job, clean)))


def first_look(run: Run, plan: Plan, show: Callable[[Probe], None]) -> Callable[[int], None]:
    """Returns what to call with the number of committed shards: once, when there are `NUM_SETS`, it shows what the first of them
    add on a reference, while the others are still to be crafted.

    The reference is trained now instead of after the export. Does nothing where there is none, the method crafts on no
    surrogate, or the run is exported.
    """
    job = unseen_reference(run)
    if job is None or not run.config.crafting.optimised_share or run.root.exists("signed/manifest.json"):
        return lambda num_done: None
    clean, is_due = train_model(run, job), [True]

    def look(num_done: int) -> None:
        if not is_due[0] or num_done < min(NUM_SETS, len(plan.shards)):
            return
        is_due[0] = False
        committed = run.folder.read_commits()
        shards = [shard for shard in plan.shards if shard.index in committed][:NUM_SETS]
        show(Probe(clean.name, measure_crafted(run, shards, _on_device(run, job, clean))))

    return look


def _on_device(run: Run, job: TrainingJob, trained: TrainedModel) -> nn.Module:
    """The model where it was trained, if this process has such a device."""
    is_cuda = job.device == "cuda" and torch.cuda.is_available()
    return load_trained(run.models, trained).to("cuda" if is_cuda else "cpu")


def _with_decoy_keys(run: Run) -> Run:
    """The same run for fewer keys, which are public: as many images carry each, crafted alike on the same surrogates."""
    config = run.config
    changes = {
        "keys": {"num_keys": NUM_SETS, "pool": None, "networks": (), "name": "decoy", "demonstration": True},
        "signing": {"images_per_key": signing_size(run), "budget": None},
        "surrogate": {"retrainings": 0},
        "output": {"root": f"{config.output.root.rstrip('/')}/probes"},
    }
    sections = {name: getattr(config, name).model_copy(update=fields) for name, fields in changes.items()}
    decoy = Run(config.model_copy(update=sections))
    decoy.models, decoy.sources, decoy.fitness = run.models, run.sources, run.fitness
    decoy.given_surrogates = run.given_surrogates
    decoy.keys = _decoy_keys(decoy)
    return decoy


def _decoy_keys(run: Run) -> KeySet:
    """Of as many classes as can be, so that no class has to carry two: decoys are not tested, and may be drawn again."""
    spec = run.key_spec
    for number in itertools.count():
        keys = derive_keys(hashlib.sha256(f"Data Taggants, decoy keys {number}".encode()).digest(), spec)
        if len(set(keys.labels.tolist())) == min(spec.num_keys, spec.num_classes):
            return keys
    raise AssertionError("unreachable")
