"""A short optimisation that tests change where they need another."""

from taggants.alignment import ENGINES
from taggants.augmentation import CropAndFlip
from taggants.crafting.signing_set import Optimisation

OPTIMISATION = Optimisation(
    levels=32,
    num_steps=12,
    step_size=0.3,
    milestones=(6,),
    decay=0.3,
    momentum=0.9,
    num_restarts=1,
    num_views=2,
    microbatch=64,
    initial_noise=0.5,
    augmentation=CropAndFlip(1, True),
    engine=ENGINES["double_backward"],
)
