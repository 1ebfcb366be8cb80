"""Surrogates and victims by name, each with its input normalisation inside, and their checkpoints (safetensors, never pickle)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from taggants.alignment import gate_kinks
from taggants.alignment.convolutions import speed_up_convolutions
from taggants.errors import InputError
from taggants.limits import check_pixels

BUILT_IN_WIDTHS: dict[str, tuple[int, ...]] = {"cnn": (32, 64, 64), "cnn_wide": (64, 128, 256)}
"""Output channels of the three convolutions of the built-in nets."""


@dataclass(frozen=True)
class ModelSpec:
    """What is needed to build a model again.

    name: "cnn" or "cnn_wide" (built in, no normalisation layers) or any timm name, written "timm/NAME".
    image_size: height and width in pixels. channels: 1 or 3. patch_size: of a vision transformer, in pixels; None is the
    model's own, which at 32 px leaves 4 patches of 16 px.
    """

    name: str
    num_classes: int
    channels: int
    image_size: int
    patch_size: int | None = field(default=None, metadata={"later": True})

    def __post_init__(self) -> None:
        counts = (self.num_classes, self.channels, self.image_size, 1 if self.patch_size is None else self.patch_size)
        if not isinstance(self.name, str) or not all(type(count) is int and 1 <= count <= 10**6 for count in counts):
            raise InputError(f"{self} is no model: it needs a name and whole numbers from 1 to 1,000,000")


class InputNormalisation(nn.Module):
    """Maps pixels in [0, 1] to the range the network was designed for: (x - mean) / std per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def _plain_cnn(widths: Sequence[int], spec: ModelSpec) -> nn.Module:
    """Convolutions 3x3 with ReLU and one linear layer, without normalisation or pooling layers.

    All convolutions but the first halve the image by their stride while more than 4 pixels remain: in probes on digits,
    max-pooling in their place cost victims half of their hits.
    """
    layers: list[nn.Module] = []
    channels, size = spec.channels, spec.image_size
    for index, width in enumerate(widths):
        stride = 2 if index > 0 and size > 4 else 1
        layers += [nn.Conv2d(channels, width, 3, stride=stride, padding=1), nn.ReLU()]
        channels, size = width, -(-size // stride)
    if size > 8:  # keeps the linear layer small for inputs above 32 px
        layers.append(nn.AdaptiveAvgPool2d(8))
        size = 8
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size * size, spec.num_classes))


def build_model(spec: ModelSpec, seed: int) -> nn.Module:
    """Returns a freshly initialised model that takes pixels in [0, 1] of shape [N, channels, image_size, image_size].

    The weights are a function of (spec, seed); the global torch generator is left as it was.

    Raises:
        InputError: no such model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.name in BUILT_IN_WIDTHS:
            _refuse_patches(spec)
            normalisation = InputNormalisation([0.5] * spec.channels, [0.25] * spec.channels)
            return nn.Sequential(normalisation, _plain_cnn(BUILT_IN_WIDTHS[spec.name], spec))
        library, _, name = spec.name.partition("/")
        if library != "timm" or not timm.is_model(name):
            known = ", ".join(sorted(BUILT_IN_WIDTHS))
            raise InputError(
                f"model {spec.name!r} does not exist; use one of {known}, or timm/NAME with a name that "
                "timm.list_models() lists, for example timm/resnet18"
            )
        options: dict[str, object] = {"num_classes": spec.num_classes, "in_chans": spec.channels}
        if has_patches(spec.name):
            options["img_size"] = spec.image_size
            if spec.patch_size is not None:
                options["patch_size"] = spec.patch_size
        else:
            _refuse_patches(spec)
        try:
            network = timm.create_model(name, pretrained=False, **options)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"timm cannot build {name!r} for {spec.channels} channels of {spec.image_size} px ({error}); "
                "choose a model that fits the images"
            ) from error
        means, stds = network.default_cfg["mean"], network.default_cfg["std"]
        if spec.channels == 1:
            means, stds = [sum(means) / len(means)], [sum(stds) / len(stds)]
        return nn.Sequential(InputNormalisation(means, stds), network)


def has_patches(name: str) -> bool:
    """Whether the model of this name is a vision transformer, whose patches are as large as one likes."""
    return name.startswith("timm/") and timm.models.is_model_in_modules(name[5:], ["vision_transformer", "deit"])


def _refuse_patches(spec: ModelSpec) -> None:
    if spec.patch_size is not None:
        raise InputError(f"model {spec.name!r} has no patches, so patch_size {spec.patch_size} fits none; leave it out")


DTYPE_OF_PRECISION = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
"""By the names in the configuration; tf32 is float32 with a global setting of matrix products."""


class Precision(nn.Module):
    """A model that computes in another precision and memory layout, and answers in float32.

    Its weights stay float32, so gradients by them and by the pixels accumulate and arrive in float32.
    dtype: torch.float32 or torch.bfloat16, of matrix products and convolutions. channels_last: layout of images and weights;
    changes speed and rounding only. is_first_order: the model will be differentiated once only, so kernels without a second
    derivative may be used, and finite differences need its ReLUs behind gates. is_compiled: without gates, since each would
    be compiled anew at each of its places in the pattern.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        *,
        channels_last: bool,
        is_first_order: bool = False,
        is_compiled: bool = False,
    ) -> None:
        super().__init__()
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self._format)
        if is_first_order:
            speed_up_convolutions(self.model)
            if not is_compiled:
                gate_kinks(self.model)
        on_cpu = next(model.parameters()).device.type == "cpu"
        if dtype == torch.bfloat16 and on_cpu:
            # The CPU's fused attention takes 1.5 times as long there (ViT-tiny, forward and backward).
            for module in model.modules():
                if isinstance(module, timm.layers.Attention):
                    module.fused_attn = False
        self._dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        lowered = self._dtype != torch.float32
        # No cache: gradients of gradients and exchanged weights must not meet casts of other weights.
        with torch.autocast(images.device.type, dtype=self._dtype, enabled=lowered, cache_enabled=False):
            scores: Tensor = self.model(images.contiguous(memory_format=self._format))
        return scores.to(torch.float32) if lowered else scores


def check_model(spec: ModelSpec) -> None:
    """Builds the model and tries it on one black image, so that a misfit shows before any work.

    Raises:
        InputError: no such model, or it does not take images of this size.
    """
    model = build_model(spec, seed=0).eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, spec.channels, spec.image_size, spec.image_size))
    except (AssertionError, RuntimeError) as error:
        raise InputError(
            f"model {spec.name!r} does not take {spec.channels} channels of {spec.image_size} px "
            f"({' '.join(str(error).split())[:120]}); choose a model that fits the images"
        ) from error


def checkpoint_bytes(model: nn.Module, spec: ModelSpec) -> bytes:
    """Returns a safetensors file that holds the weights and, in its header, the spec; a pure function of both."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    written = {name: value for name, value in asdict(spec).items() if value is not None}
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
