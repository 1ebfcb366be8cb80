from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from taggants.keys import KeySet, load_key_set
from taggants.storage import Root
from tests.jobs.cluster import RayHead, ray_head
from tests.jobs.secret_search import find_secrets
from tests.s3_server import S3Process, S3Server


@dataclass(frozen=True)
class Cluster:
    """A Ray head whose jobs store on an S3 server; nobody else knows the credentials."""

    head: RayHead
    server: S3Server

    def find_secrets(self, place: Path | Root | dict[str, bytes], keys_root: Path, name: str) -> list[str]:
        """Looks for a key file's secret and keys, and for the server's secret key; see `find_secrets`."""
        root = Root(str(keys_root))
        key_set: KeySet = load_key_set(root, f"{name}.json")
        secret = bytes.fromhex(root.read_json(f"{name}.json")["secret"])
        return find_secrets(place, key_set, secret, [self.server.secret_key])


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    storage = S3Process(tmp_path_factory.mktemp("s3"), secret_key=secrets.token_urlsafe(30))
    try:
        storage.start()
        with ray_head(storage.server.environment) as head:
            yield Cluster(head, storage.server)
    finally:
        storage.kill()


@pytest.fixture
def cluster_storage(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """The prefix of the cluster's bucket, which this process can read and write during the test."""
    for name, value in cluster.server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{cluster.server.bucket}"
