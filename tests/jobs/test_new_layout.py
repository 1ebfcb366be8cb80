"""A layout that the package does not know: images LABEL_NUMBER.png in one folder."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

import numpy as np
import pytest

from taggants.config import load_config
from taggants.data import LAYOUTS, open_source
from taggants.data.digits import write_digits
from taggants.data.layouts import Layout, Sample
from taggants.data.signed_images import Replacements, is_replaced, replaced
from taggants.data.source import DatasetIndex, ImageSource, dataset_fingerprint
from taggants.errors import InputError
from taggants.export import export_dataset, verify_export
from taggants.storage import Root
from tests.jobs.running import exit_code, load_job, settings_in


@dataclass(frozen=True)
class NumberedImages(ImageSource):
    layout: ClassVar[str] = "numbered"

    root: Root
    prefix: str
    channels: int | None = None

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.root.list() if re.fullmatch(rf"{self.prefix}\d+_\d+\.png", name))

    @property
    def num_rows(self) -> int:
        return len(self.names)

    @property
    def how_read(self) -> tuple[str | int | None, ...]:
        return self.layout, self.channels

    def at(self, root: Root) -> NumberedImages:
        return dataclasses.replace(self, root=root)

    def place_of(self, sample_id: int) -> str:
        return self.root.uri_of(self.names[sample_id])

    def read_encoded(self, sample_ids: Sequence[int]) -> list[bytes]:
        return [self.root.read_bytes(self.names[sample_id]) for sample_id in sample_ids]

    def _read_labels(self) -> np.ndarray:
        return np.array([int(re.findall(r"\d+", name)[-2]) for name in self.names])

    def _make_index(self) -> DatasetIndex:
        labels = self._read_labels()
        return DatasetIndex(
            labels=labels,
            files=self.names,
            file_offsets=tuple(range(len(labels) + 1)),
            num_classes=int(labels.max()) + 1,
            class_names=None,
            fingerprint=dataset_fingerprint((name, self.root.sha256(name), 1) for name in self.names),
        )


class NumberedLayout(Layout[NumberedImages]):
    def open(self, root: Root, files: str, *, channels: int | None, **columns: str) -> NumberedImages:
        return NumberedImages(root, files, channels)

    def files(self, source: NumberedImages) -> Iterator[tuple[str, int]]:
        return ((name, 1) for name in source.names)

    def rewrite(self, source: NumberedImages, name: str, rows: Replacements, sink: BinaryIO) -> Iterator[int]:
        sink.write(replaced(source.root.read_bytes(name), rows[0]))
        yield 1

    def difference(self, source: NumberedImages, name: str, rows: Replacements, destination: Root) -> str | None:
        is_signed = is_replaced(source.root.read_bytes(name), destination.read_bytes(name), rows[0])
        return None if is_signed else "it is another image"

    def hash_and_count(self, root: Root, path: str) -> tuple[str, int]:
        return hashlib.sha256(root.read_bytes(path)).hexdigest(), 1

    def new_files(self, index: DatasetIndex, samples: Iterable[Sample]) -> Iterator[tuple[str, list[Sample]]]:
        return ((f"train{sample.label}_{sample.name}", [sample]) for sample in samples)

    def is_new_file(self, path: str) -> bool:
        return re.fullmatch(r"train\d+_\d+\.png", path) is not None

    def write(self, index: DatasetIndex, samples: list[Sample], sink: BinaryIO) -> None:
        sink.write(samples[0].data)

    def read(self, index: DatasetIndex, root: Root, path: str) -> Iterator[Sample]:
        label, _, name = path.removeprefix("train").partition("_")
        yield Sample(name, root.read_bytes(path), int(label))

    def reading_order(self, path: str) -> str:
        return path


LAYOUTS.register("numbered", NumberedLayout())


@pytest.fixture
def digits(tmp_path):
    """150 training and 50 test images in that layout, and as Parquet."""
    parquet, numbered = Root(str(tmp_path / "parquet")), Root(str(tmp_path / "numbered"))
    write_digits(parquet)
    for split, num in (("train", 150), ("test", 50)):
        source = open_source("parquet", parquet, f"{split}.parquet")
        for i, data in enumerate(source.read_encoded(range(num))):
            numbered.write_bytes(f"{split}{source.labels()[i]}_{i:08d}.png", data)
    return numbered


def pairs(source):
    return sorted(zip(source.read_encoded(range(source.num_rows)), source.labels().tolist(), strict=True))


def test_it_is_crafted_exported_converted_and_verified(digits, tmp_path):
    settings = settings_in(
        tmp_path,
        *("data.source=numbered", f"data.root={digits.uri}", "data.train=train", "data.test=test"),
        "evaluation.num_victims=1",
    )
    result = load_job("craft").main(load_config(None, settings))
    manifest = result.export.manifest
    assert manifest.layout == "numbered"
    assert verify_export(result.export.signed) == manifest
    clean = open_source("numbered", digits, "train")
    signed = open_source("numbered", result.export.signed, "train")
    assert [name for name in digits.list() if name.startswith("train")] == list(signed.names)
    changed = [a != b for a, b in zip(clean.read_encoded(range(150)), signed.read_encoded(range(150)), strict=True)]
    assert sum(changed) == 9  # 3 keys x 3 images
    (victim,) = Root(result.run).child("certificates").list()
    assert victim.startswith("victim-0")

    for layout, files in (("webdataset", ""), ("imagefolder", ""), ("parquet", "train"), ("numbered", "train")):
        destination = tmp_path / f"as-{layout}"
        again = [*settings, f"export.destination={destination}", f"export.layout={layout}"]
        assert exit_code("export", again) == 0
        exported = open_source(layout, Root(str(destination)), files)
        assert pairs(exported) == pairs(signed)
        assert exit_code("export", again) == 0  # it is complete, and only verified


def test_other_layouts_are_converted_to_it(digits, tmp_path):
    source = open_source("parquet", Root(str(tmp_path / "parquet")), "test.parquet")
    image = source.read_images([7])[0]
    destination = Root(str(tmp_path / "out"))
    manifest = export_dataset(source, {7: image ^ 1}, destination, layout="numbered")
    exported = open_source("numbered", destination, "train")
    assert manifest.fingerprint == exported.index().fingerprint
    expected = dict(enumerate(source.read_images(range(source.num_rows)))) | {7: image ^ 1}
    found = {
        int(name[7:15]): picture for name, picture in zip(exported.names, exported.read_images(range(500)), strict=True)
    }
    assert all(np.array_equal(found[i], expected[i]) for i in expected)


def test_a_layout_that_is_not_registered_is_bad_input(digits, tmp_path):
    @dataclass(frozen=True)
    class Unknown(NumberedImages):
        layout: ClassVar[str] = "unknown"

    with pytest.raises(InputError, match="layout 'unknown' does not exist; use one of parquet, "):
        export_dataset(Unknown(digits, "train"), {0: np.zeros((1, 8, 8), np.uint8)}, Root(str(tmp_path / "out")))
    for setting in ("data.source=unknown", "export.layout=unknown"):
        with pytest.raises(InputError, match=r"'unknown' does not exist; use one of .*numbered"):
            load_config(None, [setting])
