from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import IO

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


def test_links_that_stay_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "real" / "a" / "1").write_bytes(b"x")
    (tmp_path / "real" / "a" / "2").symlink_to("1")
    (tmp_path / "real" / "b").symlink_to("a")
    (tmp_path / "link").symlink_to("real")  # the root itself may be one
    root = Root(str(tmp_path / "link"))
    assert root.read_bytes("a/2") == root.read_bytes("b/1") == b"x"
    assert root.list("a") == ["a/1", "a/2"]


@pytest.mark.parametrize("target", ["../../secret", "/dev/zero", "..", "../../elsewhere"])
def test_a_link_that_leaves_the_root_is_refused_by_name(tmp_path: Path, target: str) -> None:
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"mine")
    (tmp_path / "secret").write_bytes(b"mine")
    (tmp_path / "root" / "a" / "7.png").symlink_to(target)
    root = Root(str(tmp_path / "root"))
    if target == "..":  # that is the root: a circle
        with pytest.raises(InputError, match=r"a/7\.png links to another folder of .*; remove the link"):
            root.list()
        return
    for use in (root.list, root.sizes, lambda: root.read_bytes("a/7.png"), lambda: root.open_input("a/7.png")):
        with pytest.raises(InputError, match=r"a/7\.png links to .*, outside of .*; put the file itself there"):
            use()
    for use in (lambda: root.copy("a/7.png", root, "b"), lambda: root.read_bytes("a/7.png/file")):
        with pytest.raises(InputError, match="outside of"):
            use()
    assert not root.exists("b")


def test_links_in_a_circle_are_named(tmp_path: Path) -> None:
    for folder, other in (("a", "b"), ("b", "a")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "l").symlink_to(f"../{other}")
    root = Root(str(tmp_path))
    with pytest.raises(InputError, match=r"/[ab]/l links to another folder"):
        root.list()
    (tmp_path / "self").symlink_to("self")
    with pytest.raises(InputError, match="self: its links lead in a circle; remove them"):
        root.read_bytes("self")


def test_devices_and_pipes_are_named_and_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    root = Root(str(tmp_path))
    for use in (root.list, lambda: root.read_bytes("pipe"), lambda: root.sha256("pipe")):
        with pytest.raises(InputError, match="pipe is a device, a pipe or a socket"):
            use()


def test_without_hard_links_a_file_is_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # of exFAT

    monkeypatch.setattr(os, "link", refused)
    root = Root(str(tmp_path))
    assert root.create_bytes("a/file", b"first", private=True)
    assert not root.create_bytes("a/file", b"second")
    assert root.read_bytes("a/file") == b"first"
    assert stat.S_IMODE((tmp_path / "a" / "file").stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "a") == ["file"]


def test_what_a_person_has_to_change_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="holds a NUL character"):
        Root("a\0b")
    with pytest.raises(InputError, match="the name is too long for the file system"):
        Root(str(tmp_path)).write_bytes("x" * 300, b"")

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "makedirs", read_only)
    with pytest.raises(InputError, match="the file system is read-only; give a folder that can be written"):
        Root(str(tmp_path)).write_bytes("a/x", b"")


def test_absurdly_nested_json_is_named(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    root.write_bytes("x.json", b"[" * 1_000_000)
    with pytest.raises(InputError, match=r"x\.json is not valid JSON"):
        root.read_json("x.json")


def test_leftovers_of_killed_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    root.write_bytes("a/b", b"x")
    killed = tmp_path / "a" / f".b.{'0' * 32}.tmp"
    killed.write_bytes(b"half")
    other = tmp_path / "a" / ".mine.tmp"  # of another program
    other.write_bytes(b"")
    with root.writing("a/c") as file:
        file.write(b"y")
        root.remove_leftovers("")
        assert not killed.exists()
        assert len(list((tmp_path / "a").iterdir())) == 3
    assert root.read_bytes("a/c") == b"y"
    assert other.exists()


def test_a_writer_whose_file_was_taken_for_a_leftover_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the making of a temporary file and its lock, another driver that is done may remove leftovers."""
    root, flock = Root(str(tmp_path)), fcntl.flock
    removed: list[str] = []

    def lock(file: IO[bytes], operation: int) -> None:
        if not removed:
            removed.extend(os.listdir(tmp_path))
            monkeypatch.setattr(fcntl, "flock", flock)
            Root(str(tmp_path)).remove_leftovers("")
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    root.write_bytes("file", b"x")
    assert removed != ["file"]
    assert os.listdir(tmp_path) == ["file"]
