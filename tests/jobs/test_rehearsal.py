"""What a run's victims are trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from taggants import run as run_module
from taggants.config import load_config
from taggants.errors import InputError
from taggants.run import Run
from taggants.stages.evaluate import suspect_job
from tests.jobs.running import exit_code, settings_in


def test_all_victims_share_one_check_of_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(tmp_path)
    assert exit_code("craft", settings) == 0
    verify, calls = run_module.verify_export, []
    monkeypatch.setattr(run_module, "verify_export", lambda root: calls.append(root.uri) or verify(root))
    run = Run(load_config(None, settings))
    fingerprints = {suspect_job(run, "victim", index).train_fingerprint for index in range(3)}
    assert fingerprints == {verify(run.root.child("signed")).fingerprint}
    assert calls == [run.root.child("signed").uri]


def test_no_victim_is_trained_on_an_export_that_was_changed(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    assert exit_code("craft", settings) == 0
    run = Run(load_config(None, settings))
    file = Path(run.root.uri) / "signed" / "train.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="its manifest says"):
        suspect_job(run, "victim", 0)
    assert suspect_job(run, "control", 0).train_fingerprint == run.index.fingerprint


def test_no_victim_before_the_export(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run `taggants craft` with this configuration first"):
        suspect_job(Run(load_config(None, settings_in(tmp_path))), "victim", 0)
