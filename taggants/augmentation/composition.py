"""What every augmentation of single images offers, and several of them in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from taggants.errors import InputError


class Augmentation(Protocol):
    """Images in, as many images out; draws are a function of (seed, step, view, image id). A frozen dataclass that pickles."""

    @property
    def output_size(self) -> int | None:
        """The side of the square images that come out; None where they keep the size they came with."""

    def check(self, image_size: int) -> None:
        """Raises InputError where images whose shorter side has `image_size` pixels cannot be augmented."""

    def __call__(
        self, images: Tensor, image_ids: Tensor, *, seed: int, step: int, view: int, sizes: Tensor | None = None
    ) -> Tensor:
        """Returns augmented images [N, C, S, S], or [N, C, H, W] without an output size; differentiable in `images`.

        Args:
            images: float32 or float64 [N, C, H, W] in [0, 1], finite also where no image lies.
            image_ids: int64 [N], on the device of `images`.
            seed, step, view: what the draws are a function of, with the image id.
            sizes: int64 [N, 2], height and width of images that lie at the top left of a larger canvas, on the device of
                `images`; None where all fill it.
        """


@dataclass(frozen=True)
class Compose:
    """Augmentations one after the other; `Compose(())` changes nothing.

    The stages after one with an output size get images of that size. A class occurs once: two of it would draw alike.
    """

    stages: tuple[Augmentation, ...]

    def __post_init__(self) -> None:
        names = [type(stage).__name__ for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{name} occurs {names.count(name)} times in one augmentation; keep one of them")

    @property
    def output_size(self) -> int | None:
        """The output size of the last stage that has one."""
        return next((stage.output_size for stage in reversed(self.stages) if stage.output_size is not None), None)

    def check(self, image_size: int) -> None:
        """Checks each stage against the size that it will get."""
        for stage in self.stages:
            stage.check(image_size)
            image_size = stage.output_size or image_size

    def __call__(
        self, images: Tensor, image_ids: Tensor, *, seed: int, step: int, view: int, sizes: Tensor | None = None
    ) -> Tensor:
        """Applies the stages in order; see `Augmentation`."""
        for stage in self.stages:
            images = stage(images, image_ids, seed=seed, step=step, view=view, sizes=sizes)
            if stage.output_size is not None:
                sizes = None
        return images
