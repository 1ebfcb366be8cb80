"""The order in which queries are handed out as files, so that their names say nothing."""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final

from taggants.keys.key_set import KeySet

_ORDER_TAG: Final = b"taggants/v1/query-order"


def query_order(keys: KeySet, num_queries: int, registration_sha256: str) -> list[int]:
    """Returns the numbers 0..num_queries-1 in the order of their files: pseudo-random to whoever lacks the salts of all keys.

    Query i comes by rising HMAC-SHA256(K, u32 i || registration hash) with K the SHA-256 of "taggants/v1/query-order" and all
    salts.
    """
    secret = hashlib.sha256(_ORDER_TAG + b"".join(keys.salts)).digest()
    context = bytes.fromhex(registration_sha256)
    return sorted(
        range(num_queries), key=lambda query: hmac.digest(secret, struct.pack(">I", query) + context, "sha256")
    )
