"""A suspect that is an image-classification pipeline of Hugging Face: a folder or name on the hub with its own processor."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Final, Literal

from pydantic import Field

from taggants.errors import InputError
from taggants.suspects.description import FileUri, Owner, SuspectDescription
from taggants.suspects.preprocessing import Preprocessing
from taggants.suspects.weights import device_of

_MOST_LAYERS: Final = 1000


class HuggingFaceDescription(SuspectDescription):
    """Weights as safetensors, in a folder or on the hub; code that comes with a model is never run."""

    path: FileUri | None = Field(None, description="folder that save_pretrained wrote")
    model: str | None = Field(None, description="ORG/NAME on the hub, in place of `path`")
    revision: str | None = Field(None, description="of the model on the hub: a branch, tag or commit")
    image_size: int | None = Field(None, ge=1, le=8192, description="side in px that it takes; null: its processor's")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where it answers")

    def open(self, owner: Owner) -> Any:
        if (self.model is None) == (self.path is None):
            raise InputError("a huggingface suspect is named by either model or path")
        transformers = _transformers()
        place = self.path or self.model
        options = {"revision": self.revision, "trust_remote_code": False}
        try:
            _check_layers(transformers.AutoConfig.from_pretrained(place, **options).to_dict())
            processor = transformers.AutoImageProcessor.from_pretrained(place, **options)
            network = transformers.AutoModelForImageClassification.from_pretrained(
                place, use_safetensors=True, **options
            )
        except InputError:
            raise
        except Exception as error:  # a stranger's configuration fails in any way there is
            raise InputError(
                f"{place} cannot be opened as an image classifier of transformers ({' '.join(str(error).split())[:120]}); give "
                "a folder with config.json, preprocessor_config.json and model.safetensors, or check the name and the network"
            ) from None
        name = PurePosixPath(str(place)).name
        return suspect_of(network.to(device_of(self.device)), processor, name, owner, self.image_size)


def _check_layers(config: dict[str, Any]) -> None:
    """A stranger's configuration may name any number, and each layer takes time before a weight is read.

    Raises:
        InputError: it names more layers than any network has.
    """
    for name, value in config.items():
        for depth in value if isinstance(value, list) else [value]:
            if ("layer" in name or "depth" in name) and isinstance(depth, int) and depth > _MOST_LAYERS:
                raise InputError(f"its {name} is {value!r:.40}, but at most {_MOST_LAYERS} layers are supported")


def suspect_of(network: Any, processor: Any, name: str, owner: Owner, image_size: int | None = None) -> Any:
    """Returns the suspect with the network and the normalisation of a pipeline.

    Raises:
        InputError: the processor names no square size, or scales otherwise than to (pixel / 255 - mean) / std.
    """
    from taggants.suspects.module_suspect import ModuleSuspect

    size = image_size or _size_of(processor)
    rescaled = bool(getattr(processor, "do_rescale", True))
    factor = getattr(processor, "rescale_factor", 1 / 255)
    if not rescaled or not isinstance(factor, int | float) or not abs(factor * 255 - 1) <= 1e-6:
        raise InputError(f"the processor of {name} does not scale pixels to [0, 1]; test it by a function")
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    try:
        if getattr(processor, "do_normalize", False):
            mean, std = tuple(map(float, processor.image_mean)), tuple(map(float, processor.image_std))
        names = [str(network.config.id2label[i]) for i in range(len(network.config.id2label))]
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise InputError(
            f"{name} names no numbers as image_mean or image_std, or not each class as id2label ({error!r:.100}); correct its "
            "configuration"
        ) from None
    spoken = (
        all(names) and not all(label == f"LABEL_{i}" for i, label in enumerate(names)) and len(set(names)) == len(names)
    )
    return ModuleSuspect(
        network.eval(),
        name,
        Preprocessing(size, mean, std, channels=len(mean)),
        image_shape=owner.image_shape,
        class_names=tuple(names) if spoken else None,
    )


def _size_of(processor: Any) -> int:
    given = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    given = given or getattr(processor, "size", None)
    sides = dict(given) if given is not None else {}
    height, width = (sides.get(name) or sides.get("shortest_edge") for name in ("height", "width"))
    if not isinstance(height, int) or height != width:
        raise InputError(f"the processor names the size {sides}; name image_size, the side in px that the model takes")
    return height


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError("a Hugging Face suspect needs transformers; pip install 'taggants[huggingface]'") from None
    return transformers


def fields_of_hugging_face(text: str) -> dict[str, Any] | None:
    """Returns the fields that huggingface:ORG/NAME gives, or huggingface: and the path of a folder; None for other texts."""
    name = text.removeprefix("huggingface:")
    if name == text:
        return None
    is_path = name.startswith((".", "/", "~")) or name.count("/") != 1
    return {"path" if is_path else "model": name}
