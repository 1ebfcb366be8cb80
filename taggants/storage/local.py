"""Files in a local folder: written under a temporary name, made durable, then renamed."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from taggants.errors import InputError
from taggants.storage.store import PIECE_BYTES, Attributes

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LocalStore:
    """Files below a folder. Links are followed as long as they stay in it: files that people pass on may link to anything,
    and what they link to would be published.

    Raises:
        InputError: a link leaves the folder or leads in a circle, or a file is a device, a pipe or a socket.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._filesystem = pafs.LocalFileSystem()
        self._without_links: set[str] = set()  # folders whose files need no more than a look at themselves

    def open_input(self, path: str) -> pa.NativeFile:
        full_path = self._full(path)
        mode = os.stat(full_path).st_mode  # raises the precise error, which pyarrow words as a bare OSError
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(full_path)
        _check_regular(full_path, mode)
        return self._filesystem.open_input_file(full_path)

    def read(self, path: str) -> bytes:
        with self.open_input(path) as source:
            return bytes(source.read())

    def write(self, path: str, source: BinaryIO | pa.NativeFile, *, private: bool, like: Attributes) -> None:
        with self.writing(path, private=private, like=like) as file:
            shutil.copyfileobj(source, file, PIECE_BYTES)

    @contextmanager
    def writing(self, path: str, *, private: bool, like: Attributes) -> Iterator[BinaryIO]:
        with self._temporary_file(path, private=private) as (file, temporary):
            yield file
            _onto_disk(file)
            if like.modified_ns is not None:
                os.utime(temporary, ns=(like.modified_ns, like.modified_ns))
            os.replace(temporary, self._full(path))

    def check_writable(self) -> None:
        folder = self._folder
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)  # folders are made when the first file is written
        with LocalStore(folder)._temporary_file("probe", private=True):
            pass

    def check_exclusive(self) -> None:
        """A local folder is exclusive, whatever it is."""

    def remove_leftovers(self, path: str) -> None:
        for folder, _, names in os.walk(self._full(path) if path else self._folder):
            for name in filter(_is_temporary, names):
                temporary = os.path.join(folder, name)
                with suppress(OSError), open(temporary, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
                    os.unlink(temporary)

    def settle(self, path: str) -> None:
        modified_ns = self._stat(path).st_mtime_ns
        os.utime(self._full(path), ns=(modified_ns, modified_ns))  # any change of a file dates it

    def create(self, path: str, data: bytes, *, private: bool) -> bool:
        with self._temporary_file(path, private=private) as (file, temporary):
            file.write(data)
            _onto_disk(file)
            try:
                os.link(temporary, self._full(path))  # unlike a rename it fails if the name is taken
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                return self._create_in_place(path, data, private=private)
        return True

    @contextmanager
    def appending(self, path: str) -> Iterator[tuple[list[bytes], Callable[[bytes], None]]]:
        full_path = self._full(path)
        os.makedirs(os.path.dirname(full_path), exist_ok=True)
        with open(os.open(full_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{full_path} is open in another process; wait for it, or stop it.") from None
            except OSError:  # some network shares have no locks
                pass
            *lines, torn = file.readall().split(b"\n")
            if torn:
                file.truncate(os.fstat(file.fileno()).st_size - len(torn))

            def append(line: bytes) -> None:
                rest = memoryview(line + b"\n")
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())

            yield lines, append

    def _create_in_place(self, path: str, data: bytes, *, private: bool) -> bool:
        """Where the file system has no hard links (exFAT, some network shares): a crash may leave half a file."""
        try:
            descriptor = os.open(self._full(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        except FileExistsError:
            return False
        with open(descriptor, "wb") as file:
            file.write(data)
            _onto_disk(file)
        return True

    def size_bytes(self, path: str) -> int:
        return self._stat(path).st_size

    def version(self, path: str) -> str:
        found = self._stat(path)
        # No program can set the last one back.
        return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"

    def attributes(self, path: str) -> Attributes:
        return Attributes(modified_ns=self._stat(path).st_mtime_ns)

    def list(self, path: str) -> Iterator[str]:
        folders = [path]
        while folders:
            path = folders.pop()
            try:
                with os.scandir(self._full(path)) as entries:
                    found = list(entries)
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in found:
                inside = f"{path}/{entry.name}" if path else entry.name
                if _is_temporary(entry.name):
                    continue
                if entry.is_symlink():
                    self._confined(entry.path)
                    if entry.is_dir():  # a circle, or files that would count twice
                        raise InputError(f"{entry.path} links to another folder of {self._folder}; remove the link.")
                if entry.is_dir():
                    folders.append(inside)
                    continue
                if not entry.is_file() and os.path.exists(entry.path):
                    _check_regular(entry.path, os.stat(entry.path).st_mode)
                yield inside

    def sizes(self, path: str) -> Iterator[tuple[str, int]]:
        return ((name, self.size_bytes(name)) for name in self.list(path))

    def delete(self, path: str) -> None:
        try:
            os.unlink(self._full(path))
        except FileNotFoundError:
            return

    def _full(self, path: str) -> str:
        full_path = os.path.join(self._folder, path)
        folder = os.path.dirname(full_path)
        if folder not in self._without_links:
            above = self._folder
            for part in path.split("/")[:-1]:
                above = os.path.join(above, part)
                if os.path.islink(above):
                    self._confined(above)
            self._without_links.add(folder)
        if os.path.islink(full_path) and path:
            self._confined(full_path)
        return full_path

    def _confined(self, link: str) -> str:
        """Returns: the real path that a link leads to.

        Raises:
            InputError: it leaves the folder.
        """
        real, folder = os.path.realpath(link), os.path.realpath(self._folder)
        if real != folder and not real.startswith(f"{folder.rstrip(os.sep)}{os.sep}"):
            raise InputError(f"{link} links to {real}, outside of {self._folder}; put the file itself there.")
        return real

    def _stat(self, path: str) -> os.stat_result:
        full_path = self._full(path)
        try:
            found = os.stat(full_path)
        except NotADirectoryError:
            raise FileNotFoundError(full_path) from None
        if stat.S_ISDIR(found.st_mode):
            raise FileNotFoundError(full_path)
        return found

    @contextmanager
    def _temporary_file(self, path: str, *, private: bool) -> Iterator[tuple[BinaryIO, str]]:
        """Yields: a new file next to `path`, and its name, which listings leave out; it is gone afterwards."""
        folder, name = os.path.split(self._full(path))
        os.makedirs(folder, exist_ok=True)
        file, temporary = _locked_file(os.path.join(folder, f".{name[:64]}"), 0o600 if private else 0o666)
        try:
            with file:
                yield file, temporary
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)


def _locked_file(start: str, mode: int) -> tuple[BinaryIO, str]:
    """Returns: a new temporary file that `remove_leftovers` of others leaves alone, and its name."""
    while True:
        temporary = f"{start}.{uuid.uuid4().hex}.tmp"
        file = os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")
        with suppress(OSError):  # some network shares have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file, temporary
        file.close()  # another process took it for a leftover before it was locked


def _onto_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _check_regular(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is a device, a pipe or a socket; remove it, or put a file there.")


def _is_temporary(name: str) -> bool:
    return re.fullmatch(r"\..*\.[0-9a-f]{32}\.tmp", name) is not None
