from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from taggants.config import load_config
from taggants.crafting.driver import DriveResult
from taggants.export import verify_export
from taggants.keys import load_key_set
from taggants.storage import Root
from tests.jobs.running import exit_code, load_job, settings_in

# The key file holds six keys, of which the first are taken.
SIX = ("keys.num_keys=6", "signing.images_per_key=3")
THREE = ("keys.num_keys=3", "signing.images_per_key=3")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    load_job("keys").main(load_config(None, settings_in(tmp_path, *SIX)))
    return tmp_path


def craft(folder: Path, *settings: str) -> Any:
    return load_job("craft").main(load_config(None, settings_in(folder, *settings)))


def fingerprint(result: Any) -> str:
    assert result.export is not None
    return verify_export(result.export.signed).fingerprint


@pytest.mark.parametrize("selection", ["random", "gradient_norm"])
def test_three_keys_then_six_craft_six_and_export_what_six_alone_export(folder: Path, selection: str) -> None:
    by = f"signing.selection={selection}"
    assert craft(folder, *THREE, by).drive == DriveResult(3, 0, 3, {})
    grown = craft(folder, *SIX, by)
    assert grown.drive == DriveResult(6, 0, 3, {}, num_reused=3)
    alone = craft(folder, *SIX, by, f"output.root={folder / 'another'}")
    assert alone.drive == DriveResult(6, 0, 6, {})
    assert fingerprint(grown) == fingerprint(alone)
    assert grown.export.alignment == alone.export.alignment
    grown_plan, alone_plan = ((Path(result.run) / "plan.json").read_bytes() for result in (grown, alone))
    assert grown_plan == alone_plan


def test_fewer_keys_take_all_from_more(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    craft(folder, *SIX)
    capsys.readouterr()
    assert exit_code("craft", settings_in(folder, *THREE)) == 0
    assert "0 shards crafted, 0 found done, 3 taken from earlier runs, of 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    "other",
    [
        "crafting.epsilon=32/255",
        "crafting.microbatch=2",
        "seed=1",
        "surrogate.num_epochs=1",
        "signing.images_per_key=4",
    ],
)
def test_nothing_is_taken_from_a_run_of_another_kind(folder: Path, other: str) -> None:
    craft(folder, *THREE)
    assert craft(folder, *THREE, other).drive == DriveResult(3, 0, 3, {})


def test_settings_that_decide_no_bytes_do_not_matter(folder: Path) -> None:
    craft(folder, *THREE)
    assert craft(folder, *THREE, "detection.alpha=0.01").drive == DriveResult(3, 0, 0, {}, num_reused=3)


def test_records_tell_no_key(folder: Path) -> None:
    craft(folder, *SIX)
    records = [path.read_bytes() for path in (folder / "runs" / "crafted").iterdir()]
    names = [path.name.encode() for path in (folder / "runs" / "crafted").iterdir()]
    ids = load_key_set(Root(str(folder / "secrets")), "digits.json").ids
    everything = b"".join(path.read_bytes() for path in (folder / "runs").rglob("*") if path.is_file())
    assert len(records) == len(set(names)) == 6
    for key_id in ids:
        assert key_id.encode() not in everything + b"".join(names)
        assert bytes.fromhex(key_id) not in everything
    assert not any(b"sample" in record or b"label" in record for record in records)
