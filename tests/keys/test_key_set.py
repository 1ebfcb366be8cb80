from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np
import pytest

from taggants.errors import InputError
from taggants.keys import KeySpec, derive_keys
from taggants.keys.derivation import derive_cells, derive_id, derive_label

SECRET = bytes(range(32))
SPEC = KeySpec(num_keys=10, num_classes=10, channels=3, image_size=32, family="block", parameters={"cell_size": 4})


def test_keys_hold_the_derived_cells_and_labels() -> None:
    keys = derive_keys(SECRET, SPEC)
    assert keys.images.shape == (10, 3, 32, 32)
    assert keys.images.dtype == np.uint8
    assert keys.labels.dtype == np.int64
    for index in range(10):
        cells = np.frombuffer(derive_cells(SECRET, index, 3 * 8 * 8), np.uint8).reshape(3, 8, 8)
        assert np.array_equal(keys.images[index, :, ::4, ::4], cells)
        assert keys.labels[index] == derive_label(SECRET, index, 10)


@pytest.mark.parametrize("family", ["block", "smooth"])
def test_first_ten_of_a_hundred_are_the_ten(family: Any) -> None:
    ten = derive_keys(SECRET, dataclasses.replace(SPEC, family=family))
    hundred = derive_keys(SECRET, dataclasses.replace(SPEC, family=family, num_keys=100))
    assert np.array_equal(hundred.images[:10], ten.images)
    assert np.array_equal(hundred.labels[:10], ten.labels)
    assert len({image.tobytes() for image in hundred.images}) == 100


def test_ids_do_not_depend_on_the_number_of_keys() -> None:
    ten = derive_keys(SECRET, SPEC).ids
    hundred = derive_keys(SECRET, dataclasses.replace(SPEC, num_keys=100)).ids
    assert hundred[:10] == ten
    assert len(set(hundred)) == 100


def test_ids_differ_with_the_secret_and_with_every_other_field_of_the_spec() -> None:
    others: list[dict[str, Any]] = [
        {"num_classes": 11},
        {"channels": 1},
        {"image_size": 31},
        {"family": "smooth"},
        {"parameters": {"cell_size": 5}},
    ]
    key_sets = [derive_keys(SECRET, dataclasses.replace(SPEC, **fields)) for fields in [{}, *others]]
    ids = [name for key_set in [*key_sets, derive_keys(bytes(32), SPEC)] for name in key_set.ids]
    assert len(set(ids)) == len(ids) == 70


def test_first_id_is_the_keyed_hash_that_derivation_describes() -> None:
    look = b'{"cell_size":4,"channels":3,"family":"block","image_size":32,"num_classes":10}'
    assert derive_keys(SECRET, SPEC).ids[1] == derive_id(SECRET, 1, look)


def test_grid_that_does_not_divide_the_image_is_cropped() -> None:
    keys = derive_keys(SECRET, KeySpec(2, 10, 1, 10, "block", {"cell_size": 4}))
    cells = np.frombuffer(derive_cells(SECRET, 1, 9), np.uint8).reshape(3, 3)
    assert np.array_equal(keys.images[1, 0], np.kron(cells, np.ones((4, 4), np.uint8))[:10, :10])


def test_commitment_is_what_its_docstring_says() -> None:
    keys = derive_keys(SECRET, SPEC)
    spec_json = b'{"cell_size":4,"channels":3,"family":"block","image_size":32,"num_classes":10,"num_keys":10}'
    parts = [
        b"taggants/v1/keys-commitment",
        SECRET,
        len(spec_json).to_bytes(4, "big"),
        spec_json,
        b"".join(bytes(image.ravel().tolist()) for image in keys.images),
        b"".join(int(label).to_bytes(8, "little") for label in keys.labels),
    ]
    assert keys.commitment == hashlib.sha256(b"".join(parts)).hexdigest()


def test_fixed_commitments() -> None:
    assert derive_keys(SECRET, SPEC).commitment == "3ed1033bc61a7e948cb316e49cb66c8410d39a3fabcb53722d53591c72b010f9"
    smooth = KeySpec(
        num_keys=5, num_classes=1000, channels=1, image_size=50, family="smooth", parameters={"cell_size": 7}
    )
    assert derive_keys(SECRET, smooth).commitment == "ba61ca3f61f54737bd5598bc83fafa74da92f4d65b46b79280426cb366cdcfc7"


def test_commitment_binds_secret_and_every_field_of_the_spec() -> None:
    specs = [
        SPEC,
        dataclasses.replace(SPEC, num_keys=11),
        dataclasses.replace(SPEC, num_classes=11),
        dataclasses.replace(SPEC, channels=1),
        dataclasses.replace(SPEC, image_size=31),
        dataclasses.replace(SPEC, family="smooth"),
        dataclasses.replace(SPEC, parameters={"cell_size": 5}),
    ]
    commitments = [derive_keys(SECRET, spec).commitment for spec in specs]
    commitments.append(derive_keys(bytes(32), SPEC).commitment)
    assert len(set(commitments)) == 8


def test_commitment_binds_a_spec_whose_keys_are_equal() -> None:
    # One block covers the image either way, and the keys are the same, but the spec differs.
    one = derive_keys(SECRET, KeySpec(3, 10, 1, 8, "block", {"cell_size": 8}))
    smooth = derive_keys(SECRET, KeySpec(3, 10, 1, 8, "smooth", {"cell_size": 8}))
    assert np.array_equal(one.images, smooth.images)
    assert one.commitment != smooth.commitment


def test_key_set_is_read_only_and_its_repr_is_public() -> None:
    keys = derive_keys(SECRET, SPEC)
    with pytest.raises(ValueError, match="read-only"):
        keys.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        keys.labels[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        keys.commitment = ""  # type: ignore[misc]
    assert repr(keys) == f"KeySet(spec={SPEC!r}, commitment='{keys.commitment}')"
    assert SECRET not in [value for value in vars(keys).values() if isinstance(value, bytes)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_keys", 0),
        ("num_keys", 100_001),
        ("num_keys", 1.0),
        ("num_keys", True),
        ("num_classes", 1),
        ("num_classes", 1_000_001),
        ("channels", 2),
        ("channels", 3.0),
        ("image_size", 3),
        ("image_size", 4097),
        ("family", "noise"),
        ("family", ["block"]),
    ],
)
def test_spec_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{field} is "):
        dataclasses.replace(SPEC, **{field: value})


@pytest.mark.parametrize("value", [0, 33, True, 4.0, "4"])
def test_parameter_out_of_range_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InputError, match=r"^cell_size is "):
        dataclasses.replace(SPEC, parameters={"cell_size": value})


def test_the_family_says_which_parameters_there_are() -> None:
    for parameters in ({}, {"cell_size": 4, "period": 2}, {"period": 2}):
        with pytest.raises(InputError, match="key family 'block' has the parameters cell_size, not "):
            dataclasses.replace(SPEC, parameters=parameters)


def test_spec_round_trips_through_json() -> None:
    assert KeySpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC
    cases: list[Any] = [{"num_keys": 1}, [], None]
    for broken in cases:
        with pytest.raises(InputError, match="with the fields num_keys"):
            KeySpec.from_json(broken)
    with pytest.raises(InputError, match="has the parameters cell_size, not cell_size, extra"):
        KeySpec.from_json({**SPEC.to_json(), "extra": 1})


def test_short_secret_is_refused() -> None:
    with pytest.raises(InputError, match="has 5 bytes"):
        derive_keys(b"short", SPEC)
