"""A suspect that is a file of weights, safetensors or `.pth`, of an architecture that is named beside it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from taggants.suspects.description import FileUri, Owner
from taggants.suspects.naming import name_of_file
from taggants.suspects.weights import Weights, WeightsDescription, read_file

_SUFFIXES = (".pth", ".pth.tar", ".pt", ".bin")


class StateDictDescription(WeightsDescription):
    """A state dict, alone or under `state_dict`, `model` and the like, and the architecture it belongs to."""

    path: FileUri = Field(description="path or s3:// URI of a .safetensors or .pth")
    architecture: str = Field(description='"cnn", "cnn_wide", small/NAME, timm/NAME or another name of a model source')
    patch_size: int | None = Field(None, ge=1, description="as in surrogate.patch_size; null: the architecture's own")
    num_classes: int | None = Field(None, ge=1, description="null: read off the head")
    use_average: bool = Field(True, description="take the moving average of the weights where the file holds both")

    def load(self, owner: Owner) -> Weights:
        from taggants.models.weights import network_of, read_tensors

        data, sha256, origin = read_file(self.path)
        network = network_of(
            self.architecture,
            read_tensors(data, origin, use_average=self.use_average),
            origin,
            channels=owner.image_shape[0],
            image_size=self.image_size or owner.image_shape[1],
            patch_size=self.patch_size,
            num_classes=self.num_classes,
        )
        mean, std = self.normalisation(network)
        return Weights(network, mean, std, sha256, self.class_names, origin, name_of_file(self.path))


def fields_of_state_dict(text: str) -> dict[str, Any] | None:
    """Returns the fields that ARCHITECTURE@PATH or the name of a file gives; None for other texts."""
    architecture, at, path = text.partition("@")
    if (
        at
        and not architecture.startswith((".", "/", "s3:", "hf-hub:", "huggingface:"))
        and path.endswith((*_SUFFIXES, ".safetensors"))
    ):
        return {"architecture": architecture, "path": path}
    return {"path": text} if text.endswith(_SUFFIXES) else None
