"""What a family of key images is: from uniform bytes to pixels, with parameters of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taggants.errors import InputError, check_integer


@dataclass(frozen=True)
class Parameter:
    """An integer that a family declares. high: None for the side of the image, in pixels."""

    default: int
    low: int
    high: int | None
    description: str


@dataclass(frozen=True)
class TestVector:
    """SHA-256 (hex) of the image of key 0, row-major, that the secret 0x00, 0x01, ..., 0x1f gives."""

    __test__ = False  # no test class, whatever pytest thinks of the name

    channels: int
    image_size: int
    parameters: Mapping[str, int]
    sha256: str


@dataclass(frozen=True)
class KeyFamily:
    """How a key image comes from uniform bytes, alike on every platform: so without floating-point arithmetic.

    Attributes:
        description: half a sentence for the help.
        parameters: by name; a name of `KeySpec`'s other fields is taken. They are fields of the configuration's section keys,
            and part of the commitment and of the ids.
        num_bytes: (channels, image_size, **parameters) -> how many bytes one key takes.
        image: (uint8 [num_bytes], channels, image_size, **parameters) -> uint8 [channels, image_size, image_size].
        test_vectors: at least one; `tests/keys/test_families.py` holds the family to them.
    """

    description: str
    parameters: Mapping[str, Parameter]
    num_bytes: Callable[..., int]
    image: Callable[..., NDArray[np.uint8]]
    test_vectors: tuple[TestVector, ...]

    def check(self, name: str, parameters: Mapping[str, int], image_size: int | None = None) -> None:
        """Checks the parameters of a family called `name`; up to the side of the image, where that is known.

        Raises:
            InputError: one is missing, unknown or out of its range.
        """
        if set(parameters) != set(self.parameters):
            given, known = ", ".join(sorted(parameters)) or "none", ", ".join(self.parameters) or "none"
            raise InputError(f"key family {name!r} has the parameters {known}, not {given}.")
        for parameter_name, parameter in self.parameters.items():
            high = parameter.high if parameter.high is not None else (image_size or 4096)
            check_integer(parameter_name, parameters[parameter_name], parameter.low, high)
