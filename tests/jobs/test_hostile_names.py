"""Datasets whose names were chosen to forge lines and to steer terminals: what is said stays printable, one fact a line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taggants.cli import main
from taggants.data.image_codec import encode_png
from tests.jobs.running import exit_code, settings_in
from tests.jobs.test_bad_input import one_sentence

FORGED = "FORGED line"
HOSTILE = f"ok\n{FORGED}\x1b[2J\r\u202e"


def write_folder(folder: Path, *names: str, file_name: str = "0", num: int = 20) -> list[str]:
    """Settings of a dataset with one class for each name, `num` grey images each."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in names:
            below = folder / split / name
            below.mkdir(parents=True)
            for i in range(num):
                (below / f"{file_name}{i}.png").write_bytes(
                    encode_png(draw.integers(0, 256, (1, 8, 8), dtype=np.uint8))
                )
    roots = [f"data.root={folder}", "data.train=train", "data.test=test"]
    return ["data.source=imagefolder", *roots, "data.channels=1"]


def write_parquet(folder: Path, class_names: list[str], **more: list[str]) -> list[str]:
    draw = np.random.default_rng(0)
    images = [{"bytes": encode_png(draw.integers(0, 256, (1, 8, 8), dtype=np.uint8)), "path": "x"} for _ in range(40)]
    features = {"image": {"_type": "Image"}, "label": {"names": class_names, "_type": "ClassLabel"}}
    table = pa.table({"image": images, "label": [i % len(class_names) for i in range(40)], **more})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    folder.mkdir()
    for split in ("train", "test"):
        pq.write_table(table, folder / f"{split}.parquet")
    files = ["data.train=train.parquet", "data.test=test.parquet"]
    return ["data.source=parquet", f"data.root={folder}", *files, "data.channels=1"]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, once it is known to be printable and to hold no line that a name forged."""
    captured = capsys.readouterr()
    text = (captured.out + captured.err).replace("\\\\", "\\")  # JSON writes a backslash twice
    assert "Traceback" not in text
    for line in text.splitlines():
        assert line.isprintable(), repr(line)
        assert not line.startswith(FORGED)
    return text


@pytest.mark.parametrize("log", ["text", "json"])
def test_damaged_image_of_a_folder(tmp_path, capsys, log):
    settings = write_folder(tmp_path / "data", HOSTILE, "other", file_name=HOSTILE)
    (tmp_path / "data" / "train" / "other" / f"a.{HOSTILE}").write_bytes(b"x")
    first = next((tmp_path / "data" / "train" / HOSTILE).iterdir())
    whole = first.read_bytes()
    first.write_bytes(whole[:-30] + b"cut off")
    settings = settings_in(tmp_path, *settings, f"output.log={log}")
    assert exit_code("plan", settings) == 2
    assert r"ok\n" in said(capsys)
    first.write_bytes(whole)
    assert exit_code("plan", settings) == 0
    assert r"1 files by their names: .ok\n" in said(capsys).replace(r"\\n", r"\n")


@pytest.mark.parametrize("name", [HOSTILE, "\0\ud800" + "x" * 2**20])
def test_names_in_parquet(tmp_path, capsys, name):
    settings = write_parquet(tmp_path / "data", [name, "b"], **{f"column {HOSTILE}": ["x"] * 40})
    settings = settings_in(tmp_path, *settings)
    assert exit_code("craft", settings) == 0
    said(capsys)
    [run] = [path.parent for path in (tmp_path / "runs").glob("*/contact_sheet.png")]
    assert main(["export", str(run), "--layout", "imagefolder", "--to", str(tmp_path / "folder")]) == 0
    assert "left out" in said(capsys)


@pytest.mark.parametrize("name", [HOSTILE, "x" * 201, ""])
def test_names_that_cannot_be_published_are_refused_before_keys_are_drawn(tmp_path, capsys, name):
    settings = write_parquet(tmp_path / "data", [name, "b"])
    settings = [s for s in settings_in(tmp_path, *settings) if s != "detection.question=null"]
    assert exit_code("keys", settings) == 2
    sentence = one_sentence(capsys)
    assert "rename the class in the dataset" in sentence
    assert len(sentence) < 2100
    assert not (tmp_path / "secrets").exists()


def test_test_classes_that_differ(tmp_path, capsys):
    settings = write_folder(tmp_path / "data", HOSTILE, "other")
    (tmp_path / "data" / "test" / HOSTILE).rename(tmp_path / "data" / "test" / "c")
    assert exit_code("craft", settings_in(tmp_path, *settings)) == 2
    assert r"ok\n" in one_sentence(capsys)


def test_init_writes_names_as_one_value(tmp_path, capsys):
    folder = tmp_path / f"data\nplugins: [{FORGED}]\u2028"
    write_folder(folder, "a", "b", num=60)
    output = tmp_path / "taggants.yaml"
    assert main(["init", str(folder), "--output", str(output)]) == 0
    said(capsys)
    from taggants.config import load_config

    assert load_config(str(output), []).data.root == str(folder)
