"""Two exports into one folder, at once and one after the other: of the same they help each other, of others one is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from taggants.data.layouts.parquet.source import ParquetSource
from taggants.errors import InputError
from taggants.export import export_dataset, verify_export
from taggants.storage import Root
from taggants.storage.root import CLAIM_PATH


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Calls `act` once while the first file is written."""
    original, acts = Root.writing, [act]

    @contextmanager
    def writing(root: Root, path: str, **options: Any) -> Iterator[BinaryIO]:
        with original(root, path, **options) as sink:
            if acts:
                acts.pop()()
            yield sink

    monkeypatch.setattr(Root, "writing", writing)


@pytest.mark.parametrize("layout", ["parquet", "webdataset", "imagefolder"])
def test_of_two_at_once_with_other_images_one_is_refused(
    source: ParquetSource,
    signed: Mapping[int, np.ndarray],
    destination: Root,
    tmp_path: Path,
    layout: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = export_dataset(source, signed, Root(str(tmp_path / "alone")), layout=layout)
    others = {i: 255 - image for i, image in signed.items()}
    refused = []

    def export_others() -> None:
        with pytest.raises(InputError, match=r"something else is written into .*by another process") as caught:
            export_dataset(source, others, destination, layout=layout)
        refused.append(caught)

    meanwhile(monkeypatch, export_others)
    assert export_dataset(source, signed, destination, layout=layout) == alone
    assert len(refused) == 1
    assert verify_export(destination) == alone
    assert CLAIM_PATH not in destination.list()
    with pytest.raises(InputError, match="holds an export with other signed images"):
        export_dataset(source, others, destination, layout=layout)
    assert verify_export(destination) == alone
    assert CLAIM_PATH not in destination.list()


def test_of_two_at_once_with_the_same_images_both_succeed(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    meanwhile(monkeypatch, lambda: found.append(export_dataset(source, signed, destination)))
    assert [export_dataset(source, signed, destination)] == found
    assert verify_export(destination) == found[0]
    assert CLAIM_PATH not in destination.list()


def test_what_a_killed_writer_left_is_finished_by_its_like_alone(
    source: ParquetSource, signed: Mapping[int, np.ndarray], destination: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = []
    with monkeypatch.context() as patch:
        meanwhile(patch, lambda: claims.append(destination.read_bytes(CLAIM_PATH)))
        manifest = export_dataset(source, signed, destination)
    for name in ("manifest.json", "b.parquet"):
        destination.delete(name)
    destination.write_bytes(CLAIM_PATH, claims[0])
    before = {name: destination.sha256(name) for name in destination.list()}
    with pytest.raises(InputError, match=r"or delete what is there with \.taggants-claim"):
        export_dataset(source, {0: signed[0]}, destination)
    assert {name: destination.sha256(name) for name in destination.list()} == before
    assert export_dataset(source, signed, destination) == manifest
    assert CLAIM_PATH not in destination.list()
