"""What the configuration says of crafting, in the crafting loop's own words and units."""

from __future__ import annotations

from taggants.alignment import ENGINES, OBJECTIVES
from taggants.augmentation import (
    Augmentation,
    ColourJitter,
    Compose,
    CropAndFlip,
    RandomResizedCrop,
    ResizeAndCentreCrop,
    ThreeAugment,
)
from taggants.config import Config, CraftingConfig
from taggants.crafting.shard import Hardware, Perception
from taggants.crafting.signing_set import Optimisation
from taggants.export import StoragePolicy
from taggants.perturbation import epsilon_levels


def augmentation_of(config: Config, image_size: int) -> Augmentation:
    """Returns what signed images go through at each step; image_size: side in px that the models take."""
    crafting = config.crafting
    stages: list[Augmentation] = []
    if crafting.augmentation == "resized_crop" or config.data.image_size is not None:
        stages.append(RandomResizedCrop(image_size, flip=crafting.flip))
    else:
        stages.append(CropAndFlip(crafting.crop_padding, crafting.flip))
    if crafting.three_augment:
        stages.append(ThreeAugment())
    if crafting.colour_jitter > 0:
        stages.append(ColourJitter(crafting.colour_jitter))
    return stages[0] if len(stages) == 1 else Compose(tuple(stages))


def optimisation_of(config: Config, image_size: int) -> Optimisation:
    """Returns the settings of the crafting loop; image_size: side in px that the models take.

    Raises:
        InputError: epsilon is below one 8-bit level.
    """
    crafting = config.crafting
    engine = ENGINES[crafting.engine]
    if crafting.difference_step is not None and engine.is_first_order:
        engine = engine.with_step(crafting.difference_step)
    # Of native images models are tested on what `read_resized` makes of them.
    is_native = config.data.image_size is not None
    return Optimisation(
        levels=epsilon_levels(crafting.epsilon),
        num_steps=crafting.num_steps,
        step_size=crafting.step_size,
        milestones=tuple(round(fraction * crafting.num_steps) for fraction in crafting.milestones),
        decay=crafting.decay,
        momentum=crafting.momentum,
        num_restarts=crafting.num_restarts,
        num_views=crafting.num_views,
        microbatch=crafting.microbatch,
        initial_noise=crafting.initial_noise,
        augmentation=augmentation_of(config, image_size),
        engine=engine,
        objective=OBJECTIVES[crafting.objective],
        evaluation=ResizeAndCentreCrop(image_size, crop_fraction=1.0) if is_native else Compose(()),
        cycle=crafting.ensemble == "cycle",
        halving=crafting.halving,
        convergence_window=crafting.convergence_window,
        convergence_gain=crafting.convergence_gain,
        direction_interval=crafting.direction_interval,
    )


def storage_policy_of(config: Config) -> StoragePolicy:
    """Returns how the export may store images, so that signed ones do not stand out."""
    return StoragePolicy(config.export.png, config.export.hashes, config.export.credentials)


def hardware_of(crafting: CraftingConfig) -> Hardware:
    """Returns what a worker computes on."""
    return Hardware(
        device=crafting.device,
        precision=crafting.precision,
        channels_last=crafting.channels_last,
        compile=crafting.compile,
        num_threads=crafting.num_threads,
    )


def perception_of(crafting: CraftingConfig) -> Perception | None:
    """Returns the perceptual term, if there is one."""
    if crafting.perceptual == "none":
        return None
    return Perception(crafting.perceptual, crafting.perceptual_weight, crafting.lpips_weights or "")
