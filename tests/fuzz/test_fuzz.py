from __future__ import annotations

from pathlib import Path

import pytest

from taggants.errors import InputError
from tests.fuzz.fuzz import KINDS, case, failure_of, failures
from tests.fuzz.kind import Kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind: str) -> None:
    assert list(failures(kind, seed=1, count=100)) == []


def test_files_are_a_function_of_their_number() -> None:
    assert [case("registration", 3, i) for i in range(5)] == [case("registration", 3, i) for i in range(5)]
    assert len({case("registration", 3, i) for i in range(50)}) > 30


def test_what_is_no_input_error_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes, folder: Path) -> object:
        if data == b"bad":
            raise InputError("it is refused")
        return {}[data]

    monkeypatch.setitem(KINDS, "png", Kind(lambda: [b""], read))
    assert failure_of("png", b"bad") is None
    assert "KeyError" in str(failure_of("png", b"worse"))
