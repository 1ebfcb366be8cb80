"""Two jobs of other keys, data or runs that are pointed at one folder: one sentence, and nothing of the first is written over."""

from __future__ import annotations

from pathlib import Path

import pytest

from taggants.cli import main
from taggants.errors import InputError
from taggants.keys import KeySpec, commit_to_keys, draw_labels
from taggants.storage import Root
from tests.jobs.running import exit_code, settings_in
from tests.jobs.test_bad_input import one_sentence
from tests.jobs.test_hostile_names import write_parquet


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("job", ["keys", "craft"])
def test_a_run_folder_keeps_the_configuration_of_its_own_keys(tmp_path, capsys, job):
    assert exit_code("keys", settings_in(tmp_path)) == 0
    before = files_of(tmp_path / "runs")
    capsys.readouterr()
    assert exit_code(job, settings_in(tmp_path, f"keys.root={tmp_path / 'others'}")) == 2
    assert "is registered for other keys or data" in one_sentence(capsys)
    assert files_of(tmp_path / "runs") == before


def test_a_run_folder_keeps_the_configuration_of_its_own_data(tmp_path, capsys):
    first = write_parquet(tmp_path / "first", ["a", "b"])
    second = write_parquet(tmp_path / "second", ["a", "c"])
    assert exit_code("keys", settings_in(tmp_path, *first)) == 0
    before = files_of(tmp_path)
    capsys.readouterr()
    assert exit_code("craft", settings_in(tmp_path, *second)) == 2
    assert "the data changed since" in one_sentence(capsys)
    assert files_of(tmp_path) == before


def test_a_run_folder_is_committed_to_one_secret(tmp_path, capsys):
    def commit(keys: str) -> int:
        words = [
            word for setting in settings_in(tmp_path, f"keys.root={tmp_path / keys}") for word in ("--set", setting)
        ]
        return main(["keys", "commit", *words, "--source", "drand", "--round", "5"])

    assert commit("secrets") == 0
    assert commit("secrets") == 0
    before = files_of(tmp_path / "runs")
    capsys.readouterr()
    assert commit("others") == 2
    assert "commits to another secret or round" in one_sentence(capsys)
    assert files_of(tmp_path / "runs") == before


def test_of_two_values_at_once_labels_are_drawn_from_one(tmp_path, monkeypatch):
    root = Root(str(tmp_path))
    commit_to_keys(root, "k.json", KeySpec(8, 10, 1, 8, "block", {"cell_size": 1}), "drand", "5")
    original, commitments = Root.write_bytes, []

    def write_while_another_draws(self, path, data, **options):
        with pytest.raises(InputError, match="being drawn from another value"):
            draw_labels(root, "k.json", "bb")
        original(self, path, data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Root, "write_bytes", write_while_another_draws)
        commitments.append(draw_labels(root, "k.json", "aa").commitment)
    assert draw_labels(root, "k.json", "aa").commitment == commitments[0]
    with pytest.raises(InputError, match="drawn from another value"):
        draw_labels(root, "k.json", "bb")
