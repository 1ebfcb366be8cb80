"""A suspect with timm's pretrained weights, or with weights that others saved in timm's form, on the Hugging Face hub or in a
folder: `config.json` beside `model.safetensors` or `pytorch_model.bin`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from taggants.errors import InputError
from taggants.identity import strict_json
from taggants.storage import Root
from taggants.suspects.description import FileUri, Owner
from taggants.suspects.naming import name_of_file
from taggants.suspects.weights import Weights, WeightsDescription, read_file

_OPTIONS = {"num_classes", "in_chans", "img_size", "patch_size", "global_pool"}
"""Of a timm model, that a description of weights can stand for."""
_FILES = ("model.safetensors", "pytorch_model.bin")


class TimmDescription(WeightsDescription):
    """A model in timm's form; its config.json names architecture, size, normalisation and, where it lists them, classes."""

    model: str | None = Field(None, description="timm/NAME, or hf-hub:ORG/NAME with an optional @REVISION")
    path: FileUri | None = Field(None, description="folder with config.json and weights, in place of `model`")

    @model_validator(mode="after")
    def _is_one(self) -> TimmDescription:
        if (self.model is None) == (self.path is None):
            raise ValueError("name either model or path")
        if self.model is not None and not self.model.startswith(("timm/", "hf-hub:")):
            raise ValueError(f"model = {self.model!r} must be timm/NAME or hf-hub:ORG/NAME")
        return self

    def load(self, owner: Owner) -> Weights:
        from taggants.models.weights import network_of, read_tensors

        uri = _in_folder(self.path) if self.path is not None else _from_the_hub(str(self.model))
        folder, _ = Root.of_file(uri)
        config_uri = folder.uri_of("config.json")
        config = _Config(strict_json(folder.read_bytes("config.json"), config_uri), config_uri)
        data, sha256, origin = read_file(uri)
        network = network_of(
            f"timm/{config.architecture}",
            read_tensors(data, origin),
            origin,
            channels=config.channels,
            image_size=self.image_size or config.image_size,
            patch_size=config.patch_size,
            num_classes=config.num_classes,
        )
        _check_pooling(network.model[1], config.global_pool, origin)
        found = {name: getattr(config, name) for name in ("mean", "std") if getattr(self, name) is None}
        mean, std = self.model_copy(update=found).normalisation(network)
        spoken = (self.model or name_of_file(uri)).rpartition("/")[2]
        return Weights(network, mean, std, sha256, self.class_names or config.class_names, origin, spoken)


class _Config:
    """A config.json as timm writes it, of which every field is a stranger's."""

    def __init__(self, content: Any, uri: str) -> None:
        import timm

        inner = content.get("pretrained_cfg", content) if isinstance(content, Mapping) else None
        if not isinstance(inner, Mapping):
            raise InputError(f"{uri} is not what timm writes; restore it")
        self.architecture = content.get("architecture")
        if not isinstance(self.architecture, str) or not timm.is_model(self.architecture):
            raise InputError(
                f"{uri} names the architecture {self.architecture!r}, which this timm does not know; update timm"
            )
        options = content.get("model_args") or {}
        if not isinstance(options, Mapping) or not set(options) <= _OPTIONS:
            raise InputError(
                f"{uri} sets model_args = {options!r}, of which only {', '.join(sorted(_OPTIONS))} are supported; give the "
                "weights with `kind: state-dict` and an architecture"
            )
        self.global_pool, self.patch_size = content.get("global_pool"), options.get("patch_size")
        self.channels, self.image_size = _shape(options, inner.get("input_size"), uri)
        self.num_classes = content.get("num_classes", inner.get("num_classes"))
        self.mean, self.std = (self._numbers(inner.get(name), f"{uri}: {name}") for name in ("mean", "std"))
        if type(self.num_classes) is not int or not 1 <= self.num_classes <= 10**6:
            raise InputError(f"{uri} has num_classes = {self.num_classes!r}; models that classify are supported")
        names = content.get("label_names") or inner.get("label_names")
        if isinstance(names, list) and len(names) == self.num_classes and all(isinstance(n, str) for n in names):
            self.class_names: tuple[str, ...] | None = tuple(names)
        elif self.num_classes == 1000 and "in1k" in str(inner.get("tag")):
            self.class_names = tuple(timm.data.ImageNetInfo().label_names())
        else:
            self.class_names = None

    def _numbers(self, given: Any, what: str) -> tuple[float, ...] | None:
        if given is None:
            return None
        if not isinstance(given, list) or not all(isinstance(value, int | float) for value in given):
            raise InputError(f"{what} = {given!r} must be a list of numbers")
        try:
            return tuple(map(float, given))
        except OverflowError:
            raise InputError(f"{what} = {given!r:.100} must be a list of numbers that a float can hold") from None


def _shape(options: Mapping[str, Any], input_size: Any, uri: str) -> tuple[int, int]:
    """(channels, height = width); model_args count before the pretrained_cfg, as for timm."""
    channels, *sides = input_size if isinstance(input_size, list) and input_size else (3,)
    size = options.get("img_size") or sides
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    channels = options.get("in_chans") or channels
    if type(height) is not int or height != width or height < 1 or channels not in (1, 3):
        raise InputError(
            f"{uri} has input_size = {[channels, height, width]}; 1 or 3 channels and square images are supported"
        )
    return int(channels), height


def _check_pooling(network: Any, expected: Any, origin: str) -> None:
    """Weights fit any pooling, and answer otherwise."""
    pool = getattr(network, "global_pool", getattr(getattr(network, "head", None), "global_pool", None))
    found = getattr(pool, "pool_type", pool)
    if isinstance(expected, str) and isinstance(found, str) and found != expected:
        raise InputError(
            f"{origin} was trained with global_pool = {expected!r} but its architecture has {found!r}, which is not supported"
        )


def _in_folder(path: str) -> str:
    root = Root(path)
    found = next((root.uri_of(name) for name in _FILES if root.exists(name)), None)
    if found is None:
        raise InputError(f"{root.uri} holds neither {' nor '.join(_FILES)}; give a folder that timm saved")
    return found


def _from_the_hub(model: str) -> str:
    """The path of the weights in the hub's local cache, downloaded where they are not there yet, beside their config.json."""
    import huggingface_hub
    import timm
    from huggingface_hub.errors import EntryNotFoundError

    name = model.removeprefix("hf-hub:")
    if model.startswith("timm/"):
        try:
            known = timm.get_pretrained_cfg(model.removeprefix("timm/"), allow_unregistered=False)
        except RuntimeError:
            raise InputError(
                f"suspect {model!r}: timm knows no such model or weights; timm.list_pretrained() lists them"
            ) from None
        if known is None or not known.hf_hub_id:
            raise InputError(f"suspect {model!r} has no weights on the hub; give a file: {model}@weights.pth")
        name = known.hf_hub_id
    repository, _, revision = name.partition("@")
    try:
        huggingface_hub.hf_hub_download(repository, "config.json", revision=revision or None)
        try:
            path = huggingface_hub.hf_hub_download(repository, _FILES[0], revision=revision or None)
        except EntryNotFoundError:
            path = huggingface_hub.hf_hub_download(repository, _FILES[1], revision=revision or None)
    except (OSError, ValueError, EntryNotFoundError) as error:
        raise InputError(
            f"suspect {model!r} cannot be fetched from the Hugging Face hub ({' '.join(str(error).split())[:150]}); check the "
            "name and the network, or give a folder: local-dir:PATH"
        ) from None
    return str(path)


def fields_of_timm(text: str) -> dict[str, Any] | None:
    """Returns the fields that timm/NAME, hf-hub:ORG/NAME or local-dir:PATH gives; None for other texts."""
    if text.startswith("local-dir:"):
        return {"path": text.removeprefix("local-dir:")}
    return {"model": text} if text.startswith(("timm/", "hf-hub:")) else None
