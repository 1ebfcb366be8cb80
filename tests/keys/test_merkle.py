from __future__ import annotations

import hashlib

import pytest

from taggants.keys.merkle import merkle_proof, merkle_root, root_of_proof


def test_the_root_is_that_of_rfc_6962() -> None:
    """The roots of the reference implementation's inputs (certificate-transparency, merkle_tree_test.cc)."""
    inputs = [
        bytes.fromhex(text)
        for text in (
            *("", "00", "10", "2021", "3031", "40414243"),
            *("5051525354555657", "606162636465666768696a6b6c6d6e6f"),
        )
    ]
    assert merkle_root(inputs[:1]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert merkle_root(inputs[:2]).hex() == "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
    assert merkle_root(inputs[:3]).hex() == "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"
    assert merkle_root(inputs).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@pytest.mark.parametrize("num_values", [1, 2, 3, 5, 8, 13, 64, 65])
def test_every_value_is_proved_at_its_place_alone(num_values: int) -> None:
    values = [hashlib.sha256(bytes([i])).digest() for i in range(num_values)]
    root = merkle_root(values)
    for index, value in enumerate(values):
        proof = merkle_proof(values, index)
        assert root_of_proof(value, index, num_values, proof) == root
        assert root_of_proof(value + b"x", index, num_values, proof) != root
        for other in {0, num_values - 1, (index + 1) % num_values} - {index}:
            assert root_of_proof(value, other, num_values, proof) != root
        assert root_of_proof(value, index, num_values, [*proof, root]) is None
        if proof:
            assert root_of_proof(value, index, num_values, proof[:-1]) is None
            assert root_of_proof(value, index, num_values, [proof[0][::-1], *proof[1:]]) != root
    assert root_of_proof(values[0], num_values, num_values, []) is None
    assert root_of_proof(values[0], -1, num_values, []) is None
