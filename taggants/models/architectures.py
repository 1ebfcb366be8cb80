"""Networks by name, each with its input normalisation inside, from sources that can be added to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import timm
import torch
from torch import Tensor, nn

from taggants.errors import InputError
from taggants.models.adaptation import Adaptation, adapted
from taggants.registry import Registry


@dataclass(frozen=True)
class ModelSpec:
    """What is needed to build a model again.

    name: SOURCE/NAME or SOURCE:NAME with a source of `MODEL_SOURCES`, such as "timm/resnet18"; a bare name, such as "cnn", is
    of the source "built-in". image_size: height and width in pixels. channels: 1 or 3.
    patch_size: in pixels, of the patches of timm's vision transformers or the stem of its ConvNeXts; None: the model's own, made
    for larger images (16 and 4 px). A ConvNeXt with a stem of 2 px halves the map once more after it, so that only 1 px leaves
    larger maps than 4.
    drop_path: highest rate of stochastic depth while training, in [0, 1).
    adaptation: of a network that was trained elsewhere, for images or classes unlike ours.
    """

    name: str
    num_classes: int
    channels: int
    image_size: int
    patch_size: int | None = None
    drop_path: float = 0.0
    adaptation: Adaptation | None = field(
        default=None, repr=False
    )  # never trained: identities of trainings hash the repr

    def __post_init__(self) -> None:
        if isinstance(self.adaptation, Mapping):  # from the header of a checkpoint
            object.__setattr__(self, "adaptation", Adaptation(**self.adaptation))
        counts = (self.num_classes, self.channels, self.image_size, 1 if self.patch_size is None else self.patch_size)
        if not isinstance(self.name, str) or not all(type(count) is int and 1 <= count <= 10**6 for count in counts):
            raise InputError(f"{self} is not a model: it needs a name and whole numbers from 1 to 1,000,000")
        if not isinstance(self.drop_path, int | float) or not 0 <= self.drop_path < 1:
            raise InputError(f"{self} is not a model: drop_path must lie in [0, 1); 0 turns it off")


class ModelSource(Protocol):
    """Where models come from. `MODEL_SOURCES` holds one object for each prefix of model names."""

    names: str
    """How its models are named, for error sentences."""

    def has(self, name: str) -> bool:
        """Returns whether there is a model of this name, which is without the prefix."""

    def options(self, name: str) -> frozenset[str]:
        """Returns which of "patch_size" and "drop_path" the model of this name takes."""

    def build(self, name: str, spec: ModelSpec) -> nn.Sequential:
        """Returns the input normalisation and the network, which takes [N, channels, image_size, image_size].

        Weights are drawn from torch's global generator, which the caller has seeded.

        Raises:
            InputError: the model does not fit the spec.
        """


MODEL_SOURCES: Registry[ModelSource] = Registry("model source")
"""By the prefixes of model names."""


def build_model(spec: ModelSpec, seed: int) -> nn.Module:
    """Returns a freshly initialised model that takes pixels in [0, 1] of shape [N, channels, image_size, image_size].

    The weights are a function of (spec, seed); the global torch generator is left as it was.

    Raises:
        InputError: no such model.
    """
    source, name = source_of(spec.name)
    options = source.options(name)
    for option, value, default in (("patch_size", spec.patch_size, None), ("drop_path", spec.drop_path, 0)):
        if value != default and option not in options:
            raise InputError(f"model {spec.name!r} takes no {option}, but {value} is given; leave it out")
    own = spec.adaptation
    inner = spec
    if own is not None:
        if len(own.columns or range(own.num_classes)) != spec.num_classes:
            raise InputError(f"{spec} has {spec.num_classes} classes but its network {own.num_classes}; choose columns")
        inner = replace(
            spec, channels=own.channels, image_size=own.image_size, num_classes=own.num_classes, adaptation=None
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = source.build(name, inner)
    return model if own is None else adapted(model, spec.channels, spec.image_size, own)


def options_of(model: str) -> frozenset[str]:
    """Returns which of "patch_size" and "drop_path" the model of this name takes.

    Raises:
        InputError: no such model.
    """
    source, name = source_of(model)
    return source.options(name)


def source_of(model: str) -> tuple[ModelSource, str]:
    """Returns the source of a model, and its name there.

    Raises:
        InputError: no such model.
    """
    parts = re.split("[/:]", model, maxsplit=1)
    prefix, name = parts if len(parts) == 2 else ("built-in", model)
    source = MODEL_SOURCES.get(prefix)
    if source is None or not source.has(name):
        known = "; or ".join(source.names for source in MODEL_SOURCES.values())
        raise InputError(f"model {model!r} does not exist; use {known}")
    return source, name


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
        patches = "" if spec.patch_size is None else f" with patch_size {spec.patch_size}"
        raise InputError(
            f"model {spec.name!r}{patches} does not take {spec.channels} channels of {spec.image_size} px "
            f"({' '.join(str(error).split())[:120]}); choose a model that fits the images"
        ) from error


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


BUILT_IN_WIDTHS: dict[str, tuple[int, ...]] = {"cnn": (32, 64, 64), "cnn_wide": (64, 128, 256)}
"""Output channels of the three convolutions of the built-in nets."""


class BuiltInModels:
    """Plain convolutional nets without normalisation layers."""

    names = f"one of {', '.join(BUILT_IN_WIDTHS)}"

    def has(self, name: str) -> bool:
        return name in BUILT_IN_WIDTHS

    def options(self, name: str) -> frozenset[str]:
        return frozenset()

    def build(self, name: str, spec: ModelSpec) -> nn.Sequential:
        normalisation = InputNormalisation([0.5] * spec.channels, [0.25] * spec.channels)
        return nn.Sequential(normalisation, _plain_cnn(BUILT_IN_WIDTHS[name], spec))


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


class TimmModels:
    """Everything that timm can build."""

    names = "timm/NAME with a name that timm.list_models() lists, for example timm/resnet18"

    def has(self, name: str) -> bool:
        return bool(timm.is_model(name))

    def options(self, name: str) -> frozenset[str]:
        has_patches = timm.models.is_model_in_modules(name, ["vision_transformer", "deit", "convnext"])
        return frozenset({"drop_path", "patch_size"} if has_patches else {"drop_path"})

    def build(self, name: str, spec: ModelSpec, tensors: Mapping[str, Tensor] | None = None) -> nn.Sequential:
        """tensors: weights under names of the model's authors, which timm knows to translate."""
        options: dict[str, object] = {"num_classes": spec.num_classes, "in_chans": spec.channels}
        if timm.models.is_model_in_modules(name, ["vision_transformer", "deit"]):
            options["img_size"] = spec.image_size
        if spec.patch_size is not None:
            options["patch_size"] = spec.patch_size
        if spec.drop_path:
            options["drop_path_rate"] = spec.drop_path
        if tensors is not None:
            size = (spec.channels, spec.image_size, spec.image_size)
            given = {"state_dict": dict(tensors), "num_classes": spec.num_classes, "input_size": size}
            options |= {"pretrained": True, "pretrained_cfg_overlay": given}
        try:
            network = timm.create_model(name, **options)
        except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"timm cannot build {name!r} for {spec.channels} channels of {spec.image_size} px ({error}); "
                "choose a model and options that fit the images"
            ) from error
        means, stds = network.default_cfg["mean"], network.default_cfg["std"]
        if spec.channels == 1:
            means, stds = [sum(means) / len(means)], [sum(stds) / len(stds)]
        return nn.Sequential(InputNormalisation(means, stds), network)


MODEL_SOURCES.register("built-in", BuiltInModels())
MODEL_SOURCES.register("timm", TimmModels())
