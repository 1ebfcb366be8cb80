from __future__ import annotations

from pathlib import Path

import pytest

from taggants.errors import InputError
from taggants.keys import registration_number
from taggants.storage import Root


def test_each_registration_of_a_secret_has_a_number_for_ever(tmp_path: Path) -> None:
    root = Root(str(tmp_path))

    def number(content: str, name: str = "k", claim: bool = True) -> int | None:
        return registration_number(root, name, content * 32, claim=claim)

    assert number("aa", claim=False) is None
    assert [number("aa"), number("bb"), number("aa"), number("cc")] == [1, 2, 1, 3]
    assert number("bb", claim=False) == 2
    assert number("dd", claim=False) is None
    assert number("bb", name="another") == 1
    path = tmp_path / "k.registrations" / "1.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("[]")
    with pytest.raises(InputError, match=r"1.json must name the content_sha256"):
        number("aa")
