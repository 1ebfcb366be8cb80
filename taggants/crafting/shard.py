"""The work of one shard, as any worker does it: read the signing set, craft, write the attempt."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from taggants.crafting.signing_set import Optimisation, craft_signing_set
from taggants.data.parquet_source import ParquetSource
from taggants.errors import InputError
from taggants.manifest import Commit, RunFolder, Shard
from taggants.models import Precision, model_from_checkpoint
from taggants.storage import Root


@dataclass(frozen=True)
class CraftingJob:
    """All that a worker needs to craft any shard of one plan; pickles, so that a pool can send it.

    Keys travel inside it, in memory only; its repr shows none of them.
    surrogates: path under `models` and SHA-256 of each checkpoint.
    key_images: uint8 [num_keys, C, H, W]. key_labels: int64 [num_keys].
    precision: "float32" or "bfloat16", with channels_last as in `Precision`.
    num_threads: torch threads, part of the plan because they change the order of sums.
    """

    run: Root
    models: Root
    plan_hash: str
    source: ParquetSource
    surrogates: tuple[tuple[str, str], ...]
    optimisation: Optimisation
    precision: str
    channels_last: bool
    num_threads: int
    key_images: NDArray[np.uint8] = field(repr=False)
    key_labels: NDArray[np.int64] = field(repr=False)


class CraftingWorker:
    """Crafts shards one after another; holds only what it can read again from storage."""

    def __init__(self, job: CraftingJob) -> None:
        self._job = job
        self._folder = RunFolder(job.run)
        torch.set_num_threads(job.num_threads)
        read = [
            model_from_checkpoint(job.models.read_bytes(path), job.models.uri_of(path), sha256)
            for path, sha256 in job.surrogates
        ]
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[job.precision]
        self._surrogates = [Precision(model, dtype, channels_last=job.channels_last) for model, _ in read]
        self._spec = read[0][1]

    def craft(self, shard: Shard, attempt: int) -> Commit:
        """Crafts the shard and writes its attempt file; a pure function of (plan, shard) up to the attempt's name.

        Raises:
            InputError: an image of the set cannot be read or has another shape than the surrogate takes.
        """
        job = self._job
        images = job.source.read_images(shard.sample_ids)
        expected = (self._spec.channels, self._spec.image_size, self._spec.image_size)
        if images.shape[1:] != expected:
            raise InputError(
                f"signing images have shape {images.shape[1:]} but the surrogate takes {expected}; use one size"
            )
        key_label = int(job.key_labels[shard.key_index])
        crafted = craft_signing_set(
            self._surrogates,
            torch.from_numpy(images),
            torch.full((len(images),), key_label, dtype=torch.int64),
            torch.tensor(shard.sample_ids, dtype=torch.int64),
            torch.from_numpy(job.key_images[shard.key_index].copy()),
            torch.tensor(key_label),
            job.optimisation,
            seed=shard.seed,
        )
        table = signed_table(
            shard.sample_ids,
            crafted.images.numpy(),
            alignment=crafted.alignment,
            alignment_before=crafted.alignment_before,
            history=crafted.history,
        )
        return self._folder.write_attempt(job.plan_hash, shard, attempt, table)


def signed_table(
    sample_ids: tuple[int, ...],
    images: NDArray[np.uint8],
    *,
    alignment: float,
    alignment_before: float,
    history: tuple[float, ...],
) -> pa.Table:
    """Returns the content of an attempt file: one row per taggant (sample_id, raw pixels), and how it went as metadata."""
    shape = json.dumps(list(images.shape[1:]))
    crafting = json.dumps({"alignment": alignment, "alignment_before": alignment_before, "history": list(history)})
    schema = pa.schema(
        [pa.field("sample_id", pa.int64(), nullable=False), pa.field("pixels", pa.binary(), nullable=False)],
        metadata={"shape": shape, "crafting": crafting},
    )
    return pa.table({"sample_id": list(sample_ids), "pixels": [image.tobytes() for image in images]}, schema=schema)


@dataclass(frozen=True)
class SignedSet:
    """images: sample id -> uint8 [C, H, W]. alignment, alignment_before: cosines in [-1, 1]."""

    images: dict[int, NDArray[np.uint8]]
    alignment: float
    alignment_before: float


def read_signed_table(table: pa.Table) -> SignedSet:
    """Returns what `signed_table` wrote."""
    shape = json.loads(table.schema.metadata[b"shape"])
    crafting = json.loads(table.schema.metadata[b"crafting"])
    images = {
        sample_id: np.frombuffer(pixels, dtype=np.uint8).reshape(shape)
        for sample_id, pixels in zip(table["sample_id"].to_pylist(), table["pixels"].to_pylist(), strict=True)
    }
    return SignedSet(images, crafting["alignment"], crafting["alignment_before"])
