"""Files in a local folder: written under a temporary name, made durable, then renamed."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from taggants.storage.store import PIECE_BYTES


class LocalStore:
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._filesystem = pafs.LocalFileSystem()

    def open_input(self, path: str) -> pa.NativeFile:
        full_path = self._full(path)
        os.stat(full_path)  # raises the precise error, which pyarrow words as a bare OSError
        if os.path.isdir(full_path):
            raise IsADirectoryError(full_path)
        return self._filesystem.open_input_file(full_path)

    def read(self, path: str) -> bytes:
        with self.open_input(path) as source:
            return bytes(source.read())

    def write(self, path: str, source: BinaryIO | pa.NativeFile, *, private: bool) -> None:
        with self.writing(path, private=private) as file:
            shutil.copyfileobj(source, file, PIECE_BYTES)

    @contextmanager
    def writing(self, path: str, *, private: bool) -> Iterator[BinaryIO]:
        with self._temporary_file(path, private=private) as (file, temporary):
            yield file
            _onto_disk(file)
            os.replace(temporary, self._full(path))

    def check_writable(self) -> None:
        folder = self._folder
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)  # folders are made when the first file is written
        with LocalStore(folder)._temporary_file("probe", private=True):
            pass

    def create(self, path: str, data: bytes, *, private: bool) -> bool:
        with self._temporary_file(path, private=private) as (file, temporary):
            file.write(data)
            _onto_disk(file)
            try:
                os.link(temporary, self._full(path))  # unlike a rename it fails if the name is taken
            except FileExistsError:
                return False
        return True

    def size_bytes(self, path: str) -> int:
        return self._stat(path).st_size

    def version(self, path: str) -> str:
        found = self._stat(path)
        # No program can set the last one back.
        return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"

    def list(self, path: str) -> Iterator[str]:
        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        for folder, _, names in os.walk(self._full(path), onerror=refuse, followlinks=True):
            for name in names:
                if not _is_temporary(name):
                    yield os.path.relpath(os.path.join(folder, name), self._folder).replace(os.sep, "/")

    def sizes(self, path: str) -> Iterator[tuple[str, int]]:
        return ((name, self.size_bytes(name)) for name in self.list(path))

    def delete(self, path: str) -> None:
        try:
            os.unlink(self._full(path))
        except FileNotFoundError:
            return

    def _full(self, path: str) -> str:
        return os.path.join(self._folder, path)

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
        temporary = os.path.join(folder, f".{name[:64]}.{uuid.uuid4().hex}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        try:
            with open(descriptor, "wb") as file:
                yield file, temporary
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)


def _onto_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")
