from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from taggants.errors import InputError
from taggants.identity import canonical_json
from taggants.keys import (
    KeysCommitment,
    KeySpec,
    Randomness,
    commit_to_keys,
    create_key_file,
    derive_keys,
    draw_labels,
    load_key_set,
    load_secret,
)
from taggants.storage import Root
from tests.keys.kbkdf import kbkdf

SECRET = bytes(range(32))
SPEC = KeySpec(4, 10, 1, 16, "block", {"cell_size": 4})
DRAWN = Randomness("drand mainnet", "4000000", "0a" * 32, "9b" * 32)


def test_labels_come_from_the_secret_and_the_public_value_as_the_text_says() -> None:
    keys, alone = derive_keys(SECRET, SPEC, DRAWN), derive_keys(SECRET, SPEC)
    digest = hashlib.sha256(b'{"round":"4000000","source":"drand mainnet","value":"' + b"0a" * 32 + b'"}').digest()
    assert DRAWN.digest == digest

    def word(index: int) -> int:
        reference = kbkdf(SECRET, b"taggants/v2/key-label", struct.pack(">II", index, 0) + digest, 8)
        return int.from_bytes(reference, "big")

    assert keys.labels.tolist() == [word(index) % 10 for index in range(4)]
    assert np.array_equal(keys.images, alone.images)
    assert set(keys.ids).isdisjoint(alone.ids)
    assert set(keys.salts).isdisjoint(alone.salts)
    assert keys.commitment != alone.commitment
    assert keys.root != alone.root
    other = Randomness(DRAWN.source, DRAWN.round, "0b" * 32, DRAWN.commitment_sha256)
    many = KeySpec(2000, 10, 1, 4, "block", {"cell_size": 4})
    first, second = derive_keys(SECRET, many, DRAWN).labels, derive_keys(SECRET, many, other).labels
    assert 0.05 < np.mean(first == second) < 0.15
    assert all(140 < count < 260 for count in Counter(first.tolist()).values())


def test_a_commitment_binds_secret_look_and_round_and_names_neither_key_nor_label() -> None:
    commitment = KeysCommitment.of(SECRET, SPEC, "drand mainnet", "4000000")
    look = canonical_json({name: value for name, value in SPEC.to_json().items() if name != "num_keys"})
    expected = hashlib.sha256(
        b"taggants/v1/secret-commitment" + SECRET + struct.pack(">I", len(look)) + look
    ).hexdigest()
    assert commitment.secret_commitment == expected
    assert KeysCommitment.from_text(json.dumps(commitment.to_json())) == commitment
    assert commitment.with_value("7").commitment_sha256 == commitment.sha256
    for broken in ("[]", "{}", json.dumps({**commitment.to_json(), "round": ""})):
        with pytest.raises(InputError):
            KeysCommitment.from_text(broken)


def test_a_key_file_waits_for_the_value_and_draws_once(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    commitment = commit_to_keys(root, "k.json", SPEC, "NIST beacon", "17")
    assert commit_to_keys(root, "k.json", SPEC, "NIST beacon", "17") == commitment
    for spec, round_ in ((SPEC, "18"), (KeySpec(5, 10, 1, 16, "block", {"cell_size": 4}), "17")):
        with pytest.raises(InputError, match="is not committed to"):
            commit_to_keys(root, "k.json", spec, "NIST beacon", round_)
    with pytest.raises(InputError, match="waits for the public value"):
        load_key_set(root, "k.json")
    keys = draw_labels(root, "k.json", "ab" * 32)
    assert load_key_set(root, "k.json").labels.tolist() == draw_labels(root, "k.json", "ab" * 32).labels.tolist()
    assert keys.randomness == commitment.with_value("ab" * 32)
    assert derive_keys(load_secret(root, "k.json"), SPEC, keys.randomness).root == keys.root
    assert (tmp_path / "k.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="drawn once"):
        draw_labels(root, "k.json", "cd" * 32)
    content = json.loads((tmp_path / "k.json").read_text())
    content["randomness"]["value"] = "cd" * 32
    (tmp_path / "k.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="fails its own commitment"):
        load_key_set(root, "k.json")
    content["randomness"] = {**content["randomness"], "value": None, "round": "18"}
    (tmp_path / "k.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="was changed after the commitment"):
        draw_labels(root, "k.json", "cd" * 32)
    content["randomness"] = content["secret"]
    (tmp_path / "k.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="holds no public randomness") as caught:
        load_key_set(root, "k.json")
    assert content["secret"] not in str(caught.value)


def test_keys_without_a_commitment_take_no_value(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    create_key_file(root, "k.json", SPEC, SECRET)
    with pytest.raises(InputError, match="waits for no public value"):
        draw_labels(root, "k.json", "ab")
    with pytest.raises(InputError, match="is not committed to"):
        commit_to_keys(root, "k.json", SPEC, "drand", "1")
