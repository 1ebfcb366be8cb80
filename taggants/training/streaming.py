"""Training examples that stay in storage: read, decoded and augmented a few batches ahead, by torch's DataLoader or Ray Data.

Both give the batches of `InMemory` bit for bit, so how a model's images were read is no part of its identity. They read
row by row in the order of the epoch, which suits a file per image and tars; a row of a Parquet file costs its row group.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from taggants.data.source import ImageSource, read_for_models
from taggants.errors import InputError
from taggants.training.examples import Batch, Epoch, make_batch

_AHEAD = 4
"""Batches that each reading process may be ahead of the training."""


class _Reader:
    """Reads one batch; goes to another process without the index of the source."""

    def __init__(self, source: ImageSource, image_size: int | None, labels: Tensor) -> None:
        self._source, self._image_size, self._labels = source, image_size, labels

    def __call__(self, epoch: Epoch, rows: Tensor) -> Batch | str:
        """Returns: the batch, or what is wrong with the input: an exception would come out of the process as a traceback."""
        try:
            images = read_for_models(self._source, rows.tolist(), self._image_size)
        except InputError as error:
            return str(error)
        return make_batch(torch.from_numpy(images), self._labels, rows, epoch)


class _Batches(Dataset[Batch | str]):
    """As DataLoader wants it: an item is a whole batch, its key what decides it."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def __getitem__(self, key: tuple[Epoch, Tensor]) -> Batch | str:
        return self._reader(*key)


class TorchLoader:
    """Examples by `torch.utils.data.DataLoader`, in processes of this machine that live as long as the training.

    num_readers: processes. pinned: batches land in page-locked memory, from which a GPU copies faster.
    """

    def __init__(
        self, source: ImageSource, image_size: int | None, labels: Tensor, *, num_readers: int, pinned: bool = False
    ) -> None:
        self.labels = labels
        self._keys: list[tuple[Epoch, Tensor]] = []  # the loader asks for its sampler's keys anew at each epoch
        self._loader: DataLoader[Batch | str] = DataLoader(
            _Batches(_Reader(source, image_size, labels)),
            batch_size=None,
            sampler=self._keys,
            num_workers=num_readers,
            prefetch_factor=_AHEAD,
            persistent_workers=True,
            pin_memory=pinned,
            multiprocessing_context="spawn",  # a fork would copy the locks of Arrow's threads
            generator=torch.Generator(),  # else it draws from torch's own, which dropout draws from
        )

    def batches(self, epoch: Epoch, rows: Sequence[Tensor]) -> Iterator[Batch]:
        self._keys[:] = [(epoch, batch) for batch in rows]
        for found in self._loader:
            yield _checked(found)


class RayLoader:
    """Examples by Ray Data, in tasks that Ray places wherever a CPU is free: on nodes without GPUs too.

    num_training_cpus: of the connected Ray, taken by the training for as long as it lasts.

    Raises:
        InputError: no CPU is left to read.
    """

    def __init__(self, source: ImageSource, image_size: int | None, labels: Tensor, *, num_training_cpus: int) -> None:
        import ray

        num_cpus = ray.cluster_resources().get("CPU", 0)
        if num_cpus < num_training_cpus + 1:  # the tasks would wait forever
            raise InputError(
                f"loader ray needs a CPU beside those of the training, but Ray has {num_cpus:g} and the training takes "
                f"{num_training_cpus}; lower num_workers, add nodes or set loader to torch"
            )
        self.labels = labels
        self._reader = _Reader(source, image_size, labels)

    def batches(self, epoch: Epoch, rows: Sequence[Tensor]) -> Iterator[Batch]:
        import ray
        from ray.data import DataContext

        logging.getLogger("ray.data").setLevel(logging.WARNING)  # it tells of every execution
        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        reader = ray.put(self._reader)  # once per epoch, not once per task: it holds all labels

        def read(row: dict[str, Any]) -> dict[str, Any]:
            found = ray.get(reader)(epoch, torch.tensor(row["rows"]))
            if isinstance(found, str):
                return {"pixels": np.empty(0, np.float32), "weights": np.empty(0, np.float32), "problem": found}
            return {"pixels": found[0].numpy(), "weights": found[1].numpy(), "problem": ""}

        with DataContext.current(context):
            keys = [{"rows": batch.tolist()} for batch in rows]
            read_rows = ray.data.from_items(keys, override_num_blocks=len(keys)).map(read, num_cpus=1)
            for row in read_rows.iter_rows():
                # Arrays in the object store are read-only, and torch wants to be able to write.
                pixels, weights = (torch.from_numpy(np.array(row[name])) for name in ("pixels", "weights"))
                yield _checked(row["problem"] or (pixels, weights))


def _checked(found: Batch | str) -> Batch:
    if isinstance(found, str):
        raise InputError(found)
    return found
