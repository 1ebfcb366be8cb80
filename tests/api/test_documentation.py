from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "python.md"


def test_the_worked_example_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r'```python title="digits\.py"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out
    assert "56 of 1,297 images are signed" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "secrets"}
