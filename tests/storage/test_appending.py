"""Logs that only grow: what was appended is there, whatever happened to the process."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from taggants.errors import InputError
from taggants.storage import Root


def test_what_was_appended_is_read_by_the_next(root: Root) -> None:
    with root.appending("logs/one") as (lines, append):
        assert lines == []
        append(b"first")
        append(b"")
    with root.appending("logs/one") as (lines, append):
        assert lines == [b"first", b""]
        append(b"third")
    with root.appending("logs/one") as (lines, _):
        assert lines == [b"first", b"", b"third"]
    with root.appending("logs/other") as (lines, _):
        assert lines == []


def test_a_second_writer_is_refused(root: Root) -> None:
    def append_twice_over() -> None:
        with root.appending("log") as (_, append_too):
            append(b"mine")
            append_too(b"mine")

    with root.appending("log") as (_, append):
        append(b"mine")
        with pytest.raises(InputError, match="open in another process"):
            append_twice_over()


def test_a_torn_line_is_cut_off_and_the_file_is_private(tmp_path: Path) -> None:
    root, path = Root(str(tmp_path)), tmp_path / "log"
    with root.appending("log") as (_, append):
        append(b"whole")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    path.write_bytes(path.read_bytes() + b'{"torn')
    with root.appending("log") as (lines, append):
        assert lines == [b"whole"]
        append(b"next")
    assert path.read_bytes() == b"whole\nnext\n"


def test_lines_survive_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom taggants.storage import Root\n"
        f"with Root({str(tmp_path)!r}).appending('log') as (_, append):\n"
        "    append(b'kept')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with Root(str(tmp_path)).appending("log") as (lines, _):  # the lock went with the process
        assert lines == [b"kept"]
