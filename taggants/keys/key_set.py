"""The secret keys of a run: what they look like (`KeySpec`), what they are (`KeySet`), and the commitment to them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from taggants.errors import InputError, check_integer
from taggants.identity import canonical_json
from taggants.keys.choice import Choice
from taggants.keys.derivation import check_secret, derive_cells, derive_id, derive_label, derive_salt
from taggants.keys.families import KEY_FAMILIES
from taggants.keys.merkle import merkle_root
from taggants.keys.randomness import Randomness

SMALLEST_KEY_PX: Final = 4
MAX_NUM_KEYS: Final = 100_000
MAX_NUM_CLASSES: Final = 1_000_000
_COMMITMENT_TAG: Final = b"taggants/v1/keys-commitment"
_LEAF_TAG: Final = b"taggants/v1/key"


@dataclass(frozen=True)
class KeySpec:
    """What the keys look like; public.

    Attributes:
        num_keys: number of keys, 1..100,000.
        num_classes: number of classes C that the labels are drawn from, 2..1,000,000.
        channels: channels of a key image, 1 or 3.
        image_size: side of the square key image, in pixels, 4..4096.
        family: how they are drawn, by its name in `KEY_FAMILIES`.
        parameters: of the family, by name; as JSON they stand beside the other fields.
        choice: which candidates became the keys, in order, at least num_keys; None: the first ones.

    Raises:
        InputError: a value is out of its range.
    """

    num_keys: int
    num_classes: int
    channels: int
    image_size: int
    family: str
    parameters: Mapping[str, int]
    choice: Choice | None = None

    def __post_init__(self) -> None:
        check_integer("num_keys", self.num_keys, 1, MAX_NUM_KEYS)
        check_integer("num_classes", self.num_classes, 2, MAX_NUM_CLASSES)
        if type(self.channels) is not int or self.channels not in (1, 3):
            raise InputError(f"channels is {self.channels!r} but must be 1 or 3.")
        check_integer("image_size", self.image_size, SMALLEST_KEY_PX, 4096)
        if not isinstance(self.family, str) or self.family not in KEY_FAMILIES:
            raise InputError(f"family is {self.family!r} but must be one of {', '.join(KEY_FAMILIES)}.")
        KEY_FAMILIES[self.family].check(self.family, self.parameters, self.image_size)
        if self.choice is not None and len(self.choice.indices) < self.num_keys:
            raise InputError(f"the choice names {len(self.choice.indices)} candidates for {self.num_keys} keys.")

    @property
    def indices(self) -> Sequence[int]:
        """Which candidate each key is: the index that its image, its label and its id are derived from."""
        return range(self.num_keys) if self.choice is None else self.choice.indices[: self.num_keys]

    def to_json(self) -> dict[str, Any]:
        shared = {name: getattr(self, name) for name in _SHARED_FIELDS}
        chosen = {} if self.choice is None else {"choice": self.choice.to_json()}
        return {**shared, **self.parameters, **chosen}

    @classmethod
    def from_json(cls, value: object) -> KeySpec:
        """The spec in a JSON object with exactly the fields of this class; InputError otherwise."""
        if not isinstance(value, dict) or not set(_SHARED_FIELDS) <= set(value):
            raise InputError(f"The key spec must be a JSON object with the fields {', '.join(_SHARED_FIELDS)}.")
        shared = {name: value[name] for name in _SHARED_FIELDS}
        choice = Choice.from_json(value["choice"]) if "choice" in value else None
        parameters = {name: number for name, number in value.items() if name not in shared and name != "choice"}
        return cls(**shared, parameters=parameters, choice=choice)


_SHARED_FIELDS: Final = tuple(f.name for f in fields(KeySpec) if f.name not in ("parameters", "choice"))


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
        salts: one for each key, 32 bytes; secret until the key is disclosed.
        randomness: public, that the labels were drawn from besides the secret; None: from the secret alone.
    """

    spec: KeySpec
    images: NDArray[np.uint8] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    commitment: str
    ids: tuple[str, ...] = field(repr=False)
    salts: tuple[bytes, ...] = field(repr=False)
    randomness: Randomness | None = field(default=None, repr=False)

    @cached_property
    def leaves(self) -> list[bytes]:
        """What the Merkle tree is built over: `key_leaf` of each key. As secret as the keys."""
        return [
            key_leaf(index, *content)
            for index, content in enumerate(zip(self.salts, self.labels.tolist(), self.ids, self.images, strict=True))
        ]

    @cached_property
    def root(self) -> str:
        """Root of the Merkle tree over the salted keys (`taggants.keys.merkle`), 64 hex digits; public. With it any key can be
        disclosed and proved without the others."""
        return merkle_root(self.leaves).hex()

    def __post_init__(self) -> None:
        self.images.setflags(write=False)
        self.labels.setflags(write=False)


def derive_keys(secret: bytes, spec: KeySpec, randomness: Randomness | None = None) -> KeySet:
    """The keys of `spec` from a 32-byte secret and, if given, public randomness, by the construction in
    `taggants.keys.derivation`.

    The first n keys do not depend on `spec.num_keys`. Key i of a spec with a choice is candidate `spec.choice.indices[i]`, the
    key of that number without a choice. The commitment is

        SHA-256("taggants/v1/keys-commitment" || secret || u32 BE length of J || J || image bytes || labels as int64 LE)

    with J the canonical JSON of the spec (sorted names, no spaces), to which public randomness adds a field "randomness" of its
    digest in hex. It binds: other keys with the same commitment would be a collision of SHA-256. It hides: whoever wants to
    test a guess at the keys needs the 256-bit secret as well. A hash of the labels alone would hide nothing, for anyone can hash
    all C^K label vectors (10^10 for ten keys of ten classes) and so read the labels off.

    Raises:
        InputError: the secret is not 32 bytes.
    """
    check_secret(secret)
    family = KEY_FAMILIES.find(spec.family)
    num_bytes = family.num_bytes(spec.channels, spec.image_size, **spec.parameters)
    images = np.empty((spec.num_keys, spec.channels, spec.image_size, spec.image_size), dtype=np.uint8)
    labels = np.empty(spec.num_keys, dtype=np.int64)
    drawn = b"" if randomness is None else randomness.digest
    for place, index in enumerate(spec.indices):
        stream = np.frombuffer(derive_cells(secret, index, num_bytes), dtype=np.uint8)
        images[place] = family.image(stream, spec.channels, spec.image_size, **spec.parameters)
        labels[place] = derive_label(secret, index, spec.num_classes, drawn)
    whole = spec.to_json() | ({"randomness": drawn.hex()} if drawn else {})
    look = canonical_json({name: value for name, value in whole.items() if name not in ("num_keys", "choice")})
    ids = tuple(derive_id(secret, index, look) for index in spec.indices)
    salts = tuple(derive_salt(secret, index, look) for index in spec.indices)
    return KeySet(
        spec, images, labels, _commitment(secret, canonical_json(whole), images, labels), ids, salts, randomness
    )


def key_leaf(index: int, salt: bytes, label: int, key_id: str, image: NDArray[np.uint8]) -> bytes:
    """Returns what stands for a key in the Merkle tree: "taggants/v1/key" || u32 index || salt || u32 label || id || image bytes.

    Integers are big-endian; salt and id are 32 bytes, so that no two keys share one byte string.
    """
    head = _LEAF_TAG + struct.pack(">I", index) + salt + struct.pack(">I", label) + bytes.fromhex(key_id)
    return head + np.ascontiguousarray(image).tobytes()


def _commitment(secret: bytes, look: bytes, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    # Every part has a length fixed by those before it, so no two inputs share one byte string.
    digest = hashlib.sha256(_COMMITMENT_TAG + secret + struct.pack(">I", len(look)) + look)
    digest.update(images.data)
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()
