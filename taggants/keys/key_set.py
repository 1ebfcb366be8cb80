"""The secret keys of a run: what they look like (`KeySpec`), what they are (`KeySet`), and the commitment to them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from taggants.errors import InputError
from taggants.keys.derivation import check_secret, derive_cells, derive_id, derive_label
from taggants.keys.images import block_image, smooth_image

KeyFamily = Literal["block", "smooth"]

MAX_NUM_KEYS: Final = 100_000
MAX_NUM_CLASSES: Final = 1_000_000
_COMMITMENT_TAG: Final = b"taggants/v1/keys-commitment"


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """The one byte form of a JSON object that gets hashed: sorted names, no spaces, ASCII, shortest floats, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Raises InputError unless `value` is an int in low..high (a bool is none)."""
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"{name} is {value!r} but must be an integer in {low}..{high}.")


@dataclass(frozen=True)
class KeySpec:
    """What the keys look like; public.

    Attributes:
        num_keys: number of keys, 1..100,000.
        num_classes: number of classes C that the labels are drawn from, 2..1,000,000.
        channels: channels of a key image, 1 or 3.
        image_size: side of the square key image, in pixels, 4..4096.
        family: "block" (cells of one colour) or "smooth" (the same cells, interpolated).
        cell_size: side of a cell, in pixels, 1..image_size.

    Raises:
        InputError: a value is out of its range.
    """

    num_keys: int
    num_classes: int
    channels: int
    image_size: int
    family: KeyFamily
    cell_size: int

    def __post_init__(self) -> None:
        check_integer("num_keys", self.num_keys, 1, MAX_NUM_KEYS)
        check_integer("num_classes", self.num_classes, 2, MAX_NUM_CLASSES)
        if type(self.channels) is not int or self.channels not in (1, 3):
            raise InputError(f"channels is {self.channels!r} but must be 1 or 3.")
        check_integer("image_size", self.image_size, 4, 4096)
        if self.family not in get_args(KeyFamily):
            raise InputError(f"family is {self.family!r} but must be 'block' or 'smooth'.")
        check_integer("cell_size", self.cell_size, 1, self.image_size)

    @property
    def grid_size(self) -> int:
        """Cells along one side of a key image."""
        return -(-self.image_size // self.cell_size)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> KeySpec:
        """The spec in a JSON object with exactly the fields of this class; InputError otherwise."""
        names = [spec_field.name for spec_field in fields(cls)]
        if not isinstance(value, dict) or set(value) != set(names):
            raise InputError(f"The key spec must be a JSON object with exactly the fields {', '.join(names)}.")
        return cls(**value)


@dataclass(frozen=True, eq=False)
class KeySet:
    """The keys themselves; secret until they are disclosed. The secret they come from is not kept here.

    Attributes:
        spec: what the keys look like.
        images: uint8 [num_keys, channels, image_size, image_size], read-only.
        labels: int64 [num_keys] in 0..num_classes-1, read-only.
        commitment: SHA-256 (hex) that binds the secret, the spec, the images and the labels; public (see
        `derive_keys`).
        ids: one name for each key, 64 hex digits; pseudo-random to whoever lacks the secret. Like the keys, the first ids do
            not depend on num_keys.
    """

    spec: KeySpec
    images: NDArray[np.uint8] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    commitment: str
    ids: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        self.images.setflags(write=False)
        self.labels.setflags(write=False)


def derive_keys(secret: bytes, spec: KeySpec) -> KeySet:
    """The keys of `spec` from a 32-byte secret, by the construction in `taggants.keys.derivation`.

    The first n keys do not depend on `spec.num_keys`. The commitment is

        SHA-256("taggants/v1/keys-commitment" || secret || u32 BE length of J || J || image bytes || labels as int64 LE)

    with J the canonical JSON of the spec (sorted names, no spaces). It binds: other keys with the same commitment would
    be a collision of SHA-256. It hides: whoever wants to test a guess at the keys needs the 256-bit secret as well. A
    hash of the labels alone would hide nothing, for anyone can hash all C^K label vectors (10^10 for ten keys of ten
    classes) and so read the labels off.

    Raises:
        InputError: the secret is not 32 bytes.
    """
    check_secret(secret)
    make_image = {"block": block_image, "smooth": smooth_image}[spec.family]
    grid_shape = (spec.channels, spec.grid_size, spec.grid_size)
    images = np.empty((spec.num_keys, spec.channels, spec.image_size, spec.image_size), dtype=np.uint8)
    labels = np.empty(spec.num_keys, dtype=np.int64)
    for index in range(spec.num_keys):
        stream = derive_cells(secret, index, spec.channels * spec.grid_size**2)
        cells = np.frombuffer(stream, dtype=np.uint8).reshape(grid_shape)
        images[index] = make_image(cells, spec.cell_size, spec.image_size)
        labels[index] = derive_label(secret, index, spec.num_classes)
    look = canonical_json({name: value for name, value in spec.to_json().items() if name != "num_keys"})
    ids = tuple(derive_id(secret, index, look) for index in range(spec.num_keys))
    return KeySet(spec, images, labels, _commitment(secret, spec, images, labels), ids)


def _commitment(secret: bytes, spec: KeySpec, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    spec_json = canonical_json(spec.to_json())
    # Every part has a length fixed by those before it, so no two inputs share one byte string.
    digest = hashlib.sha256(_COMMITMENT_TAG + secret + struct.pack(">I", len(spec_json)) + spec_json)
    digest.update(images.data)
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()
