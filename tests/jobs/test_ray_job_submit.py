"""The same job on a running cluster, submitted as a user submits it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.running import JOBS, settings_in

ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "RAY_AUTH_MODE": "disabled",
}


def free_ports(count: int) -> list[int]:
    """Outside 10002-19999, which Ray gives to its workers."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if not 10002 <= port <= 19999 and port not in ports:
            ports.append(port)
    return ports


@pytest.fixture(scope="module")
def cluster_address() -> Iterator[str]:
    port, dashboard, agent, agent_grpc, metrics = free_ports(5)
    folder = tempfile.mkdtemp(prefix="rj", dir="/tmp")  # short: unix sockets allow 107 characters
    command = [
        *("ray", "start", "--head", "--block", "--num-cpus=4", "--disable-usage-stats", f"--temp-dir={folder}"),
        *(
            f"--port={port}",
            "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}",
        ),
        *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"),
        *(f"--metrics-export-port={metrics}", f"--object-store-memory={100 * 2**20}"),
    ]
    with (Path(folder) / "head.log").open("wb") as log:
        head = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=ENVIRONMENT, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    until = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=2).close()
            break
        except (urllib.error.URLError, OSError):
            assert head.poll() is None, (Path(folder) / "head.log").read_text()
            assert time.monotonic() < until, (Path(folder) / "head.log").read_text()
            time.sleep(0.5)
    yield address
    os.killpg(head.pid, signal.SIGTERM)
    try:
        head.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
    shutil.rmtree(folder, ignore_errors=True)


def submit(address: str, settings: list[str]) -> subprocess.CompletedProcess[str]:
    words = [word for setting in settings for word in ("--set", setting)]
    return subprocess.run(
        ["ray", "job", "submit", "--address", address, "--working-dir", ".", "--", "python", "jobs/craft.py", *words],
        cwd=JOBS.parent,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.ray
@pytest.mark.slow
def test_submitted_job_succeeds_and_a_failing_one_returns_non_zero(cluster_address, tmp_path):
    done = submit(cluster_address, settings_in(tmp_path, "execution.pool=ray", "evaluation.num_victims=1"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 shards crafted" in done.stdout
    assert list(tmp_path.glob("runs/*/signed/manifest.json"))
    assert len(list(tmp_path.glob("runs/*/certificates/*.json"))) == 1
    failed = submit(cluster_address, settings_in(tmp_path, "signing.images_per_key=400", "keys.name=other"))
    assert failed.returncode != 0
    assert "images but a key needs 400" in failed.stdout + failed.stderr
