"""JSON and CSV that a run keeps, that a suspect answers with, and that lies in datasets and models."""

from __future__ import annotations

import io
import json
import logging
import struct
import tarfile
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.fuzz.dataset_files import _pngs, read_dataset
from tests.fuzz.kind import Kind
from tests.fuzz.model_files import OWNER

_IMAGES = np.zeros((3, 1, 8, 8), np.uint8)


def _texts(*values: Any) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps(value, indent=1).encode() for value in values]


def _read_commitment(data: bytes, folder: Path) -> object:
    from taggants.keys import KeysCommitment

    return KeysCommitment.from_text(data)


def _read_signing(data: bytes, folder: Path) -> object:
    from taggants.detection.registration import SigningRecord

    return SigningRecord.from_text(data)


def _read_label_map(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from taggants.suspects.label_maps import label_map_from_file

        (folder / name).write_bytes(data)
        return label_map_from_file(str(folder / name), list("abc"), 3, list("xyzw"), 4)

    return read


def _read_answers_table(data: bytes, folder: Path) -> object:
    from taggants.suspects import open_suspect
    from taggants.suspects.answers_table import AnswersTable
    from taggants.suspects.one_by_one import table_of_rows

    (folder / "answers.csv").write_bytes(data)
    suspect = open_suspect(str(folder / "answers.csv"), OWNER)
    assert isinstance(suspect, AnswersTable)
    return table_of_rows(suspect.rows_of([f"query-000{i}.png" for i in range(3)]))


def _asked() -> list[bytes]:
    labels = [{"first": 0, "rows": [[3, 1], None]}, {"requests": 1}, {"first": 2, "rows": [[4]]}]
    scores = [{"first": 0, "rows": [[0.5] * 10] * 3}]
    return [b"\n".join(json.dumps(line).encode() for line in lines) for lines in (labels, scores)]


def _read_asked(data: bytes, folder: Path) -> object:
    from taggants.stages.asking import _answers, _Log
    from taggants.suspects import CallableSuspect

    suspect = CallableSuspect(lambda images: np.zeros((len(images), 10)), "it", 10)
    log = _Log(data.split(b"\n"), lambda line: None, "asked/it.jsonl")
    return _answers(log.ask(suspect, 0, _IMAGES, lambda done, note: None), suspect)


def _read_response(field: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from taggants.identity import strict_json
        from taggants.suspects import open_suspect
        from taggants.suspects.one_by_one import table_of_rows

        described = {
            "kind": "http",
            "url": "http://127.0.0.1:9/",
            "send": "body",
            field: f"outputs.*.{field}.0",
            "max_requests": 9,
        }
        suspect: Any = open_suspect(described | ({"class_names": list("abcdefghij")}), OWNER)
        return table_of_rows([suspect._read(strict_json(data, "The response", 2**20))])

    return read


def _read_result(data: bytes, folder: Path) -> object:
    from taggants.storage import Root
    from taggants.training.job import read_result

    (folder / "victim-0").mkdir()
    (folder / "victim-0/model.safetensors").write_bytes(b"x")
    (folder / "victim-0/result.json").write_bytes(data)
    return read_result(Root(str(folder)), "victim-0/result.json").checkpoints


def _results() -> list[bytes]:
    import hashlib
    from dataclasses import asdict

    from taggants.training.job import TrainedModel
    from taggants.training.metrics import Metrics

    metrics = Metrics(**{name: (0.5, 0.5) if "accuracies" in name else 0.5 for name in Metrics.__dataclass_fields__})
    sha256 = hashlib.sha256(b"x").hexdigest()
    path = "victim-0/model.safetensors"
    return _texts(asdict(TrainedModel("victim-0", path, sha256, 0.5, 3, 1.5, ((path, sha256),), metrics)))()


def _read_crafted_record(data: bytes, folder: Path) -> object:
    from taggants.crafting.plan import Plan, RunFolder, Shard
    from taggants.crafting.reuse import CraftedShards
    from taggants.storage import Root

    root = Root(str(folder))
    plan = Plan("c", "d", "k", "s", (Shard(0, 0, (1, 2), 3),))
    root.write_bytes("other/attempts/00000-1.parquet", b"abc")
    root.write_bytes("crafted/a1.json", data)
    return CraftedShards(root, "own", {0: "a1"}).take_over(plan, RunFolder(root.child("own")), {})


def _crafted_record() -> list[bytes]:
    import hashlib

    sha256 = hashlib.sha256(b"abc").hexdigest()
    fields = {"address": "a1", "run": "other", "path": "attempts/00000-1.parquet", "sha256": sha256}
    return _texts(fields | {"size_bytes": 3, "num_rows": 2})()


def _read_registration_count(data: bytes, folder: Path) -> object:
    from taggants.keys import registration_number
    from taggants.storage import Root

    Root(str(folder)).write_bytes("k.registrations/1.json", data)
    return registration_number(Root(str(folder)), "k", "0" * 64, claim=True)


@cache
def _sweep() -> Any:
    from tests.sweep.made_up import made_up

    return made_up()


def _read_sweep(data: bytes, folder: Path) -> object:
    from taggants.storage import Root
    from taggants.sweep.results import SweepResults

    (folder / "sweep.json").write_bytes(data)
    return SweepResults.from_json(Root(str(folder)).read_json("sweep.json"))


def _read_cell(data: bytes, folder: Path) -> object:
    from taggants.storage import Root
    from taggants.sweep.stages import Sweep

    (folder / "cell.json").write_bytes(data)
    sweep: Any = SimpleNamespace(root=Root(str(folder)), record_path=lambda name: f"{name}.json")
    return Sweep.read_cell(sweep, "cell")


def _read_speed(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from taggants.config import Config
        from taggants.storage import Root
        from taggants.sweep.stages import _note_speed

        root, config = Root(str(folder)), Config()
        root.write_bytes("status.json", _status()[0])
        root.write_bytes(f"crafting/{config.hash}.json", _SPEED)
        root.write_bytes(name.format(config.hash), data)
        sweep: Any = SimpleNamespace(root=root)
        run: Any = SimpleNamespace(root=root, config=config)
        return _note_speed(sweep, run)

    return read


_SPEED = json.dumps({"sample_steps": 10, "worker_seconds_per_sample_step": 0.5}).encode()


def _status() -> list[bytes]:
    from taggants.crafting.driver import DriveProgress
    from taggants.crafting.status import StatusTracker

    status = StatusTracker(3).observe(DriveProgress(4, 1, (1,), (), 5, 15, None)).to_json()
    return _texts(status | {"sample_steps_per_s": 1.5})()


def _read_member(data: bytes, folder: Path) -> object:
    """As the JSON of each image in a tar: label, and what img2dataset writes."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for i in range(2):
            for name, content in ((f"{i}.png", _pngs()[0]), (f"{i}.json", data)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return read_dataset("webdataset", ".tar")(sink.getvalue(), folder)


_MEMBER = {
    "label": 1,
    "url": "https://example.org/a.png",
    "caption": "a cat",
    "key": "000000",
    "status": "success",
    "error_message": None,
    "width": 20,
    "height": 16,
    "exif": '{"Image Orientation": "1"}',
    "sha256": "0" * 64,
}
_FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}


def _read_metadata(key: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from taggants.data import open_source
        from taggants.data.inspection import inspect_dataset
        from taggants.data.layouts import layout_of
        from taggants.data.source import ImageSource
        from taggants.storage import Root

        cells = [{"bytes": _pngs()[0], "path": "x"}] * 2
        table = pa.table({"image": cells, "label": [0, 1]}).replace_schema_metadata({key.encode(): data})
        pq.write_table(table, folder / "train.parquet")
        root = Root(str(folder))
        source: ImageSource = open_source("parquet", root, "train.parquet", channels=3)
        source.index()
        layout_of(source).write_subset(
            source, root.child("subset"), "train.parquet", num_classes=1, images_per_class=None
        )
        return inspect_dataset(str(folder))

    return read


def _headers() -> list[bytes]:
    from tests.fuzz.dataset_files import _checkpoints

    (data,) = _checkpoints()
    return [data[8 : 8 + int.from_bytes(data[:8], "little")]]


def _read_header(data: bytes, folder: Path) -> object:
    from taggants.models.checkpoints import model_from_checkpoint
    from tests.fuzz.dataset_files import _checkpoints

    (whole,) = _checkpoints()
    tensors = whole[8 + int.from_bytes(whole[:8], "little") :]
    return model_from_checkpoint(struct.pack("<Q", len(data)) + data + tensors, "a.safetensors")


@cache
def _kept(name: str) -> tempfile.TemporaryDirectory[str]:
    """A folder that is there until this process ends."""
    return tempfile.TemporaryDirectory(prefix=f"taggants-fuzz-{name}-")


@cache
def _timm_folder() -> Path:
    import timm

    folder = Path(_kept("timm").name)
    model = timm.create_model("resnet10t", num_classes=10)
    model.pretrained_cfg |= {"input_size": (3, 32, 32)}
    timm.models.save_for_hf(
        model, str(folder), safe_serialization=True, model_config={"label_names": list("abcdefghij")}
    )
    return folder


def _read_timm_config(data: bytes, folder: Path) -> object:
    from taggants.suspects import open_suspect

    (folder / "model.safetensors").hardlink_to(_timm_folder() / "model.safetensors")
    (folder / "config.json").write_bytes(data)
    return open_suspect(f"local-dir:{folder}", OWNER)


@cache
def _vit_folder() -> Path:
    import transformers

    folder = Path(_kept("vit").name)
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    eights = dict.fromkeys(("hidden_size", "intermediate_size", "patch_size"), 8)
    config = transformers.ViTConfig(num_hidden_layers=1, num_attention_heads=2, image_size=16, num_labels=10, **eights)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def _read_hugging_face(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        from taggants.suspects import open_suspect

        for path in _vit_folder().iterdir():
            (folder / path.name).hardlink_to(path)
        (folder / name).unlink()
        (folder / name).write_bytes(data)
        return open_suspect(f"huggingface:{folder}", OWNER)

    return read


JSON_FILES: dict[str, Kind] = {
    "commitment": Kind(
        _texts({"format": "taggants-keys-commitment/1", "secret_commitment": "0" * 64, "source": "a", "round": "5"}),
        _read_commitment,
        True,
    ),
    "signing": Kind(
        _texts(
            {
                "format": "taggants-signing/1",
                "registration_sha256": "0" * 64,
                "signed_fingerprint": "f",
                "reference_weights": ["1" * 64],
                "reference_answers": ["2" * 64],
            }
        ),
        _read_signing,
        True,
    ),
    "label-map": Kind(_texts({"a": "x", "1": 3, "c": None}), _read_label_map("a.json"), True),
    "label-map-csv": Kind(lambda: [b"owner,suspect\na,x\n1,3\nc,\n"], _read_label_map("a.csv"), True),
    "answers-table": Kind(
        lambda: [
            b"image,label_1,label_2\nquery-0000.png,3,1\nquery-0002.png,4,\n",
            b"image,score_0,score_1\nquery-0001.png,1e-3,-2\n",
        ],
        _read_answers_table,
        True,
    ),
    "asked": Kind(_asked, _read_asked, True),
    "http-labels": Kind(
        _texts({"outputs": [{"labels": [["a", "c"]]}]}, {"outputs": [{"labels": [3]}]}), _read_response("labels"), True
    ),
    "http-scores": Kind(
        _texts({"outputs": [{"scores": [{c: 0.5 for c in "abcdefghij"}]}]}), _read_response("scores"), True
    ),
    "training-result": Kind(_results, _read_result, True),
    "crafted-record": Kind(_crafted_record, _read_crafted_record, True),
    "registration-count": Kind(_texts({"content_sha256": "0" * 64}), _read_registration_count, True),
    "sweep": Kind(lambda: _texts(_sweep().to_json())(), _read_sweep, True),
    "sweep-cell": Kind(lambda: _texts(_sweep().to_json()["cells"][0])(), _read_cell, True),
    "status": Kind(_status, _read_speed("status.json"), True),
    "sweep-speed": Kind(lambda: [_SPEED], _read_speed("crafting/{}.json"), True),
    "img2dataset": Kind(_texts(_MEMBER), _read_member, True),
    "hugging-face-features": Kind(_texts({"info": {"features": _FEATURES}}), _read_metadata("huggingface"), True),
    "class-names": Kind(_texts(["a", "b"]), _read_metadata("class_names"), True),
    "checkpoint-header": Kind(_headers, _read_header, True),
    "timm-config": Kind(lambda: [(_timm_folder() / "config.json").read_bytes()], _read_timm_config, True),
    "hugging-face-config": Kind(
        lambda: [(_vit_folder() / "config.json").read_bytes()], _read_hugging_face("config.json"), True
    ),
    "hugging-face-processor": Kind(
        lambda: [(_vit_folder() / "preprocessor_config.json").read_bytes()],
        _read_hugging_face("preprocessor_config.json"),
        True,
    ),
}
