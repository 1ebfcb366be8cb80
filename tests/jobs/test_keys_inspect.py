"""`taggants keys inspect` before keys are drawn, after crafting, and by models of one's own choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from taggants.cli import main
from tests.jobs.running import exit_code, settings_in


def test_keys_are_inspected_by_the_runs_own_models_or_by_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_in(tmp_path, "keys.family=grating", "evaluation.num_controls=1")
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["keys", "inspect", *words]) == 2
    assert "no surrogate, reference or control of this run is trained yet; name clean models" in capsys.readouterr().err
    assert not (tmp_path / "secrets").exists()

    assert exit_code("craft", settings) == 0
    (run,) = (path.parent for path in (tmp_path / "runs").glob("*/plan.json"))
    capsys.readouterr()
    assert main(["keys", "inspect", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "3 grating keys, 10 classes" in shown
    assert [line.split()[0] for line in shown.splitlines() if line.startswith(("surrogate", "control"))] == [
        "surrogate-0",
        "control-0",
    ]
    assert "cannot get below p = " in shown
    assert (tmp_path / "secrets" / "digits-separation.png").stat().st_mode & 0o777 == 0o600

    (checkpoint,) = (tmp_path / "runs" / "models").glob("control-0-*/model.safetensors")
    other = [*words, "--set", "keys.name=other", "--model", str(checkpoint)]
    assert main(["keys", "inspect", *other]) == 0
    assert "examples of keys, since none are drawn yet" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "secrets").glob("other*")) == ["other-examples.png"]
    assert main(["keys", "inspect", *words, "--model", str(run / "plan.json")]) == 2
    assert "plan.json" in capsys.readouterr().err


def test_keys_are_chosen_out_of_a_pool_by_clean_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_in(tmp_path, "keys.family=grating", "evaluation.num_controls=1")
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["train", *words, "--role", "control", "--index", "0"]) == 0  # before there are keys
    (checkpoint,) = (tmp_path / "runs" / "models").glob("control-0-*/model.safetensors")
    chosen = [*settings, "keys.pool=20", f"keys.networks=[{checkpoint}]"]
    words = [word for setting in chosen for word in ("--set", setting)]
    assert main(["keys", *words]) == 0
    shown = capsys.readouterr().out
    assert "3 of 20 candidates chosen" in shown
    assert exit_code("craft", chosen) == 0
    assert "candidates chosen" not in capsys.readouterr().out  # once
    assert main(["keys", "inspect", *words]) == 0
    assert "choice  the configured pool and networks give these keys" in capsys.readouterr().out
    for setting, sentence in (
        ("keys.pool=21", "chosen out of 20 but the config asks for"),
        ("keys.networks=[/no/such.safetensors]", "keys.networks = /no/such.safetensors does not exist"),
        ("keys.networks=[]", "keys.pool and keys.networks go together"),
        ("keys.pool=2", "keys.pool is 2 but must be at least keys.num_keys, 3"),
    ):
        assert exit_code("craft", [*chosen, setting]) == 2
        assert sentence in " ".join(capsys.readouterr().err.split())
