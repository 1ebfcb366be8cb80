"""Every key family against the test vectors that it declares."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from taggants.errors import InputError
from taggants.keys import KeySpec, derive_keys
from taggants.keys.families import KEY_FAMILIES, Parameter
from taggants.keys.families.family import KeyFamily

SECRET = bytes(range(32))


@pytest.mark.parametrize("name", list(KEY_FAMILIES))
def test_a_family_gives_the_images_that_it_declares(name: str) -> None:
    family = KEY_FAMILIES[name]
    assert family.test_vectors
    for vector in family.test_vectors:
        keys = derive_keys(SECRET, KeySpec(2, 10, vector.channels, vector.image_size, name, vector.parameters))
        assert hashlib.sha256(np.ascontiguousarray(keys.images[0]).tobytes()).hexdigest() == vector.sha256


@pytest.mark.parametrize("name", list(KEY_FAMILIES))
def test_parameters_are_no_other_fields_of_a_spec_and_have_a_default(name: str) -> None:
    family = KEY_FAMILIES[name]
    assert not set(family.parameters) & set(KeySpec.__dataclass_fields__)
    family.check(name, {parameter: declared.default for parameter, declared in family.parameters.items()}, 32)


def test_a_parameter_may_have_a_bound_of_its_own() -> None:
    family = KeyFamily("", {"period": Parameter(3, 2, 5, "pixels")}, len, np.asarray, ())
    family.check("toy", {"period": 5}, 4)
    for value in (1, 6):
        with pytest.raises(InputError, match=rf"^period is {value} but must be an integer in 2\.\.5"):
            family.check("toy", {"period": value}, 4)
