from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from taggants.errors import InputError
from taggants.storage import Root


def test_private_is_owner_only_from_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    replace = os.replace

    def watch(source: str, destination: str) -> None:
        modes.append(stat.S_IMODE(os.stat(source).st_mode))
        replace(source, destination)

    monkeypatch.setattr(os, "replace", watch)
    old_umask = os.umask(0)
    try:
        Root(str(tmp_path)).write_bytes("secret", b"x", private=True)
        Root(str(tmp_path)).write_json("secret.json", {}, private=True)
        Root(str(tmp_path)).write_bytes("open", b"x")
    finally:
        os.umask(old_umask)
    assert modes == [0o600, 0o600, 0o666]
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Root(str(tmp_path))
    root.write_bytes("file", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):  # not an InputError: the work is to be tried again
        root.write_bytes("file", b"new")
    assert root.read_bytes("file") == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_left_over_temporary_files_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Root(str(tmp_path))
    root.write_bytes("a/file", b"x")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    monkeypatch.setattr(os, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        root.write_bytes("a/file", b"y")
    assert len(os.listdir(tmp_path / "a")) == 2
    assert root.list() == ["a/file"]


def test_checking_whether_files_can_be_written_makes_no_folder(tmp_path: Path) -> None:
    Root(str(tmp_path / "a" / "b")).check_writable()
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a folder or lies below a file"):
        Root(str(tmp_path / "file" / "a" / "b")).check_writable()


def test_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    root.write_bytes("a", b"x")
    root.write_bytes("b/c", b"x")
    for path in ["a/b", "b"]:
        with pytest.raises(InputError, match="is a folder or lies below a file"):
            root.write_bytes(path, b"y")
        with pytest.raises(InputError, match="is a folder or lies below a file"):
            root.read_bytes(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_denied_access_is_named(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    root.write_bytes("a", b"x")
    (tmp_path / "a").chmod(0)
    with pytest.raises(InputError, match="denied"):
        root.read_bytes("a")
