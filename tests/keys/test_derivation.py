from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taggants.errors import InputError
from taggants.keys.derivation import (
    IMAGE_LABEL,
    LABEL_LABEL,
    derive_bytes,
    derive_cells,
    derive_id,
    derive_label,
    label_from_word,
)
from tests.keys.kbkdf import kbkdf

SECRET = bytes(range(32))


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_stream_equals_kbkdf_of_the_cryptography_package(secret: bytes, key_index: int, size_bytes: int) -> None:
    reference = kbkdf(secret, b"taggants/v1/key-image", key_index.to_bytes(4, "big"), size_bytes)
    assert derive_cells(secret, key_index, size_bytes) == reference


def test_first_label_word_equals_kbkdf() -> None:
    for index, num_classes in [(0, 10), (7, 1000), (99, 3)]:
        reference = kbkdf(SECRET, b"taggants/v1/key-label", index.to_bytes(4, "big") + bytes(4), 8)
        assert derive_label(SECRET, index, num_classes) == int.from_bytes(reference, "big") % num_classes


def test_id_equals_kbkdf_over_the_index_and_the_look_of_the_keys() -> None:
    look = b'{"cell_size":4,"channels":3,"family":"block","image_size":32,"num_classes":10}'
    reference = kbkdf(SECRET, b"taggants/v1/key-id", (7).to_bytes(4, "big") + look, 32)
    assert derive_id(SECRET, 7, look) == reference.hex()


def test_fixed_vectors() -> None:
    assert (
        derive_cells(SECRET, 0, 40).hex()
        == "22039322b9d3af07283add5839db5b284de84254cf353b03d3d4d15ab9ca0ecbaedd42cd71322ac4"
    )
    assert derive_cells(SECRET, 1, 12).hex() == "5bc3310a514a9476b202059d"
    assert derive_bytes(SECRET, LABEL_LABEL, bytes(8), 8).hex() == "c4e8ed80facaaa0f"
    assert [derive_label(SECRET, index, 10) for index in range(12)] == [5, 9, 0, 3, 1, 0, 6, 1, 4, 5, 4, 9]
    assert [derive_label(SECRET, index, 1000) for index in range(6)] == [255, 109, 450, 703, 141, 890]


def test_streams_of_images_and_labels_differ() -> None:
    assert derive_bytes(SECRET, IMAGE_LABEL, bytes(4), 32) != derive_bytes(SECRET, LABEL_LABEL, bytes(4), 32)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 1000, 2**20, 1_000_000])
def test_words_of_the_incomplete_round_are_rejected(num_classes: int) -> None:
    remainder = 2**64 % num_classes
    assert label_from_word(2**64 - remainder - 1, num_classes) == num_classes - 1
    if remainder:
        assert label_from_word(2**64 - remainder, num_classes) is None
        assert label_from_word(2**64 - 1, num_classes) is None


def test_a_rejected_word_is_followed_by_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {0: 2**64 - 1, 1: 2**64 - 2, 2: 1234567}
    asked: list[bytes] = []

    def fake(secret: bytes, label: bytes, context: bytes, size_bytes: int) -> bytes:
        asked.append(context)
        return words[int.from_bytes(context[4:], "big")].to_bytes(size_bytes, "big")

    monkeypatch.setattr("taggants.keys.derivation.derive_bytes", fake)
    assert derive_label(SECRET, 5, 10) == 7
    assert asked == [b"\0\0\0\x05\0\0\0" + bytes([attempt]) for attempt in range(3)]


def test_labels_are_uniform_and_repeat_as_independent_draws_do() -> None:
    labels = np.array([derive_label(SECRET, index, 10) for index in range(10_000)])
    counts = np.bincount(labels, minlength=10)
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001
    pairs = np.bincount(labels[:-1] * 10 + labels[1:], minlength=100)
    assert ((pairs - 100) ** 2 / 100).sum() < 148.3  # 99 degrees of freedom, p = 0.001
    # Ten keys of ten classes have all labels different with probability 10!/10^10 = 0.00036, not always.
    distinct = [len(set(block)) for block in labels.reshape(-1, 10).tolist()]
    assert 6.2 < np.mean(distinct) < 6.8  # expected 10 (1 - 0.9^10) = 6.51


@pytest.mark.parametrize("size_bytes", [0, 16, 31, 33, 64])
def test_a_secret_of_another_length_is_refused_without_its_bytes(size_bytes: int) -> None:
    with pytest.raises(InputError, match=f"has {size_bytes} bytes") as caught:
        derive_cells(b"\xab" * size_bytes, 0, 8)
    assert "abab" not in str(caught.value)
    assert "\\xab" not in str(caught.value)
