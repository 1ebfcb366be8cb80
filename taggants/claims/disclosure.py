"""The disclosure: some keys or all of them, each proved to be one of those that were registered, or the secret itself."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from taggants.detection import Registration
from taggants.errors import InputError, check_integer, check_sha256
from taggants.identity import strict_json
from taggants.keys import KeysCommitment, KeySet, KeySpec, derive_keys, key_leaf
from taggants.keys.derivation import DEMONSTRATION_SECRET
from taggants.keys.merkle import merkle_proof, root_of_proof

DISCLOSURE_FORMAT: Final = "taggants-disclosure/1"
_FIELDS: Final = ("format", "registration_sha256", "keys", "secret", "spec")
_KEY_FIELDS: Final = ("index", "salt", "label", "id", "image", "proof")


@dataclass(frozen=True, eq=False)
class DisclosedKeys:
    """Keys that are proved to be registered.

    Attributes:
        indices: of the keys, rising, int64 [n].
        images: uint8 [n, channels, H, W].
        labels: int64 [n].
        spec: what they look like, where the secret was disclosed, so that all keys were derived again; else None.
    """

    indices: NDArray[np.int64]
    images: NDArray[np.uint8] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    spec: KeySpec | None


def disclosure_of(
    registration: Registration, keys: KeySet, indices: Iterable[int], secret: bytes | None = None
) -> dict[str, Any]:
    """Returns the content of a disclosure file.

    Args:
        registration: that the keys are registered by, with a question unless the secret is given.
        indices: of the keys to disclose; of none if the secret is given.
        secret: discloses all keys of this secret, in other registrations too, and that the labels were drawn as they should be.

    Raises:
        InputError: an index is no key's, or the registration holds no root over the keys.
    """
    content = {"format": DISCLOSURE_FORMAT, "registration_sha256": registration.registration_sha256}
    if secret is not None:
        return {**content, "keys": [], "secret": secret.hex(), "spec": keys.spec.to_json()}
    if registration.keys_root is None:
        raise InputError("a registration without a question cannot disclose single keys; disclose the secret: --secret")
    disclosed = []
    for index in sorted(set(indices)):
        check_integer("a key to disclose", index, 0, registration.num_keys - 1)
        disclosed.append(
            {
                "index": index,
                "salt": keys.salts[index].hex(),
                "label": int(keys.labels[index]),
                "id": keys.ids[index],
                "image": base64.b64encode(keys.images[index].tobytes()).decode(),
                "proof": [other.hex() for other in merkle_proof(keys.leaves, index)],
            }
        )
    return {**content, "keys": disclosed, "secret": None, "spec": None}


def read_disclosure(text: str | bytes, registration: Registration) -> DisclosedKeys:
    """Returns the keys of a disclosure file, each proved to be one that is registered.

    Raises:
        InputError: it is of another registration, or a key is not registered with this image and label; the sentence says
            which.
    """
    value = strict_json(text, "The disclosure", max_bytes=2**30)
    if not isinstance(value, dict) or set(value) != set(_FIELDS) or value["format"] != DISCLOSURE_FORMAT:
        raise InputError(
            f"The disclosure must be a JSON object of format {DISCLOSURE_FORMAT!r} with only {', '.join(_FIELDS)}."
        )
    if value["registration_sha256"] != registration.registration_sha256:
        raise InputError("The disclosure is of another registration: its registration_sha256 differs.")
    if not isinstance(value["keys"], list):
        raise InputError("The disclosure's keys must be a JSON list.")
    if value["secret"] is None:
        if value["spec"] is not None:
            raise InputError("The disclosure's spec must be null without the secret.")
        return _proved(value["keys"], registration)
    if value["keys"]:
        raise InputError("The disclosure's keys must be empty where it holds the secret, which they are derived from.")
    return _derived(value["secret"], value["spec"], registration)


def _derived(secret: object, spec: object, registration: Registration) -> DisclosedKeys:
    if not isinstance(secret, str) or not re.fullmatch("[0-9a-f]{64}", secret):
        raise InputError("The disclosure's secret must be 64 lower-case hex digits.")
    read_spec, registered = KeySpec.from_json(spec), registration
    if (read_spec.num_keys, read_spec.num_classes) != (registered.num_keys, registered.num_classes):
        raise InputError(
            f"The disclosure's spec has {read_spec.num_keys} keys of {read_spec.num_classes} classes but "
            f"{registered.num_keys} of {registered.num_classes} are registered."
        )
    if read_spec.num_keys * read_spec.channels * read_spec.image_size**2 > 2**28:
        raise InputError("The disclosure's keys would take more than 256 MiB; use the original file.")
    shape = (read_spec.channels, read_spec.image_size, read_spec.image_size)
    if registered.image_shape is not None and shape != registered.image_shape:
        raise InputError(f"The disclosure's spec has keys of {shape} but {registered.image_shape} is registered.")
    raw = bytes.fromhex(secret)
    keys = derive_keys(raw, read_spec, registered.randomness)
    if keys.commitment != registered.keys_commitment:
        raise InputError("The disclosure's secret and spec are not those that keys_commitment commits to.")
    if registered.keys_root is not None and keys.root != registered.keys_root:
        raise InputError("The disclosure's secret gives another keys_root than the registered one.")
    drawn = registered.randomness
    if (
        drawn is not None
        and KeysCommitment.of(raw, read_spec, drawn.source, drawn.round).with_value(drawn.value) != drawn
    ):
        raise InputError("The secret is not the one that the randomness's commitment_sha256 commits to.")
    if raw == DEMONSTRATION_SECRET and not registered.demonstration:  # which format 1 cannot say
        raise InputError("The secret is the public demonstration secret: anybody can make this claim.")
    return DisclosedKeys(np.arange(read_spec.num_keys), keys.images, keys.labels, read_spec)


def _proved(disclosed: list[Any], registration: Registration) -> DisclosedKeys:
    if registration.keys_root is None or registration.image_shape is None:
        raise InputError("The registration holds no keys_root, so single keys prove nothing: disclose the secret.")
    root, shape = bytes.fromhex(registration.keys_root), registration.image_shape
    indices, labels, images = [], [], []
    for key in disclosed:
        if not isinstance(key, dict) or set(key) != set(_KEY_FIELDS):
            raise InputError(f"A disclosed key must be a JSON object with only {', '.join(_KEY_FIELDS)}.")
        check_integer("index of a disclosed key", key["index"], 0, registration.num_keys - 1)
        index, name = key["index"], f"disclosed key {key['index']}"
        check_integer(f"label of {name}", key["label"], 0, registration.num_classes - 1)
        check_sha256(f"salt of {name}", key["salt"])
        check_sha256(f"id of {name}", key["id"])
        if not isinstance(key["proof"], list) or len(key["proof"]) > 32:
            raise InputError(f"proof of {name} must be a JSON list of up to 32 hashes.")
        for other in key["proof"]:
            check_sha256(f"a hash in the proof of {name}", other)
        image = _image(key["image"], shape, name)
        leaf = key_leaf(index, bytes.fromhex(key["salt"]), key["label"], key["id"], image)
        if root_of_proof(leaf, index, registration.num_keys, [bytes.fromhex(h) for h in key["proof"]]) != root:
            raise InputError(f"{name} is not the registered one: index, label, salt, id, image or proof was changed.")
        indices.append(index)
        labels.append(key["label"])
        images.append(image)
    if not indices or indices != sorted(set(indices)):
        raise InputError("The disclosure's keys must be at least one, each once, by rising index.")
    return DisclosedKeys(np.array(indices), np.stack(images), np.array(labels, dtype=np.int64), None)


def _image(text: object, shape: tuple[int, int, int], name: str) -> NDArray[np.uint8]:
    """Returns a key's image, uint8 of that shape. Only the one base64 form of the bytes is read: no bit is without effect."""
    wrong = InputError(f"image of {name} must be {shape[0] * shape[1] * shape[2]} bytes in base64.")
    if not isinstance(text, str):
        raise wrong
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise wrong from None
    if len(data) != shape[0] * shape[1] * shape[2] or base64.b64encode(data).decode() != text:
        raise wrong
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
