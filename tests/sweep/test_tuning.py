"""How the trials of a sweep end: with bad input, failed shards or a bug, each told apart and retried or not."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest

from taggants.errors import FailedShards, InputError
from taggants.storage import Root
from taggants.sweep import tuning
from tests.sweep.test_stages import tiny


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_only_what_may_pass_is_tried_again(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tiny(tmp_path, "sweep.num_keys=[4, 5, 6]")
    tries, records = Root(str(tmp_path / "tries")), sweep.root
    errors = {"k4": InputError("the image is too small"), "k5": ZeroDivisionError("a bug")}

    def run_cell(of_sweep: object, cell: tuning.CellSpec, on_victim: object) -> None:  # in the trial's process
        tries.write_bytes(f"{cell.name}/{len(tries.list(cell.name))}", b"")
        if cell.name in errors:
            raise errors[cell.name]
        records.write_json(f"cells/{cell.name}.json", {})

    monkeypatch.setattr(tuning, "run_cell", run_cell)
    with pytest.raises(InputError, match="cell k4: the image is too small"):
        tuning.run_trials(sweep)
    assert {name: len(tries.list(name)) for name in ("k4", "k5", "k6")} == {"k4": 1, "k5": 3, "k6": 1}
    assert [cell.name for cell in sweep.missing()] == ["k4", "k5"]
    assert "sweep: k4: the image is too small" in capsys.readouterr().out

    errors.clear()  # the cause is fixed, and the same command given again
    tuning.run_trials(sweep)
    assert sweep.missing() == []


def trial(error: Exception | None = None, **metrics: object) -> SimpleNamespace:
    return SimpleNamespace(config={"cell": {"name": "k4"}}, error=error, metrics=metrics)


def test_each_error_keeps_its_kind_and_a_bug_its_traceback() -> None:
    with pytest.raises(InputError, match="cell k4: no such file"):
        tuning._raise_error_of(trial(final_error=("InputError", "no such file")))
    with pytest.raises(FailedShards, match="cell k4: shard 3"):
        tuning._raise_error_of(trial(final_error=("FailedShards", "shard 3 failed for good")))
    try:
        raise InputError("of a bug's own")  # raised, not reported: Tune has tried it again, so it is none
    except InputError as error:
        bug = error
    with pytest.raises(RuntimeError, match="the trial of cell k4 ended with an error") as caught:
        tuning._raise_error_of(trial(bug))
    assert type(caught.value) is RuntimeError
    assert 'raise InputError("of a bug\'s own")' in "".join(traceback.format_exception(caught.value))
    tuning._raise_error_of(trial(num_victims=3))
