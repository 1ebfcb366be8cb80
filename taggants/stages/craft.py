"""Stage: crafts every shard that is not committed yet, on the configured pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from taggants.augmentation import MixAugment
from taggants.config import Config
from taggants.crafting.driver import DriveResult, drive
from taggants.crafting.events import Pool
from taggants.crafting.inline_pool import InlinePool
from taggants.crafting.plan import Plan
from taggants.crafting.reuse import CraftedShards, shard_addresses
from taggants.crafting.shard import Companions, CraftingJob, CraftingWorker
from taggants.crafting.status import Status, watching
from taggants.errors import InputError
from taggants.reporting.progress import stage
from taggants.reporting.quantities import speed
from taggants.run import Run
from taggants.stages.crafting_settings import hardware_of, optimisation_of, perception_of
from taggants.stages.model_training import all_checkpoints
from taggants.storage import Root
from taggants.training.job import TrainedModel

_NUM_COMPANIONS = 256


def craft(
    run: Run, plan: Plan, surrogates: Sequence[TrainedModel], on_done: Callable[[int], None] = lambda num_done: None
) -> DriveResult:
    """Crafts, on the configured pool, every shard that is not committed yet and that no earlier run has crafted.

    on_done: called with the number of committed shards, at the start and after each event.
    """
    config = run.config
    share = config.crafting.optimised_share
    job = CraftingJob(
        run=run.root,
        models=run.models,
        plan_hash=plan.plan_hash,
        source=run.sources[0],
        image_size=run.model_size[1],
        surrogates=all_checkpoints(surrogates) if share else (),
        optimisation=optimisation_of(config, run.model_size[1]),
        hardware=hardware_of(config.crafting),
        perception=perception_of(config.crafting),
        companions=_companions(run, plan),
        method=config.crafting.method,
        imprint=config.crafting.imprint,
        key_images=run.keys.images,
        key_labels=run.keys.labels,
        key_ids=run.keys.ids,
    )
    addresses = shard_addresses(job, run.index.fingerprint, plan.shards)
    execution = config.execution
    per_image = round(share * job.optimisation.sample_steps_per_image(len(job.surrogates)))
    with stage("craft", len(plan.shards), "shards") as advance:
        show_metrics = _ray_metrics(config)

        def show(status: Status) -> None:
            advance(status.num_done, _status_note(status))
            show_metrics(status)
            on_done(status.num_done)

        threads = torch.get_num_threads()
        try:
            with watching(run.root, per_image, show) as watch:
                return drive(
                    plan,
                    run.folder,
                    _pool(config, job),
                    max_failures=execution.max_failures,
                    max_losses=execution.max_losses,
                    earlier=CraftedShards(Root(config.output.root), config.hash, addresses),
                    on_progress=watch,
                )
        finally:
            torch.set_num_threads(threads)  # an inline worker sets its own


def _companions(run: Run, plan: Plan) -> Companions | None:
    """Unsigned images, drawn at random by the run's seed, that signed ones are mixed with."""
    share = run.config.crafting.mixing
    if share == 0:
        return None
    signed = {sample_id for shard in plan.shards for sample_id in shard.sample_ids}
    order = np.random.default_rng([run.config.seed, 4]).permutation(run.index.num_rows)
    chosen = [int(i) for i in order[: _NUM_COMPANIONS + len(signed)] if int(i) not in signed][:_NUM_COMPANIONS]
    if not chosen:
        raise InputError("crafting.mixing needs images that are not signed; lower the budget or set it to 0")
    mix = MixAugment(run.index.num_classes, probability=share)
    return Companions(mix, tuple(chosen), tuple(int(run.index.labels[i]) for i in chosen))


def _status_note(status: Status) -> str:
    """What the terminal says of a run beside done shards, rate and ETA."""
    parts = [f"{len(status.running)} running"]
    if status.quarantined:
        parts.append(f"{len(status.quarantined)} failed")
    if status.mean_alignment is not None:
        parts.append(f"alignment {status.mean_alignment:.3f}")
    if status.sample_steps_per_s_recent:
        parts.append(speed(status.sample_steps_per_s_recent, "sample-steps"))
    return ", ".join(parts)


def _ray_metrics(config: Config) -> Callable[[Status], None]:
    """Shows a status as Ray's metrics; nothing without Ray."""
    if config.execution.pool == "inline":
        return lambda status: None
    from taggants.crafting.ray_metrics import RayMetrics

    return RayMetrics(config.hash).show


def _pool(config: Config, job: CraftingJob) -> Pool:
    execution = config.execution
    make_worker = partial(CraftingWorker, job)
    if execution.pool == "inline":
        return InlinePool(make_worker())
    from taggants.crafting.ray_pool import RayPool

    return RayPool(
        make_worker,
        num_workers=execution.num_workers,
        num_cpus=execution.num_cpus,
        num_gpus=execution.num_gpus,
        max_shard_seconds=execution.max_shard_seconds,
    )
