from __future__ import annotations

import pytest

from tests.fuzz.fuzz import KINDS, case, failures


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind: str) -> None:
    assert list(failures(kind, seed=1, count=100)) == []


def test_files_are_a_function_of_their_number() -> None:
    assert [case("registration", 3, i) for i in range(5)] == [case("registration", 3, i) for i in range(5)]
    assert len({case("registration", 3, i) for i in range(50)}) > 30
