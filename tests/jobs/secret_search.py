"""Searches what a run wrote for what it must keep to itself: the secret, the keys, the credentials of the storage.

Each is looked for in the forms in which programs leave bytes behind: raw, hexadecimal, base64, lists of numbers, Python's
own texts; broken over lines or not; within Parquet, zip, gzip and PNG as well.
"""

from __future__ import annotations

import base64
import functools
import gzip
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from taggants.keys import KeySet, KeySpec
from taggants.storage import Root

_ANCHOR_BYTES = 8  # of a pattern, by which places are picked; chance finds one in 2^64
_PNG = b"\x89PNG\r\n\x1a\n"


def find_secrets(
    place: Path | Root | Mapping[str, bytes], key_set: KeySet, secret: bytes, credentials: Iterable[str]
) -> list[str]:
    """Looks through every file of a place.

    Args:
        place: a folder (sockets and links in it are left out), a root, or contents by name, as a program's output.
        key_set: its key images and labels must not be there; at least 8 keys, for a shorter list of labels turns up by
            chance.
        secret: the 32 bytes that the keys come from.
        credentials: such as the secret access key of an S3 server; at least 8 characters, and random, for the same reason.

    Returns:
        "<file>: <what>", sorted; empty if nothing is there.
    """
    assert len(key_set.labels) >= 8
    patterns = _patterns(key_set, secret, tuple(credentials))
    found = set()
    for name, data in _files(place):
        for content in _contents(data):
            for form, searched in (
                ("raw", content),
                ("joined", b"".join(content.split())),
                ("spaced", b" ".join(content.split())),
            ):
                found |= {f"{name}: {what}" for what in patterns[form].search(searched)}
    return sorted(found)


class _Patterns:
    """Byte strings to look for all at once; each has the name of what it gives away."""

    def __init__(self) -> None:
        self._by_anchor: dict[bytes, set[tuple[int, bytes, str]]] = {}
        self._is_anchor = np.zeros(2**20, dtype=bool)

    def add(self, what: str, pattern: bytes) -> None:
        assert len(pattern) >= _ANCHOR_BYTES, (what, len(pattern))
        # Where bytes vary most: runs of one byte are everywhere.
        num_offsets = min(len(pattern) - _ANCHOR_BYTES + 1, 64)
        variety = [len(set(pattern[offset : offset + _ANCHOR_BYTES])) for offset in range(num_offsets)]
        offset = variety.index(max(variety))
        anchor = pattern[offset : offset + _ANCHOR_BYTES]
        self._by_anchor.setdefault(anchor, set()).add((offset, pattern, what))
        self._is_anchor[self._hashes(np.frombuffer(anchor, "<u8"))] = True

    def search(self, data: bytes) -> set[str]:
        found: set[str] = set()
        anchors = np.frombuffer(b"".join(self._by_anchor), "<u8")
        for shift in range(min(_ANCHOR_BYTES, max(0, len(data) - _ANCHOR_BYTES + 1))):
            words = np.frombuffer(data, "<u8", count=(len(data) - shift) // _ANCHOR_BYTES, offset=shift)
            candidates = np.flatnonzero(self._is_anchor[self._hashes(words)])
            for word in candidates[np.isin(words[candidates], anchors)]:
                at = int(word) * _ANCHOR_BYTES + shift
                for offset, pattern, what in self._by_anchor[data[at : at + _ANCHOR_BYTES]]:
                    if offset <= at and data.startswith(pattern, at - offset):
                        found.add(what)
        return found

    @staticmethod
    def _hashes(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """20 bits of a multiplicative hash (Knuth, TAOCP 3, 6.4)."""
        return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(44)


@functools.lru_cache(maxsize=8)
def _patterns(key_set: KeySet, secret: bytes, credentials: tuple[str, ...]) -> dict[str, _Patterns]:
    """By what they are looked for in: files as they are, without white space, and with single spaces."""
    patterns = {form: _Patterns() for form in ("raw", "joined", "spaced")}

    def add_bytes(what: str, data: bytes) -> None:
        patterns["raw"].add(what, data)
        texts = [data.hex(), data.hex().upper(), repr(data)[2:-1], *_base64_texts(data)]
        for text in texts:
            patterns["joined"].add(what, b"".join(text.encode().split()))

    def add_numbers(what: str, rows: NDArray[np.generic]) -> None:
        """[rows, columns], as JSON and Python write them, and one row as NumPy does, which pads several with spaces."""
        patterns["joined"].add(what, "],[".join(",".join(map(str, row)) for row in rows.tolist()).encode())
        if len(rows) == 1:
            patterns["spaced"].add(what, " ".join(map(str, rows[0])).encode())

    add_bytes("the secret", secret)
    add_numbers("the secret", np.frombuffer(secret, np.uint8)[None])
    for credential in credentials:
        add_bytes("a credential", credential.encode())
    for index, image in enumerate(key_set.images):
        for piece in _pieces(key_set, image):
            add_bytes(f"image of key {index}", piece.tobytes())
            patterns["raw"].add(f"image of key {index}", (piece / np.float32(255)).tobytes())
            add_numbers(f"image of key {index}", piece)
        if _grid_size(key_set.spec) >= _ANCHOR_BYTES:
            pixels = np.broadcast_to(image.transpose(1, 2, 0), (*image.shape[1:], 3))
            for row in np.unique(pixels, axis=0):
                patterns["raw"].add(f"image of key {index}", _without_repeats(row[None]))
    joined = ",".join(map(str, key_set.labels))
    for text in (f"[{joined}]", f"({joined})"):  # bare, a short list may be part of a longer one
        patterns["joined"].add("the key labels", text.encode())
    patterns["spaced"].add("the key labels", " ".join(map(str, key_set.labels)).encode())
    for dtype in ("<i8", "<i4", "<f4"):
        patterns["raw"].add("the key labels", key_set.labels.astype(dtype).tobytes())
    return patterns


def _pieces(key_set: KeySet, image: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Rows of an image, channels first and last; several together where one has too few cells to be no chance find."""
    spec = key_set.spec
    grid_size = _grid_size(spec)
    num_rows = 1 if grid_size >= _ANCHOR_BYTES else spec.parameters["cell_size"] * -(-_ANCHOR_BYTES // grid_size)
    num_rows = min(num_rows, spec.image_size)
    seen = set()
    planes = [*image, image.transpose(1, 2, 0).reshape(spec.image_size, -1)]
    for plane in planes:
        for start in range(0, spec.image_size - num_rows + 1, num_rows):
            piece = np.ascontiguousarray(plane[start : start + num_rows])
            if piece.tobytes() not in seen:
                seen.add(piece.tobytes())
                yield piece


def _grid_size(spec: KeySpec) -> int:
    """Cells along one side of a key image."""
    return -(-spec.image_size // spec.parameters["cell_size"])


def _base64_texts(data: bytes) -> set[str]:
    """The characters that the bytes alone decide, for each place in a longer text; in both alphabets."""
    texts = set()
    for offset in range(3):
        padded = bytes(offset) + data
        decided = slice(-(-8 * offset // 6), 8 * len(padded) // 6)
        texts |= {encode(padded)[decided].decode() for encode in (base64.b64encode, base64.urlsafe_b64encode)}
    return texts


def _files(place: Path | Root | Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    if isinstance(place, Path):
        for path in sorted(place.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield str(path), path.read_bytes()
    elif isinstance(place, Root):
        for name in place.list():
            yield place.uri_of(name), place.read_bytes(name)
    else:
        yield from place.items()


def _contents(data: bytes) -> Iterator[bytes]:
    """A file, and what is packed in it."""
    yield data
    if data[:2] == b"\x1f\x8b":
        yield from _contents(gzip.decompress(data))
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from _contents(archive.read(name))
    elif data[:4] == data[-4:] == b"PAR1":
        for column in pq.read_table(io.BytesIO(data)).combine_chunks().columns:
            for chunk in column.chunks:
                for buffer in chunk.buffers():
                    if buffer is not None:
                        yield from _contents(pa.py_buffer(buffer).to_pybytes())
    else:
        yield from _pictures(data)


def _pictures(data: bytes) -> Iterator[bytes]:
    """The pixels of all PNGs in it: as rows of pixels, as rows of each channel, and without repeats."""
    forms: tuple[list[bytes], ...] = ([], [], [])
    start = data.find(_PNG)
    while start >= 0 and (end := data.find(b"IEND", start)) >= 0:
        picture = Image.open(io.BytesIO(data[start : end + 8]))
        pixels = np.asarray(picture)
        forms[0].append(pixels.tobytes())
        forms[1].append(pixels.transpose(2, 0, 1).tobytes() if pixels.ndim == 3 else b"")
        forms[2].append(_without_repeats(np.asarray(picture.convert("RGB"))))
        start = data.find(_PNG, end)
    yield from (b"".join(form) for form in forms)


def _without_repeats(pixels: NDArray[np.uint8]) -> bytes:
    """The rows of [height, width, 3] without pixels that equal their left neighbour: the same at every magnification."""
    is_new = np.ones(pixels.shape[:2], dtype=bool)
    is_new[:, 1:] = (pixels[:, 1:] != pixels[:, :-1]).any(-1)
    return pixels[is_new].tobytes()
