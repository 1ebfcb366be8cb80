from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from taggants.claims.disclosure import disclosure_of, read_disclosure
from taggants.cli.commands.disclose import key_indices
from taggants.detection import Registration
from taggants.errors import InputError
from taggants.keys import KeysCommitment, KeySpec, derive_keys
from taggants.keys.derivation import DEMONSTRATION_SECRET
from tests.detection.test_registration import QUESTION

SECRET = bytes(range(32))
SPEC = KeySpec(7, 10, 1, 8, "block", {"cell_size": 1})
KEYS = derive_keys(SECRET, SPEC)
REGISTRATION = Registration(
    KEYS.commitment, 7, 10, "data", "question", 1, 0.01, QUESTION, image_shape=(1, 8, 8), keys_root=KEYS.root
)


def disclosure(indices: Any = (1, 4, 6), **changes: Any) -> dict[str, Any]:
    content = json.loads(json.dumps(disclosure_of(REGISTRATION, KEYS, indices)))
    return {**content, **changes}


def test_some_keys_are_proved_and_say_nothing_of_the_others() -> None:
    found = read_disclosure(json.dumps(disclosure()), REGISTRATION)
    assert found.indices.tolist() == [1, 4, 6]
    assert np.array_equal(found.images, KEYS.images[[1, 4, 6]])
    assert found.labels.tolist() == KEYS.labels[[1, 4, 6]].tolist()
    text = json.dumps(disclosure())
    for index in (0, 2, 3, 5):
        assert KEYS.ids[index] not in text
        assert KEYS.salts[index].hex() not in text
    assert SECRET.hex() not in text


def test_the_secret_discloses_all() -> None:
    content = disclosure_of(REGISTRATION, KEYS, [], SECRET)
    found = read_disclosure(json.dumps(content), REGISTRATION)
    assert found.spec == SPEC
    assert np.array_equal(found.labels, KEYS.labels)
    # Without a question, too, where there is no root.
    plain = Registration(KEYS.commitment, 7, 10, "data", "rank", 1, 0.01)
    assert read_disclosure(json.dumps(disclosure_of(plain, KEYS, [], SECRET)), plain).spec == SPEC
    with pytest.raises(InputError, match="--secret"):
        disclosure_of(plain, KEYS, [1])
    # With labels from public randomness, which stands in the registration.
    drawn = KeysCommitment.of(SECRET, SPEC, "drand", "1").with_value("ab")
    keys = derive_keys(SECRET, SPEC, drawn)
    public = replace(REGISTRATION, keys_commitment=keys.commitment, keys_root=keys.root, randomness=drawn)
    found = read_disclosure(json.dumps(disclosure_of(public, keys, [], SECRET)), public)
    assert found.labels.tolist() == keys.labels.tolist()
    other = replace(drawn, commitment_sha256="00" * 32)
    changed = replace(public, randomness=other)
    with pytest.raises(InputError, match="commitment_sha256 commits to"):
        read_disclosure(json.dumps(disclosure_of(changed, keys, [], SECRET)), changed)


def key(place: int = 0, /, **changes: Any) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = disclosure()["keys"]
    keys[place] |= changes
    return keys


SECRETLY: dict[str, Any] = {"keys": [], "secret": SECRET.hex(), "spec": SPEC.to_json()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"more": 1}, "must be a JSON object of format"),
        ({"format": "taggants-disclosure/2"}, "must be a JSON object of format"),
        ({"registration_sha256": "0" * 64}, "of another registration"),
        ({"keys": None}, "must be a JSON list"),
        ({"keys": []}, "at least one"),
        ({"keys": disclosure()["keys"][::-1]}, "by rising index"),
        ({"keys": [disclosure()["keys"][0]] * 2}, "each once"),
        ({"keys": [3]}, "A disclosed key must be"),
        ({"keys": key(index=2)}, "disclosed key 2 is not the registered one"),
        ({"keys": key(index=7)}, "index of a disclosed key is 7"),
        ({"keys": key(label=int(KEYS.labels[1] + 1) % 10)}, "disclosed key 1 is not the registered one"),
        ({"keys": key(label=10)}, "label of disclosed key 1"),
        ({"keys": key(1, salt="0" * 64)}, "disclosed key 4 is not the registered one"),
        ({"keys": key(1, id="0" * 64)}, "disclosed key 4 is not the registered one"),
        ({"keys": key(1, id=None)}, "id of disclosed key 4"),
        ({"keys": key(1, image="AAAA")}, "image of disclosed key 4 must be 64 bytes"),
        ({"keys": key(1, image=7)}, "image of disclosed key 4 must be 64 bytes"),
        ({"keys": key(1, image=disclosure()["keys"][0]["image"])}, "disclosed key 4 is not the registered one"),
        ({"keys": key(1, proof=[])}, "disclosed key 4 is not the registered one"),
        ({"keys": key(1, proof=["0" * 64] * 33)}, "up to 32 hashes"),
        ({"keys": key(1, proof=["x"])}, "a hash in the proof of disclosed key 4"),
        ({"spec": SPEC.to_json()}, "spec must be null"),
        ({**SECRETLY, "keys": key()}, "keys must be empty"),
        ({**SECRETLY, "secret": "1" * 64}, "not those that keys_commitment commits to"),
        ({**SECRETLY, "secret": "1" * 63}, "secret must be 64 lower-case hex digits"),
        ({**SECRETLY, "spec": {**SPEC.to_json(), "cell_size": 2}}, "not those that keys_commitment commits to"),
        ({**SECRETLY, "spec": {**SPEC.to_json(), "num_keys": 6}}, "6 keys of 10 classes but 7 of 10"),
        ({**SECRETLY, "spec": {**SPEC.to_json(), "image_size": 16}}, r"\(1, 8, 8\) is registered"),
        ({**SECRETLY, "spec": None}, "key spec must be"),
    ],
)
def test_what_was_not_registered_is_named(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_disclosure(json.dumps(disclosure(**change)), REGISTRATION)


def test_a_second_base64_form_of_the_same_image_is_refused() -> None:
    (disclosed,) = disclosure([1])["keys"]
    text = disclosed["image"]
    assert text.endswith("==")
    other = text[:-3] + chr(ord(text[-3]) + 1) + "=="
    with pytest.raises(InputError, match="in base64"):
        read_disclosure(json.dumps(disclosure([1], keys=[{**disclosed, "image": other}])), REGISTRATION)


def test_the_public_secret_must_be_registered_as_such() -> None:
    keys = derive_keys(DEMONSTRATION_SECRET, SPEC)
    public = replace(REGISTRATION, keys_commitment=keys.commitment, keys_root=keys.root)
    with pytest.raises(InputError, match="public demonstration secret"):
        read_disclosure(json.dumps(disclosure_of(public, keys, [], DEMONSTRATION_SECRET)), public)
    plain = Registration(  # format 1 cannot say it
        keys.commitment, SPEC.num_keys, SPEC.num_classes, "data", "hits", top_k=1, alpha=0.05
    )
    with pytest.raises(InputError, match="public demonstration secret"):
        read_disclosure(json.dumps(disclosure_of(plain, keys, [], DEMONSTRATION_SECRET)), plain)
    said = replace(public, demonstration=True)
    assert read_disclosure(json.dumps(disclosure_of(said, keys, [], DEMONSTRATION_SECRET)), said).spec == SPEC


def test_lists_of_keys() -> None:
    assert key_indices("0-2,5, 1", 7) == [0, 1, 2, 5]
    assert key_indices("all", 3) == [0, 1, 2]
    for text in ("", "7", "3-1", "a", "1-", "-1", "1,,2"):
        with pytest.raises(InputError, match="must name keys from 0 to 6"):
            key_indices(text, 7)
