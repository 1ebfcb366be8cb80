"""One hash over many values, by which any of them can be shown without the others: the tree of RFC 6962, section 2.1.

    leaf(d)    = SHA-256(0x00 || d)
    node(a, b) = SHA-256(0x01 || a || b)
    root(d)    = leaf(d[0]) for one value, else node(root(d[:k]), root(d[k:])) with k the largest power of two below their number

A proof of a value holds the roots of the other halves on the way up, the lowest first. What a value does not show of the others
depends on them alone: values that can be guessed must hold a salt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def merkle_root(values: Sequence[bytes]) -> bytes:
    """Returns the root over at least one value, 32 bytes."""
    return _root([hashlib.sha256(b"\x00" + value).digest() for value in values])


def merkle_proof(values: Sequence[bytes], index: int) -> list[bytes]:
    """Returns the proof that values[index] stands at its place, from the lowest half up: at most 32 hashes of 32 bytes."""
    return _proof([hashlib.sha256(b"\x00" + value).digest() for value in values], index)


def root_of_proof(value: bytes, index: int, num_values: int, proof: Sequence[bytes]) -> bytes | None:
    """Returns the root that a proof leads to from a value at its place (RFC 9162, section 2.1.3.2); None if the proof is too
    short or too long for that place. The value is proved if this is the known root.
    """
    if not 0 <= index < num_values:
        return None
    found, place, last = hashlib.sha256(b"\x00" + value).digest(), index, num_values - 1
    for other in proof:
        if last == 0:
            return None
        if place & 1 or place == last:
            found = _node(other, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = _node(found, other)
        place, last = place >> 1, last >> 1
    return found if last == 0 else None


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _middle(num_values: int) -> int:
    return 1 << ((num_values - 1).bit_length() - 1)


def _root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    k = _middle(len(leaves))
    return _node(_root(leaves[:k]), _root(leaves[k:]))


def _proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = _middle(len(leaves))
    if index < k:
        return [*_proof(leaves[:k], index), _root(leaves[k:])]
    return [*_proof(leaves[k:], index - k), _root(leaves[:k])]
