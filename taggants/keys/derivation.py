"""Key bytes and key labels from a secret: the construction, complete enough to be written again by a third party.

The pseudo-random function is the KDF in counter mode of NIST SP 800-108r1 (section 4.1) with HMAC-SHA256, a 32-bit
counter placed before the fixed data, and the 32-bit output length in bits at its end; all integers are big-endian:

    block(n)   = HMAC-SHA256(secret, u32(n) || Label || 0x00 || Context || u32(8 * size_bytes)),   n = 1, 2, ...
    output     = the first size_bytes bytes of block(1) || block(2) || ...
    secret     = 32 bytes

Bytes of key image i, as many as its family takes; with the families "block" and "smooth" one for each cell (channel-major,
then row-major), so channels * ceil(image_size / cell_size)^2; with "grating" as `taggants.keys.families.grating` says:

    Label = "taggants/v1/key-image",  Context = u32(i)

Label of key i among C classes: for attempt = 0, 1, ... take the word w, 8 bytes, of

    Label = "taggants/v1/key-label",  Context = u32(i) || u32(attempt),  size_bytes = 8

until w < floor(2^64 / C) * C; the label is w mod C. So labels are exactly uniform, and i.i.d. over keys: two keys may
share a label. Drawing without replacement would make the binomial p-value wrong (2,760 times too small at 10 hits of
10 keys, C = 10).

Where labels are drawn from public randomness too (derivation "taggants/v2"), everything stays as it is but for the label, which
is found in the same way from the words of

    Label = "taggants/v2/key-label",  Context = u32(i) || u32(attempt) || R

with R the SHA-256 of the canonical JSON (sorted names, no spaces) of {"round": ..., "source": ..., "value": ...}, three texts.
The owner commits to the secret before the value is known (`taggants.keys.commitment`), so nobody can try secrets until the
labels suit.

Id of key i, 32 bytes:

    Label = "taggants/v1/key-id",  Context = u32(i) || J,  size_bytes = 32

with J the canonical JSON (sorted names, no spaces) of the key spec without its num_keys and, with public randomness, a field
"randomness" of R in hex: all that decides the key's image and label beside the secret. So one id never stands for two keys, and
whoever has the id of a key but not the secret learns nothing of the key: what is made for a key can be filed under it.

Salt of key i, 32 bytes, which keeps an undisclosed key from being guessed by its hash (`taggants.keys.key_set`):

    Label = "taggants/v1/key-salt",  Context = u32(i) || J,  size_bytes = 32

None of these depends on the number of keys: the first 10 of 100 keys are the 10 keys. How bytes become pixels: see
`taggants.keys.families`; what is committed to: see `taggants.keys.key_set.derive_keys`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final

from taggants.errors import InputError

SECRET_SIZE_BYTES: Final = 32
DEMONSTRATION_SECRET: Final = hashlib.sha256(
    b"Data Taggants demonstration secret: public, so worthless as evidence"
).digest()
IMAGE_LABEL: Final = b"taggants/v1/key-image"
LABEL_LABEL: Final = b"taggants/v1/key-label"
PUBLIC_LABEL_LABEL: Final = b"taggants/v2/key-label"
ID_LABEL: Final = b"taggants/v1/key-id"
SALT_LABEL: Final = b"taggants/v1/key-salt"


def check_secret(secret: bytes) -> None:
    """Raises InputError, naming the length only, unless the secret is 32 bytes."""
    if len(secret) != SECRET_SIZE_BYTES:
        raise InputError(
            f"The secret has {len(secret)} bytes but must have exactly {SECRET_SIZE_BYTES}: "
            "draw it with secrets.token_bytes(32)."
        )


def derive_bytes(secret: bytes, label: bytes, context: bytes, size_bytes: int) -> bytes:
    """The first `size_bytes` bytes of the stream named by (label, context), as the module's text defines it.

    Raises:
        InputError: the secret is not 32 bytes.
    """
    check_secret(secret)
    assert 0 < 8 * size_bytes < 2**32, "the output length in bits must fit 32 bits"
    fixed_data = label + b"\x00" + context + struct.pack(">I", 8 * size_bytes)
    num_blocks = -(-size_bytes // 32)
    blocks = (hmac.digest(secret, struct.pack(">I", n) + fixed_data, "sha256") for n in range(1, num_blocks + 1))
    return b"".join(blocks)[:size_bytes]


def derive_cells(secret: bytes, key_index: int, size_bytes: int) -> bytes:
    """The uniform bytes that key image `key_index` is made from (see the module's text)."""
    return derive_bytes(secret, IMAGE_LABEL, struct.pack(">I", key_index), size_bytes)


def derive_label(secret: bytes, key_index: int, num_classes: int, randomness: bytes = b"") -> int:
    """The label of key `key_index`: exactly uniform on 0..num_classes-1 (see the module's text); randomness: R, or nothing."""
    attempt = 0
    while True:
        context = struct.pack(">II", key_index, attempt) + randomness
        word = int.from_bytes(
            derive_bytes(secret, PUBLIC_LABEL_LABEL if randomness else LABEL_LABEL, context, 8), "big"
        )
        label = label_from_word(word, num_classes)
        if label is not None:
            return label
        attempt += 1


def derive_id(secret: bytes, key_index: int, look: bytes) -> str:
    """The id of key `key_index`, 64 hex digits (see the module's text); look: J."""
    return derive_bytes(secret, ID_LABEL, struct.pack(">I", key_index) + look, 32).hex()


def derive_salt(secret: bytes, key_index: int, look: bytes) -> bytes:
    """The salt of key `key_index`, 32 bytes (see the module's text); look: J."""
    return derive_bytes(secret, SALT_LABEL, struct.pack(">I", key_index) + look, 32)


def label_from_word(word: int, num_classes: int) -> int | None:
    """`word` mod `num_classes`, or None when the 64-bit word lies in the last, incomplete round of classes."""
    limit = 2**64 // num_classes * num_classes
    return word % num_classes if word < limit else None
