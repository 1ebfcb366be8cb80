"""The work of one shard, as any worker does it: read the signing set, craft, write the attempt."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from taggants.alignment.gradients import Gradient
from taggants.augmentation import MixAugment
from taggants.crafting.events import Crafted
from taggants.crafting.methods import METHODS, Imprint, SetToSign
from taggants.crafting.plan import RunFolder, Shard
from taggants.crafting.signing_set import Optimisation, SigningSet, key_gradients
from taggants.data.set_codec import codec_for
from taggants.data.source import ImageSource
from taggants.errors import InputError
from taggants.limits import MOST_CANVAS_BYTES
from taggants.models import DTYPE_OF_PRECISION, Precision, model_from_checkpoint
from taggants.perturbation.perceptual import Lpips, PerceptualDistance, PerceptualTerm, lpips_from_bytes
from taggants.storage import Root

_MOST_KEY_GRADIENTS = 4


@dataclass(frozen=True)
class Perception:
    """The perceptual term. weights_uri: the LPIPS weights; empty for "ssim"."""

    name: PerceptualDistance
    weight: float
    weights_uri: str


@dataclass(frozen=True)
class Companions:
    """With which clean images signed ones are mixed, and how; the images are those of `sample_ids`."""

    mix: MixAugment
    sample_ids: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Hardware:
    """What a worker computes on and how. Part of the plan: all of it changes rounding.

    device: "cpu" or "cuda". precision: "float32", "tf32" (of matrix products, on CUDA) or "bfloat16" as in `Precision`,
    like channels_last. compile: by torch.compile, for engines of first order. num_threads: of torch.
    """

    device: str
    precision: str
    channels_last: bool
    compile: bool
    num_threads: int


@dataclass(frozen=True)
class CraftingJob:
    """All that a worker needs to craft any shard of one plan; pickles, so that a pool can send it.

    Keys travel inside it, in memory only; its repr shows none of them.
    surrogates: path under `models` and SHA-256 of each checkpoint; none where the method optimises nothing on them.
    method: by its name in `METHODS`.
    image_size: side of the images that the surrogates take; augmentation and evaluation bring native images to it.
    key_images: uint8 [num_keys, C, H, W]. key_labels: int64 [num_keys]. key_ids: `KeySet.ids`.
    """

    run: Root
    models: Root
    plan_hash: str
    source: ImageSource
    image_size: int
    surrogates: tuple[tuple[str, str], ...]
    optimisation: Optimisation
    hardware: Hardware
    perception: Perception | None
    companions: Companions | None
    method: str
    imprint: Imprint
    key_images: NDArray[np.uint8] = field(repr=False)
    key_labels: NDArray[np.int64] = field(repr=False)
    key_ids: tuple[str, ...] = field(repr=False)


class CraftingWorker:
    """Crafts shards one after another; holds only what it can read again from storage."""

    def __init__(self, job: CraftingJob) -> None:
        self._job = job
        self._folder = RunFolder(job.run)
        hardware = job.hardware
        self._device = torch.device(hardware.device)
        torch.set_num_threads(hardware.num_threads)
        if hardware.precision == "tf32":
            torch.set_float32_matmul_precision("high")
        # By default convolutions use it in float32, too.
        torch.backends.cudnn.allow_tf32 = hardware.precision == "tf32"
        self._surrogates = []
        for path, sha256 in job.surrogates:
            model, _ = model_from_checkpoint(job.models.read_bytes(path), job.models.uri_of(path), sha256)
            model = model.to(self._device)
            if hardware.compile:
                model.compile(
                    dynamic=False
                )  # a set has a few fixed sizes of microbatch, and kernels of one size are faster
            is_first_order = job.optimisation.engine.is_first_order
            self._surrogates.append(
                Precision(
                    model,
                    DTYPE_OF_PRECISION[hardware.precision],
                    channels_last=hardware.channels_last,
                    is_first_order=is_first_order,
                    is_compiled=hardware.compile,
                )
            )
        self._lpips: Lpips | None = None
        if job.perception is not None and job.perception.name == "lpips":
            self._lpips = read_lpips(job.perception.weights_uri).to(self._device)
        self._companions = None
        if job.companions is not None:
            pixels = torch.from_numpy(job.source.read_resized(job.companions.sample_ids, job.image_size))
            labels = torch.tensor(job.companions.labels)
            self._companions = job.companions.mix.bind(pixels.to(self._device), labels.to(self._device))
        self._key_gradients: OrderedDict[int, list[Gradient]] = OrderedDict()

    def craft(self, shard: Shard, attempt: int) -> Crafted:
        """Crafts the shard and writes its attempt file; a pure function of (plan, shard) up to the attempt's name.

        Raises:
            InputError: an image of the set cannot be read or has another shape than the surrogate takes.
        """
        job, device = self._job, self._device
        key_label = torch.tensor(int(job.key_labels[shard.key_index]), device=device)
        key_image = torch.from_numpy(job.key_images[shard.key_index].copy()).to(device)
        encoded = job.source.read_encoded(shard.sample_ids)
        originals = job.source.decode(encoded, shard.sample_ids)
        canvas, sizes = on_canvas(originals)
        if job.optimisation.evaluation.output_size is None and canvas.shape[1:] != key_image.shape:
            raise InputError(
                f"signing images have shape {tuple(canvas.shape[1:])} but the surrogate takes {tuple(key_image.shape)}; "
                "set data.image_size"
            )
        if device.type == "cuda":
            canvas = canvas.pin_memory()
        images = canvas.to(device, non_blocking=True)
        sizes = None if sizes is None else sizes.to(device)

        def part(places: Sequence[int]) -> SetToSign:
            rows = slice(None) if len(places) == len(images) else torch.tensor(places, device=device)
            chosen = images[rows]
            perceptual = None
            if job.perception is not None:
                perceptual = PerceptualTerm(job.perception.name, job.perception.weight, chosen, self._lpips)
            signing_set = SigningSet(
                images=chosen,
                labels=key_label.expand(len(chosen)),
                image_ids=torch.tensor([shard.sample_ids[i] for i in places], dtype=torch.int64, device=device),
                sizes=None if sizes is None else sizes[rows],
                codec=codec_for([encoded[i] for i in places]).to(device),
                mixing=self._companions,
            )
            return SetToSign(
                signing_set=signing_set,
                key_image=key_image,
                key_gradients=lambda: self._gradients_of(shard.key_index, key_image, key_label),
                surrogates=self._surrogates,
                optimisation=job.optimisation,
                imprint=job.imprint,
                seed=shard.seed,
                key_id=job.key_ids[shard.key_index],
                perceptual=perceptual,
                part=part,
            )

        crafted = METHODS.find(job.method).sign(part(range(len(images))))
        pixels = [
            image[:, : original.shape[1], : original.shape[2]]
            for image, original in zip(crafted.images.cpu().numpy(), originals, strict=True)
        ]
        table = signed_table(
            shard.sample_ids,
            pixels,
            alignment=crafted.alignment,
            alignment_before=crafted.alignment_before,
            history=crafted.history,
        )
        return Crafted(self._folder.write_attempt(job.plan_hash, shard, attempt, table), crafted.alignment)

    def _gradients_of(self, key_index: int, key_image: Tensor, key_label: Tensor) -> list[Gradient]:
        """The key's gradients on all surrogates; a worker holds one set of surrogates, so the key alone names them."""
        if key_index not in self._key_gradients:
            # A compilation for one image would take longer than all keys.
            with torch.compiler.set_stance("force_eager"):
                self._key_gradients[key_index] = key_gradients(self._surrogates, key_image, key_label)
            if len(self._key_gradients) > _MOST_KEY_GRADIENTS:
                self._key_gradients.popitem(last=False)
        return self._key_gradients[key_index]


def read_lpips(uri: str) -> Lpips:
    """Returns the network of the weights file at a path or URI.

    Raises:
        InputError: there is no such file, or it holds other weights.
    """
    root, name = Root.of_file(uri)
    return lpips_from_bytes(root.read_bytes(name))


def on_canvas(images: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor | None]:
    """Returns uint8 [N, C, H, W] with each image [C, h, w] at the top left, and their sizes int64 [N, 2]; no sizes where
    all are alike. What lies beyond an image is 0.

    Raises:
        InputError: they are too different for one canvas.
    """
    sizes = torch.tensor([image.shape[1:] for image in images])
    height, width = sizes.amax(0).tolist()
    if len(images) * images[0].shape[0] * height * width > MOST_CANVAS_BYTES:
        raise InputError(
            f"a signing set holds {len(images)} images whose largest height and width are {height} and {width} px, too much "
            f"for a canvas of {MOST_CANVAS_BYTES} bytes; crop its longest images, or leave them out of the dataset"
        )
    canvas = torch.zeros(len(images), images[0].shape[0], height, width, dtype=torch.uint8)
    for place, image in zip(canvas, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = torch.from_numpy(image)
    return canvas, None if bool((sizes == sizes[0]).all()) else sizes


def signed_table(
    sample_ids: tuple[int, ...],
    images: Sequence[NDArray[np.uint8]],
    *,
    alignment: float | None,
    alignment_before: float | None,
    history: tuple[float, ...],
) -> pa.Table:
    """Returns the content of an attempt file: one row per taggant (sample_id, shape, raw pixels), how it went as metadata."""
    crafting = json.dumps({"alignment": alignment, "alignment_before": alignment_before, "history": list(history)})
    schema = pa.schema(
        [
            pa.field("sample_id", pa.int64(), nullable=False),
            pa.field("shape", pa.list_(pa.int32(), 3), nullable=False),
            pa.field("pixels", pa.binary(), nullable=False),
        ],
        metadata={"crafting": crafting},
    )
    return pa.table(
        {
            "sample_id": list(sample_ids),
            "shape": [list(image.shape) for image in images],
            "pixels": [image.tobytes() for image in images],
        },
        schema=schema,
    )


@dataclass(frozen=True)
class SignedSet:
    """images: sample id -> uint8 [C, H, W]. alignment, alignment_before: cosines in [-1, 1], None where nothing was optimised."""

    images: dict[int, NDArray[np.uint8]]
    alignment: float | None
    alignment_before: float | None


def read_signed_table(table: pa.Table) -> SignedSet:
    """Returns what `signed_table` wrote."""
    crafting = json.loads(table.schema.metadata[b"crafting"])
    columns = [table[name].to_pylist() for name in ("sample_id", "shape", "pixels")]
    images = {
        sample_id: np.frombuffer(pixels, dtype=np.uint8).reshape(shape)
        for sample_id, shape, pixels in zip(*columns, strict=True)
    }
    return SignedSet(images, crafting["alignment"], crafting["alignment_before"])
