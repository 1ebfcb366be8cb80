from __future__ import annotations

import io
import json
import logging

import pytest
from rich.table import Table

from taggants.reporting import progress
from taggants.reporting.progress import say, show, stage, write_json_lines
from taggants.reporting.quantities import speed


@pytest.fixture
def printed(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(progress.console, "_file", out)  # the property would be put back as a file of this test
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    yield out
    write_json_lines(False)


def table() -> Table:
    made = Table("cell", "power")
    made.add_row("k4", "1")
    return made


def test_text_is_for_people(printed):
    say("run     /somewhere", stage="none")
    with stage("craft", 4, "shards") as advance:
        advance(1, "2 running")
        advance(3, "1 running")
    show(table())
    lines = printed.getvalue().splitlines()
    assert lines[0] == "run     /somewhere"
    assert lines[1] == "craft: 1/4 shards, 2 running"
    assert lines[2].startswith("craft: 3/4 shards, ")
    assert "shards/s, ETA" in lines[2]
    assert any("k4" in line for line in lines[3:])


def test_large_numbers_are_written_out(printed):
    with stage("export", 1_281_167, "rows") as advance:
        advance(1_000_000, "")
    assert printed.getvalue() == "export: 1,000,000/1,281,167 rows\n"
    assert [speed(per_s, "rows") for per_s in (0.51713, 21.24, 1094.2)] == [
        "0.517 rows/s",
        "21.2 rows/s",
        "1,094 rows/s",
    ]


def test_json_is_one_object_a_line(printed):
    write_json_lines(True)
    say("first\nsecond")
    with stage("craft", 4, "shards") as advance:
        advance(1, "")
        advance(3, "1 running")
    logging.getLogger("taggants.storage").warning("S3 answers with %d", 503)
    show(table())
    said, started, went_on, warned, shown = map(json.loads, printed.getvalue().splitlines())
    assert (said["level"], said["message"]) == ("info", "first\nsecond")
    assert (started["per_s"], started["eta_s"]) == (None, None)
    assert {name: went_on[name] for name in ("stage", "done", "total", "unit", "note")} == {
        "stage": "craft",
        "done": 3,
        "total": 4,
        "unit": "shards",
        "note": "1 running",
    }
    assert went_on["per_s"] > 0
    assert went_on["eta_s"] > 0
    assert (warned["level"], warned["message"]) == ("warning", "S3 answers with 503")
    assert "k4" in shown["message"]
    for line in (said, started, went_on, warned, shown):
        assert line["time"].endswith("+00:00")


HOSTILE = "x\x1b[2J\u202e\ud800[/bold]"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_nothing_that_is_said_steers_a_terminal(printed, monkeypatch, is_terminal):
    monkeypatch.setattr(progress.console, "_force_terminal", is_terminal)
    monkeypatch.setattr(progress.console, "is_interactive", is_terminal)
    monkeypatch.setattr(progress.console, "_environ", {"TERM": "xterm"})
    with stage(HOSTILE, 4, "shards") as advance:
        advance(1, HOSTILE)
        advance(4, HOSTILE)
    said = printed.getvalue()
    assert is_terminal == ("\x1b" in said)  # of the bar alone
    assert "\x1b[2J" not in said
    assert "[/bold]" in said
    printed.truncate(0)
    say(HOSTILE + "\nsecond line")
    assert r"x\x1b[2J\u202e\ud800[/bold]" in printed.getvalue()
    printed.getvalue().encode()
