from __future__ import annotations

import json
import shutil

import pytest

from taggants.cli import main
from taggants.config import load_run_config
from taggants.errors import InputError
from tests.jobs.running import TINY

SETTINGS = [*TINY, "evaluation.num_victims=1", "evaluation.num_controls=1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder where a run was made, as a user makes it: with relative roots, in the working directory."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["craft", *(word for setting in SETTINGS for word in ("--set", setting))]) == 0
    return folder


@pytest.fixture
def run_folder(made):
    (folder,) = (path.parent for path in made.glob("runs/*/config.json"))
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(capsys, *words):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_run_knows_its_configuration_wherever_it_is_named_from(made, run_folder, elsewhere, capsys):
    (victim,) = made.glob("runs/models/victim-0-*/model.safetensors")
    (control,) = made.glob("runs/models/control-0-*/model.safetensors")
    assert main(["verify", str(run_folder), str(victim), str(control)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("Suspect    ") == 2
    assert "p-values adjusted for testing several suspects" in shown
    assert main(["train", str(run_folder), "--role", "control", "--index", "0"]) == 0
    assert "found done" in capsys.readouterr().out
    assert main(["export", str(run_folder), "--to", str(elsewhere / "no: 1 #"), "--layout", "webdataset"]) == 0
    assert list((elsewhere / "no: 1 #").glob("*.tar"))
    assert main(["harm", str(run_folder)]) == 0
    assert (run_folder / "harm.json").exists()
    assert not (elsewhere / "runs").exists()
    assert not (elsewhere / "secrets").exists()


def test_suspects_may_stand_after_an_option(made, run_folder, elsewhere, capsys):
    (victim,) = made.glob("runs/models/victim-0-*/model.safetensors")
    assert main(["verify", str(run_folder), "--set", "output.log=json", str(victim)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["message"]


def test_moved_run_is_read_where_it_is_now(made, run_folder, elsewhere, capsys):
    shutil.copytree(made / "runs", elsewhere / "moved")
    moved = elsewhere / "moved" / run_folder.name
    (victim,) = elsewhere.glob("moved/models/victim-0-*/model.safetensors")
    config = load_run_config(str(moved))
    assert config.output.root == str(elsewhere / "moved")
    assert config.keys.root == str(made / "secrets")
    assert main(["verify", str(moved), str(victim)]) == 0
    assert list(moved.glob("certificates/victim-0-*.json"))


def test_keys_that_are_nowhere_are_said_to_be_missing(made, run_folder, elsewhere, capsys, monkeypatch):
    record = json.loads((run_folder / "config.json").read_text())
    copy = elsewhere / "runs" / run_folder.name
    shutil.copytree(run_folder, copy)
    (copy / "config.json").write_text(json.dumps(record | {"directory": "/no/such/folder"}))
    (victim,) = made.glob("runs/models/victim-0-*/model.safetensors")
    assert f"{elsewhere / 'secrets' / 'digits.json'} does not exist" in error_of(
        capsys, "verify", str(copy), str(victim)
    )
    shutil.copytree(made / "secrets", elsewhere / "secrets")
    assert main(["verify", str(copy), str(victim)]) == 0


def test_setting_that_makes_another_run_is_refused(run_folder, elsewhere, capsys):
    line = error_of(capsys, "export", str(run_folder), "--set", "evaluation.num_victims=5", "--set", "seed=3")
    assert "--set 'seed=3' would make a different run than" in line
    assert "no suspect is named" in error_of(capsys, "verify", str(run_folder))


def test_renamed_run_or_one_of_another_version_is_named(run_folder, elsewhere):
    renamed = elsewhere / "mine"
    renamed.mkdir()
    record = json.loads((run_folder / "config.json").read_text())
    (renamed / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=f"was renamed; give it back its name {run_folder.name}"):
        load_run_config(str(renamed))
    (renamed / "config.json").write_text(json.dumps(record | {"config_hash": "mine"}))
    with pytest.raises(InputError, match=r"config\.json was edited, or made by another version of taggants"):
        load_run_config(str(renamed))
    edited = record["config"] | {"seed": 9}
    (renamed / "config.json").write_text(json.dumps(record | {"config": edited, "config_hash": "mine"}))
    with pytest.raises(InputError, match=r"config\.json was edited"):
        load_run_config(str(renamed))
    for change in ({"directory": 3}, {"config": []}, {"config_hash": None}):
        (renamed / "config.json").write_text(json.dumps(record | change))
        with pytest.raises(InputError, match="is not what `taggants craft` writes"):
            load_run_config(str(renamed))
    (renamed / "config.json").write_text("{}")
    with pytest.raises(InputError, match="is not what `taggants craft` writes"):
        load_run_config(str(renamed))


def test_plan_of_a_run_finds_what_is_done_and_changes_nothing(made, run_folder, elsewhere, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert main(["plan", str(run_folder), "--json", "--set", "evaluation.num_controls=2"]) == 0
    plan = json.loads(capsys.readouterr().out)
    done = {training["name"]: training["is_done"] for training in plan["work"]["trainings"]}
    assert done == {"surrogate-0": True, "victim-0": True, "control-0": True, "control-1": False}
    assert [stage["name"] for stage in plan["stages"]] == ["train victims and controls"]
    assert plan["work"]["is_exported"]
    assert main(["plan", str(run_folder)]) == 0
    shown = capsys.readouterr().out
    assert "found     keys, registration, 3 models, 3 shards, export" in shown
    assert "total                                    0 s" in shown
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
