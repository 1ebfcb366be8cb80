"""How far the alignment that was crafted carries over to networks that were not crafted on.

On its surrogates every set aligns; whether a victim learns the keys depends on networks like the victim. What the signed images
add to the alignment there is known without training a single victim: a clean control will do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from taggants.alignment import alignment, key_gradient, loss_gradient
from taggants.crafting.plan import Plan
from taggants.data.source import read_for_models
from taggants.reporting.progress import stage
from taggants.run import Run
from taggants.stages.evaluate import suspect_job
from taggants.training.job import load_trained
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


def measure_transfer(run: Run, plan: Plan, model: nn.Module) -> Transfer:
    """Returns the alignment of an exported run's signing sets on a model in eval mode, computed where the model is.

    Raises:
        InputError: nothing exported yet, or an image that cannot be read.
    """
    clean = run.sources[0]
    signed = clean.at(run.root.child("signed"))
    before: list[float] = []
    after: list[float] = []
    device = next(model.parameters()).device
    with stage("measure transfer", len(plan.shards), "shards") as advance:
        for shard in plan.shards:
            label = torch.tensor(int(run.keys.labels[shard.key_index]), device=device)
            key_image = torch.from_numpy(run.keys.images[shard.key_index].copy()).to(device)
            key = key_gradient(model, key_image / 255, label)
            for source, cosines in ((clean, before), (signed, after)):
                pixels = read_for_models(source, shard.sample_ids, run.config.data.image_size)
                total: list[torch.Tensor] | None = None
                for images in torch.split(torch.from_numpy(pixels), _MICROBATCH):
                    part = loss_gradient(model, images.to(device) / 255, label.expand(len(images)))
                    total = part if total is None else [a.add_(b) for a, b in zip(total, part, strict=True)]
                assert total is not None, "a signing set holds at least one image"
                cosines.append(float(alignment(key, total)))
            advance(len(after), "")
    return Transfer(tuple(before), tuple(after))
