"""Checkpoints: safetensors files, never pickle, whose header says which model they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from taggants.errors import InputError
from taggants.limits import check_pixels
from taggants.models.architectures import ModelSpec, build_model


def checkpoint_bytes(model: nn.Module, spec: ModelSpec) -> bytes:
    """Returns a safetensors file that holds the weights and, in its header, the spec; a pure function of both."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    values = {part.name: (getattr(spec, part.name), part.default) for part in fields(spec)}
    written = {name: value for name, (value, default) in values.items() if value != default}
    if spec.adaptation is not None:
        written["adaptation"] = asdict(spec.adaptation)
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
            "give a model.safetensors file from `taggants train`, or test other models in Python: taggants.verify(run, predict)"
        ) from error
    _check_fits(spec, tensors, origin)
    model = build_model(spec, seed=0)
    model.load_state_dict(tensors)
    return model.eval(), spec


def _check_fits(spec: ModelSpec, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Without memory for the model, which a small file may say is huge."""
    check_pixels(spec.image_size, spec.image_size, f"what checkpoint {origin} takes")
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in build_model(spec, seed=0).state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise InputError(
            f"checkpoint {origin} does not fit the model {spec.name!r} that its header names; train or export it again"
        )
