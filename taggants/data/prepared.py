"""Datasets that are no files yet: they are written once as Parquet files, then read as every other dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from taggants.data.digits import write_digits
from taggants.data.torchvision_source import write_torchvision
from taggants.registry import Registry
from taggants.storage import Root


@dataclass(frozen=True)
class Prepared:
    """How such a dataset is prepared.

    Attributes:
        write: (root, dataset, folder) writes `train.parquet` and `test.parquet` at the root, unless they are there. dataset
            and folder are `data.dataset` and `data.root` of the configuration.
        root: what `data.root` may be: "none", or "local", a folder or null.
        has_datasets: whether `data.dataset` names one of several; else it must be null.
    """

    write: Callable[[Root, str | None, str | None], None]
    root: Literal["none", "local"] = "none"
    has_datasets: bool = False


PREPARED: Registry[Prepared] = Registry("prepared dataset")


def _write_digits(root: Root, dataset: str | None, folder: str | None) -> None:
    write_digits(root)


def _write_torchvision(root: Root, dataset: str | None, folder: str | None) -> None:
    assert dataset is not None, "checked by the configuration"
    write_torchvision(dataset, root, download_folder=folder)


PREPARED.register("digits", Prepared(_write_digits))
PREPARED.register("torchvision", Prepared(_write_torchvision, root="local", has_datasets=True))
