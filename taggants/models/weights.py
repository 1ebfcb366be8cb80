"""Weights that others trained: files of tensors, read without running what they say, and put into an architecture.

A file is hostile until its header was read: nothing is unpickled but tensors, nothing is decompressed, and an architecture
takes memory only once the file's tensors are known to fill it.
"""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from taggants.errors import InputError
from taggants.models.architectures import ModelSpec, TimmModels, build_model, source_of

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
_PLAIN = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
"""What wrappers put before all names: DataParallel and averaging, torch.compile, Lightning and others."""
_COUNTERS = ("n_averaged", "num_batches_tracked")
"""Of averaging and of BatchNorm in training: they change no answer."""


def read_tensors(data: bytes, origin: str, *, use_average: bool = True) -> dict[str, Tensor]:
    """Returns the weights in a safetensors file or a `.pth` of torch.save, by their names.

    In a `.pth` they may lie under `state_dict`, `model` and the like; if the file holds a moving average of them as well, as
    under `state_dict_ema`, that one is returned unless `use_average` is False.

    Raises:
        InputError: it is no such file, holds other things than tensors, or numbers that are not finite.
    """
    if data[8:9] == b"{":
        try:
            tensors = safetensors.torch.load(data)
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{origin} is a damaged safetensors file ({error}); fetch it again") from None
    elif data[:2] == b"PK":
        tensors = _state_dict(_unpickled(data, origin), origin, use_average)
    else:
        raise InputError(
            f"{origin} is no file of weights; give safetensors, or a .pth that torch.save of version 1.6 or later wrote"
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(
                f"{origin} holds numbers in {name!r} that are not finite; give weights of a finished training"
            )
    return tensors


def _unpickled(data: bytes, origin: str) -> Any:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
        names = [member.filename for member in members]
        if any(name.endswith(("/constants.pkl", "/models/model.json")) for name in names):
            raise InputError(
                f"{origin} holds a program (TorchScript or torch.export), not weights; name it by that kind"
            )
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > len(data) or len(set(names)) < len(names):
            raise InputError(
                f"{origin} is not as torch.save writes it: its parts are compressed, or stand twice; save it again"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about storages without types, of torch itself
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{origin} holds more than tensors, and is not opened as that may run code ({' '.join(str(error).split())[:120]}); "
            "save the model's state_dict() alone"
        ) from None
    except Exception as error:  # a pickle of a stranger fails in any way there is
        raise InputError(f"{origin} is damaged ({type(error).__name__}: {str(error)[:120]}); fetch it again") from None


def _state_dict(loaded: Any, origin: str, use_average: bool) -> dict[str, Tensor]:
    for _ in range(4):
        if not isinstance(loaded, Mapping):
            break
        if loaded and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()):
            return {name: _plain(tensor, name, origin) for name, tensor in loaded.items()}
        wrappers = (*_AVERAGED, *_PLAIN) if use_average else _PLAIN
        loaded = next((loaded[name] for name in wrappers if isinstance(loaded.get(name), Mapping)), None)
    raise InputError(
        f"{origin} holds no tensors by name; save the model's state_dict(), alone or under one of {', '.join(_PLAIN)}"
    )


def _plain(tensor: Tensor, name: str, origin: str) -> Tensor:
    """A small file may say that a huge tensor repeats what it holds."""
    tensor = tensor.detach()
    is_strided = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    if not is_strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise InputError(f"{origin} holds {name!r} in a form that is not supported; save contiguous tensors")
    return tensor


@dataclass(frozen=True, eq=False)
class Network:
    """A network that was trained elsewhere, in eval mode, behind the normalisation that its architecture is designed for.

    model: that normalisation and the network, as `ModelSource.build` gives them. spec: of its own images and classes.
    """

    model: nn.Sequential
    spec: ModelSpec


def network_of(
    architecture: str,
    tensors: Mapping[str, Tensor],
    origin: str,
    *,
    channels: int,
    image_size: int,
    patch_size: int | None = None,
    num_classes: int | None = None,
) -> Network:
    """Returns an architecture with the weights of a file.

    The number of channels is that which fits the file, `channels` if both do; the number of classes is read off the head.

    Args:
        architecture: as `ModelSpec.name`.
        image_size: that the network takes.
        num_classes: where names of the file are those of another library, which timm translates.

    Raises:
        InputError: no such architecture, or the file's tensors do not fill it; the sentence names one that does not fit.
    """
    source_of(architecture)
    complaint = ""
    for number in (channels, 4 - channels):  # 1 and 3
        spec = ModelSpec(architecture, num_classes or 2, number, image_size, patch_size)
        expected = _shapes(spec)
        named = _named_as(expected, tensors)
        if named is None:
            complaint = complaint or _difference(expected, tensors)
            break
        if num_classes is None:
            spec = replace(spec, num_classes=_classes_of_head(spec, expected, named, origin))
            expected = _shapes(spec)
        complaint = complaint or _difference(expected, named)
        if all(named[name].shape == shape for name, shape in expected.items() if name in named):
            model = cast(nn.Sequential, build_model(spec, seed=0))
            model[1].load_state_dict(named, strict=False)  # without counters, which _named_as has seen to
            return Network(model.eval(), spec)
    source, name = source_of(architecture)
    if isinstance(source, TimmModels) and num_classes is not None and named is None:
        spec = ModelSpec(architecture, num_classes, channels, image_size, patch_size)
        needed = sum(shape.numel() for shape in _shapes(spec).values())
        if needed <= 2 * sum(tensor.numel() for tensor in tensors.values()):
            try:
                with torch.random.fork_rng(devices=[]):
                    return Network(source.build(name, spec, tensors).eval(), spec)
            except InputError:
                pass  # the names tell more
    raise InputError(
        f"{origin} does not fit {architecture!r}: {complaint}; name the architecture and sizes that were trained"
    )


def _shapes(spec: ModelSpec) -> dict[str, torch.Size]:
    """Of the network's tensors; takes no memory."""
    with torch.device("meta"):
        model = cast(nn.Sequential, build_model(spec, seed=0))
    return {name: tensor.shape for name, tensor in model[1].state_dict().items()}


def _named_as(expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors by the names of the network, once what wrappers put before them is taken away; None if they have others."""
    wanted = {name for name in expected if not name.endswith(_COUNTERS)}
    named = {name: tensor for name, tensor in tensors.items() if not name.endswith(_COUNTERS)}
    while True:
        if named.keys() == wanted:
            return named
        prefix = next((p for p in _PREFIXES if named and all(name.startswith(p) for name in named)), None)
        if prefix is None:
            return None
        named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}


def _classes_of_head(
    spec: ModelSpec, expected: Mapping[str, torch.Size], named: Mapping[str, Tensor], origin: str
) -> int:
    """The size, in the file, of the dimension that changes with the number of classes."""
    other = _shapes(replace(spec, num_classes=3))
    for name, shape in expected.items():
        found = named[name].shape if name in named else ()
        for axis, sizes in enumerate(zip(shape, other[name], strict=True)):
            if sizes == (2, 3) and axis < len(found):
                return found[axis]
    raise InputError(f"{origin} does not tell its number of classes; name num_classes")


def _difference(expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]) -> str:
    wanted = {name: shape for name, shape in expected.items() if not name.endswith(_COUNTERS)}
    missing, further = (next((n for n in a if n not in b), None) for a, b in ((wanted, tensors), (tensors, expected)))
    if missing is not None:
        return f"it holds no {missing!r} but {further or 'nothing else'!r}"
    if further is not None:
        return f"its {further!r} has no place there"
    name = next((name for name, shape in wanted.items() if tensors[name].shape != shape), "")
    return f"its {name!r} is {list(tensors[name].shape)} but must be {list(wanted[name])}" if name else ""


def text_of_header(data: bytes) -> dict[str, str]:
    """Returns the metadata in the header of a safetensors file; empty where there are none, or it is another file."""
    try:
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except (AttributeError, ValueError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}
