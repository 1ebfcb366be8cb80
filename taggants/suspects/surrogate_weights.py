"""The same loader for surrogates: a network that exists already is crafted on without a training."""

from __future__ import annotations

from typing import Any

from taggants.errors import InputError
from taggants.suspects.checkpoint import CheckpointDescription
from taggants.suspects.description import Owner, SuspectDescription, describe_suspect
from taggants.suspects.state_dict import StateDictDescription, fields_of_state_dict
from taggants.suspects.weights import Weights, WeightsDescription, read_file


def load_weights(named: str, architecture: str, patch_size: int | None, owner: Owner) -> Weights:
    """Returns the network that a text, the path of a file of weights or of a description file names.

    architecture, patch_size: of a file of weights that says nothing of it.

    Raises:
        InputError: it cannot be opened, or is of a kind that gradients cannot be taken through.
    """
    from taggants.models.weights import text_of_header

    description: SuspectDescription
    fields: dict[str, Any] | None = fields_of_state_dict(named)
    if (
        fields is None
        and named.endswith(".safetensors")
        and "taggants_model" not in text_of_header(read_file(named)[0])
    ):
        fields = {"path": named}
    if fields is None:
        description = describe_suspect(named)
    else:
        description = StateDictDescription(**{"architecture": architecture, "patch_size": patch_size} | fields)
    if not isinstance(description, CheckpointDescription | WeightsDescription):
        raise InputError(
            f"{named!r} is of a kind that gradients cannot be taken through; give a file of weights, timm/NAME or hf-hub:ORG/NAME"
        )
    return description.load(owner)
