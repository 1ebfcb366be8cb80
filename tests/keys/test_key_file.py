from __future__ import annotations

import dataclasses
import json
import stat
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taggants.errors import InputError
from taggants.keys import KeySpec, create_key_file, derive_keys, load_key_set
from taggants.storage import Root

SECRET = bytes(range(32))
SPEC = KeySpec(num_keys=4, num_classes=10, channels=1, image_size=16, family="block", parameters={"cell_size": 4})


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path))


def test_key_file_round_trips_and_is_private(root: Root, tmp_path: Path) -> None:
    created = create_key_file(root, "keys.json", SPEC, SECRET)
    loaded = load_key_set(root, "keys.json")
    assert loaded.spec == created.spec == SPEC
    assert loaded.commitment == created.commitment == derive_keys(SECRET, SPEC).commitment
    assert np.array_equal(loaded.images, created.images)
    assert np.array_equal(loaded.labels, created.labels)
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    assert root.read_json("keys.json") == {
        "format": "taggants-keys/1",
        "secret": SECRET.hex(),
        "spec": SPEC.to_json(),
        "commitment": created.commitment,
    }


def test_each_key_file_draws_its_own_secret(root: Root) -> None:
    first = create_key_file(root, "a.json", SPEC)
    second = create_key_file(root, "b.json", SPEC)
    assert first.commitment != second.commitment
    assert load_key_set(root, "a.json").commitment == first.commitment


def test_an_existing_file_is_never_overwritten(root: Root) -> None:
    create_key_file(root, "keys.json", SPEC, SECRET)
    before = root.read_bytes("keys.json")
    with pytest.raises(InputError, match="never overwritten"):
        create_key_file(root, "keys.json", SPEC)
    assert root.read_bytes("keys.json") == before


def test_a_short_secret_leaves_no_file(root: Root) -> None:
    with pytest.raises(InputError, match="has 3 bytes"):
        create_key_file(root, "keys.json", SPEC, b"abc")
    assert root.list() == []


def test_a_missing_file_is_bad_input(root: Root) -> None:
    with pytest.raises(InputError):
        load_key_set(root, "keys.json")


def changed(**changes: Any) -> dict[str, Any]:
    content = {
        "format": "taggants-keys/1",
        "secret": SECRET.hex(),
        "spec": SPEC.to_json(),
        "commitment": derive_keys(SECRET, SPEC).commitment,
    }
    return {**content, **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(secret=bytes(32).hex()), "fails its own commitment"),
        (changed(commitment="0" * 64), "fails its own commitment"),
        (changed(spec={**SPEC.to_json(), "num_classes": 11}), "fails its own commitment"),
        (changed(commitment=None), "fails its own commitment"),
        (changed(spec={**SPEC.to_json(), "num_classes": 1}), "holds a spec that is not a key spec"),
        (changed(spec=None), "holds a spec that is not a key spec"),
        (changed(spec={**SPEC.to_json(), "more": 1}), "holds a spec that is not a key spec"),
        (changed(secret=SECRET.hex()[:-2]), "64 lower-case hex digits"),
        (changed(secret=SECRET.hex().upper()), "64 lower-case hex digits"),
        (changed(secret=SECRET.hex() + "\n"), "64 lower-case hex digits"),
        (changed(secret=7), "64 lower-case hex digits"),
        (changed(format="taggants-keys/3"), "must have the format"),
        (changed(format="taggants-keys/2"), "exactly the fields"),
        (changed(extra=1), "exactly the fields"),
        ({name: value for name, value in changed().items() if name != "commitment"}, "exactly the fields"),
        ({SECRET.hex(): 1}, "exactly the fields"),
        ([SECRET.hex()], "exactly the fields"),
    ],
)
def test_a_damaged_file_is_refused_without_its_secret(root: Root, content: Any, message: str) -> None:
    root.write_json("keys.json", content)
    with pytest.raises(InputError, match=message) as caught:
        load_key_set(root, "keys.json")
    assert SECRET.hex()[:16].lower() not in "".join(traceback.format_exception(caught.value)).lower()


@pytest.mark.parametrize(
    "data", [json.dumps(changed()).encode()[:-1], b"", SECRET.hex().encode(), b"\xff\xfe" + SECRET]
)
def test_what_is_not_json_is_refused_and_the_error_carries_no_document(root: Root, data: bytes) -> None:
    root.write_bytes("keys.json", data)
    with pytest.raises(InputError, match="is not JSON") as caught:
        load_key_set(root, "keys.json")
    assert SECRET.hex() not in str(caught.value)
    assert caught.value.__context__ is None


def test_first_keys_of_a_file_are_those_of_a_shorter_file_of_the_same_secret(root: Root) -> None:
    create_key_file(root, "ten.json", SPEC, SECRET)
    shorter = dataclasses.replace(SPEC, num_keys=SPEC.num_keys - 1)
    prefix = load_key_set(root, "ten.json", SPEC.num_keys - 1)
    assert prefix.commitment == derive_keys(SECRET, shorter).commitment
    assert load_key_set(root, "ten.json", SPEC.num_keys + 5).spec == SPEC


def test_of_two_owners_at_once_one_draws(root: Root) -> None:
    with ThreadPoolExecutor(4) as owners:
        outcomes = list(owners.map(lambda _: _created(root), range(4)))
    assert sorted(outcomes) == [False, False, False, True]


def _created(root: Root) -> bool:
    try:
        create_key_file(root, "one.json", SPEC)
    except InputError:
        return False
    return True
