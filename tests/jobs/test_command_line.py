from __future__ import annotations

import sys

import pytest

from taggants.cli import run_job
from tests.jobs.running import JOBS, load_job


@pytest.mark.parametrize("job", sorted(path.stem for path in JOBS.glob("*.py")))
def test_every_job_explains_itself(job, capsys, monkeypatch):
    module = load_job(job)
    monkeypatch.setattr(sys, "argv", [job, "--help"])
    with pytest.raises(SystemExit) as end:
        run_job(module.main, module.__doc__)
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "--config" in shown
    assert "--set" in shown
    assert module.__doc__.splitlines()[0] in shown
