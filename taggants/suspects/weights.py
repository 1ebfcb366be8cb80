"""Models read from files of weights: suspects, and just as well the owner's surrogates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from taggants.errors import InputError
from taggants.limits import MOST_WEIGHTS_BYTES
from taggants.storage import Root
from taggants.suspects.description import Owner, SuspectDescription
from taggants.suspects.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch
    from torch import nn

    from taggants.models import ModelSpec
    from taggants.models.weights import Network
    from taggants.suspects.module_suspect import ModuleSuspect


@dataclass(frozen=True, eq=False)
class Weights:
    """A network with the weights of a file, and what is known of it.

    mean, std: of pixels in [0, 1], for each channel. origin: what messages call it. spoken: what its name begins with.
    """

    network: Network
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    class_names: tuple[str, ...] | None
    origin: str
    spoken: str

    def surrogate(self, owner: Owner) -> tuple[nn.Module, ModelSpec]:
        """Returns the network in eval mode behind what brings the owner's images to its size and its classes to the owner's.

        Classes are matched by their names where both lists hold the same or the network knows more, else by their numbers.

        Raises:
            InputError: the network has other classes, or more of them and no names.
        """
        from torch import nn

        from taggants.models import Adaptation, ModelSpec, build_model

        own = self.network.spec
        if owner.image_shape[1] != owner.image_shape[2]:
            raise InputError(f"images are {owner.image_shape[1:]} px, which is not square; set data.image_size")
        adaptation = Adaptation(
            own.channels, own.image_size, self.mean, self.std, own.num_classes, self._columns(owner)
        )
        spec = ModelSpec(
            own.name,
            owner.num_classes,
            owner.image_shape[0],
            owner.image_shape[1],
            own.patch_size,
            adaptation=adaptation,
        )
        model = build_model(spec, seed=0)
        assert isinstance(model, nn.Sequential), "as build_model makes them"
        model[1].load_state_dict(self.network.model[1].state_dict())
        return model.eval(), spec

    def _columns(self, owner: Owner) -> tuple[int, ...]:
        names, num_classes = self.class_names, self.network.spec.num_classes
        if names is not None and len(names) != num_classes:
            raise InputError(
                f"class_names names {len(names)} classes but {self.origin} has {num_classes}; name all of them"
            )
        if names is not None and owner.class_names is not None and set(owner.class_names) <= set(names):
            if len(set(names)) < len(names):
                raise InputError(f"{self.origin} gives two classes one name; give class_names that differ")
            columns = tuple(names.index(name) for name in owner.class_names)
            return () if columns == tuple(range(num_classes)) else columns
        if num_classes != owner.num_classes:
            raise InputError(
                f"{self.origin} knows {num_classes} classes but the dataset has {owner.num_classes}; give a model of these "
                "classes, or one whose class_names include the dataset's"
            )
        return ()


class WeightsDescription(SuspectDescription):
    """What the kinds have in common whose weights are read into an architecture."""

    image_size: int | None = Field(None, ge=1, le=8192, description="side in px that it takes; null: as its file says")
    mean: float | tuple[float, ...] | None = Field(
        None, description="of pixels in [0, 1]; null: the architecture's own"
    )
    std: float | tuple[float, ...] | None = Field(None, description="of pixels in [0, 1]; null: the architecture's own")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where it answers")

    def load(self, owner: Owner) -> Weights:
        """Returns the network.

        Raises:
            InputError: there is no such file, it is damaged, or does not fit the architecture.
        """
        raise NotImplementedError

    def open(self, owner: Owner) -> ModuleSuspect:
        from taggants.suspects.module_suspect import ModuleSuspect

        weights = self.load(owner)
        spec = weights.network.spec
        return ModuleSuspect(
            weights.network.model[1].to(device_of(self.device)),
            weights.spoken,
            Preprocessing(spec.image_size, weights.mean, weights.std, spec.channels),
            image_shape=owner.image_shape,
            sha256=weights.sha256,
            class_names=weights.class_names,
        )

    def normalisation(self, network: Network) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns mean and std for each channel: those given, or those of the architecture."""
        from taggants.models import InputNormalisation

        default, channels = network.model[0], network.spec.channels
        assert isinstance(default, InputNormalisation), "as ModelSource.build makes it"
        values = []
        for given, tensor in ((self.mean, default.mean), (self.std, default.std)):
            own = tensor.flatten().tolist() if given is None else [given] if isinstance(given, float) else list(given)
            values.append(tuple(float(value) for value in (own * channels if len(own) == 1 else own)))
        mean, std = values
        Preprocessing(network.spec.image_size, mean, std, channels)  # refuses what does not fit
        return mean, std


def device_of(device: str) -> torch.device:
    """Returns the device of that name; InputError if this machine has none."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device = cuda but this machine has no CUDA device; use cpu")
    return torch.device(device)


def read_file(uri: str) -> tuple[bytes, str, str]:
    """Returns the content of a file of weights, its SHA-256 and its full uri.

    Raises:
        InputError: it is missing, or too large to be read into memory.
    """
    root, file = Root.of_file(uri)
    size = root.size_bytes(file)
    if size > MOST_WEIGHTS_BYTES:
        raise InputError(f"{root.uri_of(file)} has {size} bytes; give a file of up to {MOST_WEIGHTS_BYTES}")
    data = root.read_bytes(file)
    return data, hashlib.sha256(data).hexdigest(), root.uri_of(file)
