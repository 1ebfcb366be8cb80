from __future__ import annotations

from typing import Any

import pytest

from taggants.run import Run
from tests.claims.claims import claim, signed_run


@pytest.fixture(scope="session")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return signed_run(tmp_path_factory.mktemp("signed"))


@pytest.fixture(scope="session")
def files(signed: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return claim(signed, tmp_path_factory.mktemp("claim"))
