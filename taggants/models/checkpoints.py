"""Checkpoints: safetensors files, never pickle, whose header says which model they hold."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields

import safetensors
import safetensors.torch
from torch import nn

from taggants.errors import InputError
from taggants.models.architectures import ModelSpec, build_model


def checkpoint_bytes(model: nn.Module, spec: ModelSpec) -> bytes:
    """Returns a safetensors file that holds the weights and, in its header, the spec without defaults; a pure function of both."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    values = {part.name: (getattr(spec, part.name), part.default) for part in fields(spec)}
    written = {name: value for name, (value, default) in values.items() if value != default}
    return safetensors.torch.save(tensors, metadata={"taggants_model": json.dumps(written, sort_keys=True)})


def model_from_checkpoint(data: bytes, origin: str, sha256: str | None = None) -> tuple[nn.Module, ModelSpec]:
    """Returns the model of a `checkpoint_bytes` file in eval mode, and its spec.

    origin: where the bytes came from, for the error text. sha256: what they must hash to, 64 hex digits.

    Raises:
        InputError: other bytes than `sha256` says, not a safetensors file, no spec in its header, or weights that do
            not fit the spec.
    """
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"checkpoint {origin} is not the model trained there; delete its folder to train it again")
    try:
        header_size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + header_size])
        tensors = safetensors.torch.load(data)
        spec = ModelSpec(**json.loads(header["__metadata__"]["taggants_model"]))
    except (safetensors.SafetensorError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise InputError(
            f"checkpoint {origin} is not a model written by taggants ({type(error).__name__}); "
            "give a model.safetensors file from a training run"
        ) from error
    model = build_model(spec, seed=0)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(
            f"checkpoint {origin} does not fit the model {spec.name!r} that its header names; train or export it again"
        ) from error
    return model.eval(), spec
