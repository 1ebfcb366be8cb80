"""A look at how far perturbations carry over, before keys are drawn and hours of crafting are spent.

A few signing sets are crafted for decoy keys, derived from a public sentence, and what they add to the alignment is measured on a
clean model that nothing was crafted on. The run's own keys stay undrawn, so whatever the owner then changes cannot bias their
labels. Surrogates and the clean model are those that the run needs, and are kept.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import Final

import torch

from taggants.errors import FailedShards, InputError
from taggants.evaluation.transfer import Transfer, clean_job, measure_crafted
from taggants.keys import KeySet, derive_keys
from taggants.reporting.progress import say
from taggants.run import Run, signing_size
from taggants.stages.craft import craft
from taggants.stages.evaluate import suspect_job
from taggants.stages.model_training import train_model
from taggants.stages.plan import make_plan
from taggants.stages.surrogates import train_surrogates
from taggants.training.job import load_trained

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
    model = load_trained(run.models, clean).to(job.device if torch.cuda.is_available() else "cpu")
    return Probe(clean.name, measure_crafted(decoy, plan.shards, model))


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
