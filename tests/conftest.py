from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from taggants.storage import Root

# Before anything imports ray.
os.environ |= {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HF_HUB_OFFLINE": "1",
}

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests share the cores: threads that wait for each other would crawl

# A test has a time limit as a whole; that a single example waits for a busy core says nothing.
hypothesis.settings.register_profile("no deadline of an example", deadline=None)
hypothesis.settings.load_profile("no deadline of an example")

pytest_plugins = ["tests.s3_server"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups tests for pytest-xdist: those of a module share its fixtures, and the short ones of Ray and S3 one server."""
    for item in items:
        markers = {marker.name for marker in item.iter_markers()}
        needs_server = bool(markers & {"ray", "s3"}) and "slow" not in markers
        item.add_marker(pytest.mark.xdist_group("servers" if needs_server else item.path.as_posix()))


@pytest.fixture(scope="module", autouse=True)
def drawn_secrets(request: pytest.FixtureRequest) -> Iterator[None]:
    """Makes the secrets that a module's tests draw in this process a function of the module and of how many it drew before.

    What a question finds depends a little on the keys: with secrets of the operating system, its tests fail once in a while.
    """
    from taggants.keys import key_file

    name, drawn = request.node.name, itertools.count()

    def token_bytes(count: int) -> bytes:
        return hashlib.shake_256(f"{name}/{next(drawn)}".encode()).digest(count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_file, "secrets", SimpleNamespace(token_bytes=token_bytes))
        yield


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    import ray

    ray.init(
        address="local",
        num_cpus=4,  # logical: Ray Train and its helpers would wait for each other on two
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 2**20,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images that TAGGANTS_DATA names."""
    folder = os.environ.get("TAGGANTS_DATA")
    if not folder:
        pytest.skip("TAGGANTS_DATA does not name a folder of real images")
    return Path(folder)


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of small files that once failed, which TAGGANTS_CASES names."""
    folder = os.environ.get("TAGGANTS_CASES")
    if not folder:
        pytest.skip("TAGGANTS_CASES does not name a folder of files that once failed")
    return Path(folder)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    """An empty root, once in a local folder and once on S3."""
    from taggants.storage import Root

    if request.param == "local":
        return Root(str(tmp_path / "root"))
    server = request.getfixturevalue("s3_environment")
    return Root(f"s3://{server.bucket}/{tmp_path.parent.name}-{tmp_path.name}")
