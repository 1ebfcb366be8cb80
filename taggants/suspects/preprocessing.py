"""How a suspect takes the queries: its own size and normalisation.

Queries have the registered shape. A suspect of another size gets each of them resized by Pillow's bicubic filter, which the
registration names; one for colour gets a grey image as three equal channels, and one for grey images the luma of a colour image
(ITU-R 601-2, as Pillow's mode "L").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from taggants.errors import InputError
from taggants.limits import check_pixels


@dataclass(frozen=True)
class Preprocessing:
    """What a model takes: float32 [N, channels, image_size, image_size], (pixel / 255 - mean) / std in each channel.

    Attributes:
        image_size: height and width in pixels; None: that of the queries.
        mean, std: one number for each channel, or one for all; of pixels in [0, 1].
        channels: 1 or 3.
    """

    image_size: int | None = None
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    channels: int = 3

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InputError(f"channels = {self.channels!r} must be 1 or 3")
        if self.image_size is not None:
            if type(self.image_size) is not int or self.image_size < 1:
                raise InputError(f"image_size = {self.image_size!r} must be a whole number of pixels, 1 or more")
            check_pixels(self.image_size, self.image_size, "what the suspect takes")
        for name, given in (("mean", self.mean), ("std", self.std)):
            values = np.atleast_1d(np.asarray(given, dtype=np.float64))
            if values.shape not in ((1,), (self.channels,)) or not np.isfinite(values).all():
                raise InputError(
                    f"{name} = {given!r} must be {self.channels} finite numbers, one for each channel, or one"
                )
            if name == "std" and (values <= 0).any():
                raise InputError(f"std = {given!r} must be above 0; it divides pixels in [0, 1]")

    def resized(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns uint8 images [N, C, H, W] as uint8 [N, channels, image_size, image_size]."""
        size = images.shape[-1] if self.image_size is None else self.image_size
        if images.shape[1:] == (self.channels, size, size):
            return images
        mode = "L" if self.channels == 1 else "RGB"
        resized = np.empty((len(images), self.channels, size, size), dtype=np.uint8)
        for place, image in zip(resized, images, strict=True):
            picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0).squeeze()))
            picture = picture.convert(mode).resize((size, size), Image.Resampling.BICUBIC)
            place[:] = np.asarray(picture).reshape(size, size, self.channels).transpose(2, 0, 1)
        return resized

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns what the model takes of uint8 images [N, C, H, W], C 1 or 3."""
        mean, std = (np.asarray(v, dtype=np.float32).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
        taken: NDArray[np.float32] = (self.resized(images).astype(np.float32) / np.float32(255) - mean) / std
        return taken
