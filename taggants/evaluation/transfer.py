"""How far the alignment that was crafted carries over to networks that were not crafted on.

On its surrogates every set aligns; whether a victim learns the keys depends on networks like the victim. What the signed images
add to the alignment there is known without training a single victim: a clean control will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taggants.alignment import alignment, key_gradient, loss_gradient
from taggants.crafting.plan import Plan, Shard
from taggants.crafting.shard import read_signed_table
from taggants.data.image_codec import encode_like
from taggants.data.source import read_for_models, resize_and_crop
from taggants.reporting.progress import Advance, stage
from taggants.run import Run
from taggants.stages.evaluate import suspect_job
from taggants.stages.questions import reference_jobs
from taggants.training.job import TrainingJob, load_trained
from taggants.training.worker import run_training

_MICROBATCH = 16


@dataclass(frozen=True)
class Transfer:
    """Cosines of the signing sets with their keys on one network, in [-1, 1], by key; before: of the clean images.

    Of the unaugmented images as models take them, like the alignment that an export reports.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]

    @property
    def gains(self) -> tuple[float, ...]:
        """What signing adds, in [-2, 2], by key."""
        return tuple(after - before for before, after in zip(self.before, self.after, strict=True))

    @property
    def gain(self) -> float:
        """Mean over keys of what signing adds, in [-2, 2]."""
        return float(np.mean(self.after) - np.mean(self.before))


def transfer_to_control(run: Run, plan: Plan) -> Transfer | None:
    """Returns `measure_transfer` on the first of the run's controls; None without any, and where this process has not the
    GPU that they were trained on: a driver that only directs would take an hour of its own CPU for large models."""
    device = run.config.evaluation.training.device
    if run.config.evaluation.num_controls == 0 or (device == "cuda" and not torch.cuda.is_available()):
        return None
    control = run_training(suspect_job(run, "control", 0), run.models, lambda report: None)
    return measure_transfer(run, plan, load_trained(run.models, control).to(device))


def clean_job(run: Run) -> TrainingJob | None:
    """Returns the training of a clean model that the run needs anyway and that nothing is crafted on: a reference if it is of the
    victims' model and recipe, else a control, else any reference; None where the run needs no such model."""
    evaluation, reference = run.config.evaluation, unseen_reference(run)
    of_kind = (evaluation.training.model, evaluation.training.recipe)
    if reference is not None and (reference.spec.name, reference.recipe.name) == of_kind:
        return reference
    return suspect_job(run, "control", 0) if evaluation.num_controls else reference


def unseen_reference(run: Run) -> TrainingJob | None:
    """Returns the training of the run's first reference that is no surrogate, of the victims' model and recipe if there is one;
    None without such references."""
    training = run.config.evaluation.training
    jobs = [job for job in reference_jobs(run) if isinstance(job, TrainingJob) and job.name.startswith("reference-")]
    alike = [job for job in jobs if (job.spec.name, job.recipe.name) == (training.model, training.recipe)]
    return next(iter([*alike, *jobs]), None)


def measure_transfer(run: Run, plan: Plan, model: nn.Module) -> Transfer:
    """Returns the alignment of an exported run's signing sets on a model in eval mode, computed where the model is.

    Raises:
        InputError: nothing exported yet, or an image that cannot be read.
    """
    signed, size = run.sources[0].at(run.root.child("signed")), run.config.data.image_size
    with stage("measure transfer", len(plan.shards), "shards") as advance:
        return _measure(run, plan.shards, lambda shard: read_for_models(signed, shard.sample_ids, size), model, advance)


def measure_crafted(run: Run, shards: Sequence[Shard], model: nn.Module) -> Transfer:
    """Returns the same of shards that are committed, before anything is exported: of the images as readers will see them.

    Raises:
        InputError: a commit or its attempt is damaged, or an image cannot be read.
    """
    commits, source, size = run.folder.read_commits(), run.sources[0], run.config.data.image_size

    def signed(shard: Shard) -> NDArray[np.uint8]:
        ids = shard.sample_ids
        crafted = read_signed_table(run.folder.read_attempt(commits[shard.index])).images
        files = [encode_like(crafted[i], like) for i, like in zip(ids, source.read_encoded(ids), strict=True)]
        images = source.decode(files, ids)
        return np.stack(images if size is None else [resize_and_crop(image, size) for image in images])

    return _measure(run, shards, signed, model, lambda done, note: None)


def _measure(
    run: Run,
    shards: Sequence[Shard],
    signed: Callable[[Shard], NDArray[np.uint8]],
    model: nn.Module,
    advance: Advance,
) -> Transfer:
    before: list[float] = []
    after: list[float] = []
    device, size = next(model.parameters()).device, run.config.data.image_size
    for shard in shards:
        label = torch.tensor(int(run.keys.labels[shard.key_index]), device=device)
        key_image = torch.from_numpy(run.keys.images[shard.key_index].copy()).to(device)
        key = key_gradient(model, key_image / 255, label)
        clean = read_for_models(run.sources[0], shard.sample_ids, size)
        for pixels, cosines in ((clean, before), (signed(shard), after)):
            total: list[torch.Tensor] | None = None
            for images in torch.split(torch.from_numpy(pixels), _MICROBATCH):
                part = loss_gradient(model, images.to(device) / 255, label.expand(len(images)))
                total = part if total is None else [a.add_(b) for a, b in zip(total, part, strict=True)]
            assert total is not None, "a signing set holds at least one image"
            cosines.append(float(alignment(key, total)))
        advance(len(after), "")
    return Transfer(tuple(before), tuple(after))
