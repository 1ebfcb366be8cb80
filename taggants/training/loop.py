"""Plain torch epochs, deterministic for a seed and resumable between epochs; knows neither Ray nor storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from taggants.errors import InputError
from taggants.seeds import hash_seed
from taggants.training.examples import Epoch, TrainingExamples
from taggants.training.recipes import Recipe


@dataclass(frozen=True)
class Optimiser:
    """An optimiser with a cosine schedule after a linear warm-up.

    learning_rate: the highest. weight_decay: decoupled in AdamW; LAMB and SGD spare biases and normalisation layers.
    num_epochs, batch_size: whole numbers. name: "adamw", "lamb" (You et al., ICLR 2020, as in timm) or "sgd" (Nesterov
    momentum 0.9). clip_norm: longer gradients of a step are scaled to this Euclidean norm; None: none are.
    warm_up_epochs: length of the warm-up, above 0.
    """

    num_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    name: str = "adamw"
    clip_norm: float | None = None
    warm_up_epochs: float = 1.0


@dataclass(frozen=True)
class EpochReport:
    """epoch: 0-based. loss: mean over the epoch. images_per_s is left to the caller, who has a clock."""

    epoch: int
    num_epochs: int
    loss: float


@dataclass
class TrainingState:
    """All that a run needs to go on after `epochs_done` epochs: draws are functions of (seed, epoch), so no generator state.

    optimiser: the tensors that the optimiser goes on changing; who keeps them beyond the call copies them.
    """

    epochs_done: int
    optimiser: dict[str, Tensor]


def train(
    model: nn.Module,
    examples: TrainingExamples,
    recipe: Recipe,
    optimiser: Optimiser,
    *,
    seed: int,
    resume: TrainingState | None = None,
    rank: int = 0,
    world_size: int = 1,
    after_step: Callable[[int], None] = lambda num_steps: None,
    on_epoch_end: Callable[[EpochReport, TrainingState], None] = lambda report, state: None,
) -> None:
    """Trains `model` in place for the epochs that `resume` has not done yet; torch's global generators are left as they were.

    Within an epoch the host waits for the device nowhere, as long as `examples` does not: losses stay there until its end.
    AdamW and SGD take fused steps; timm's LAMB takes some ten kernels for each parameter.

    Args:
        rank, world_size: this process takes every world_size-th image of each batch (the model is then a DDP wrapper).
        after_step: gets the number of steps so far, those of resumed epochs included.
        on_epoch_end: gets the report and the state to resume from.

    Raises:
        InputError: the loss is not finite (the learning rate is too high).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = parameters[0].device
    descent = _make_optimiser(model, parameters, optimiser)
    first_epoch = 0
    if resume is not None:
        _restore_optimiser(descent, parameters, resume.optimiser)
        first_epoch = resume.epochs_done
    # A last batch of one image has no variance for BatchNorm to divide by.
    has_batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    smallest_batch = 2 if has_batch_norm else 1
    num_images = len(examples.labels)
    if min(num_images, optimiser.batch_size) < smallest_batch * world_size:
        raise InputError(
            f"batches of {min(num_images, optimiser.batch_size)} images leave fewer than {smallest_batch} to each of "
            f"{world_size} workers; raise batch_size"
        )
    batches_per_epoch = -(-num_images // optimiser.batch_size)
    model.train()
    own_generators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(own_generators):
        for epoch in range(first_epoch, optimiser.num_epochs):
            torch.manual_seed(hash_seed(seed, rank, epoch))  # of dropout and stochastic depth
            order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(num_images))
            # A last batch that is too small is left out on every worker alike: one that went on alone would wait for
            # the others' gradients forever.
            batches = [
                batch for batch in order.split(optimiser.batch_size) if len(batch) >= smallest_batch * world_size
            ]
            source = examples.batches(
                Epoch(recipe, hash_seed(seed, rank), epoch), [batch[rank::world_size] for batch in batches]
            )
            losses = []
            for index, (pixels, weights) in enumerate(source):
                rate = _rate(epoch + index / batches_per_epoch, optimiser)
                for group in descent.param_groups:
                    group["lr"] = rate
                loss = recipe.loss(model(pixels.to(device, non_blocking=True)), weights.to(device, non_blocking=True))
                descent.zero_grad(set_to_none=True)
                loss.backward()
                if optimiser.clip_norm is not None:
                    nn.utils.clip_grad_norm_(parameters, optimiser.clip_norm)
                descent.step()
                losses.append(loss.detach())
                after_step(epoch * batches_per_epoch + index + 1)
            mean_loss = float(torch.stack(losses).mean())
            if not np.isfinite(mean_loss):
                raise InputError(
                    f"training diverged in epoch {epoch} (loss {mean_loss}) at learning rate "
                    f"{optimiser.learning_rate:g}; lower it"
                )
            on_epoch_end(
                EpochReport(epoch, optimiser.num_epochs, mean_loss),
                TrainingState(epoch + 1, _optimiser_tensors(descent, parameters)),
            )
    model.eval()


def _rate(epochs_done: float, optimiser: Optimiser) -> float:
    warm_up = min(1.0, (epochs_done + 0.05) / optimiser.warm_up_epochs)
    return optimiser.learning_rate * warm_up * 0.5 * (1 + float(np.cos(np.pi * epochs_done / optimiser.num_epochs)))


def _make_optimiser(model: nn.Module, parameters: Sequence[Tensor], optimiser: Optimiser) -> torch.optim.Optimizer:
    rate, decay = optimiser.learning_rate, optimiser.weight_decay
    if optimiser.name == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
    # timm's LAMB would clip by itself: here all are clipped in one place.
    options = {"max_grad_norm": None} if optimiser.name == "lamb" else {"fused": True}
    return create_optimizer_v2(model, optimiser.name, lr=rate, weight_decay=decay, momentum=0.9, **options)


def _optimiser_tensors(descent: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    tensors = {
        f"{index}.{name}": value.detach()
        for index, parameter in enumerate(parameters)
        for name, value in descent.state[parameter].items()
    }
    # LAMB counts its steps by group, the others by parameter or not at all.
    steps = {f"group{i}.step": group["step"] for i, group in enumerate(descent.param_groups) if "step" in group}
    return tensors | steps


def _restore_optimiser(
    descent: torch.optim.Optimizer, parameters: Sequence[Tensor], tensors: dict[str, Tensor]
) -> None:
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if index.startswith("group"):
            descent.param_groups[int(index.removeprefix("group"))][name] = value.clone()
            continue
        parameter = parameters[int(index)]
        # In the parameter's own memory layout, which the fused step takes for granted.
        like = value.shape == parameter.shape
        own = torch.empty_like(parameter) if like else torch.empty_like(value, device=parameter.device)
        descent.state[parameter][name] = own.copy_(value)


@torch.no_grad()
def predict_scores(model: nn.Module, images: Tensor, batch_size: int = 512) -> Tensor:
    """Returns the logits [N, num_classes] of uint8 images [N, C, H, W], model in eval mode."""
    model.eval()
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device).to(torch.float32) / 255).cpu() for part in images.split(batch_size)])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Returns the fraction of uint8 images whose highest logit is at their label, in [0, 1]."""
    return float((predict_scores(model, images).argmax(1) == labels).float().mean())
