from __future__ import annotations

import numpy as np
import pytest

from taggants.cli import main
from taggants.config import load_config
from taggants.data import open_source
from taggants.export import verify_export
from taggants.storage import Root
from tests.jobs.running import exit_code, load_job, settings_in


@pytest.fixture(scope="module")
def crafted(tmp_path_factory):
    """The folder of a finished tiny run on the digits, and its result."""
    folder = tmp_path_factory.mktemp("crafted")
    return folder, load_job("craft").main(load_config(None, settings_in(folder)))


def one_sentence(capsys) -> str:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.mark.parametrize("layout", ["null", "parquet", "imagefolder", "webdataset"])
def test_the_signed_images_in_any_layout(crafted, tmp_path, layout):
    folder, craft_result = crafted
    destination = tmp_path / "copy"
    settings = settings_in(folder, f"export.destination={destination}", f"export.layout={layout}")
    result = load_job("export").main(load_config(None, settings))
    assert verify_export(Root(str(destination))) == result.manifest
    signed = craft_result.export.signed
    first = open_source("parquet", signed, "train.parquet")
    kind = "parquet" if layout == "null" else layout
    files = {"parquet": "train.parquet", "imagefolder": "", "webdataset": ""}[kind]
    copy = open_source(kind, Root(str(destination)), files)
    held = [sorted(zip(s.read_encoded(range(1297)), s.index().labels.tolist(), strict=True)) for s in (first, copy)]
    assert held[0] == held[1]
    assert (result.manifest.fingerprint == craft_result.export.manifest.fingerprint) == (kind == "parquet")
    assert np.array_equal(np.bincount(copy.index().labels), np.bincount(first.index().labels))
    assert exit_code("export", settings) == 0  # again


def test_bad_input_is_one_sentence(crafted, tmp_path, capsys):
    folder, _ = crafted
    for settings, sentence in (
        (settings_in(folder), "export.destination is not set"),
        (settings_in(tmp_path, f"export.destination={tmp_path / 'x'}"), "has no plan; run `taggants craft`"),
        (settings_in(folder, f"export.destination={folder}/runs/datasets/digits"), "is the folder of the source"),
        (settings_in(folder, f"export.destination={folder}/runs"), "is not part of this export"),
        (settings_in(folder, "export.destination=gs://bucket/x"), "scheme that is not supported"),
        (settings_in(folder, "export.destination=x", "export.layout=zip"), "export.layout' = 'zip'"),
    ):
        capsys.readouterr()
        assert exit_code("export", settings) == 2
        assert sentence in one_sentence(capsys)


def test_an_unfinished_run_is_not_exported(crafted, tmp_path, capsys):
    folder, craft_result = crafted
    commit = next((Root(craft_result.run).child("commits")).list().__iter__())
    root = Root(craft_result.run)
    content = root.read_bytes(f"commits/{commit}")
    root.delete(f"commits/{commit}")
    try:
        capsys.readouterr()
        assert exit_code("export", settings_in(folder, f"export.destination={tmp_path / 'x'}")) == 2
        assert "is not committed; run `taggants craft` again" in one_sentence(capsys)
        assert not (tmp_path / "x").exists()
    finally:
        root.write_bytes(f"commits/{commit}", content)


def test_layout_on_the_command_line(tmp_path, capsys):
    assert main(["export", "--layout", "zip", "--set", f"output.root={tmp_path}"]) == 2
    assert "'export.layout' = 'zip'" in one_sentence(capsys)
