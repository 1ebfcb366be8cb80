"""A Ray head of its own, which jobs are submitted to as a user submits them."""

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.jobs.running import JOBS

ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "RAY_AUTH_MODE": "disabled",
}


@dataclass(frozen=True)
class RayHead:
    """address, metrics: of the dashboard, and of what Prometheus reads. folder: all that this Ray writes."""

    address: str
    metrics: str
    folder: Path

    def submit(
        self, settings: Sequence[str], *, job: str = "craft", config: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Submits a job of `jobs/` from the repository, and waits for its end."""
        words = ["--config", config] if config else []
        words += [word for setting in settings for word in ("--set", setting)]
        return subprocess.run(
            [
                *("ray", "job", "submit", "--address", self.address, "--working-dir", "."),
                *("--", "python", f"jobs/{job}.py", *words),
            ],
            cwd=JOBS.parent,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=480,
            check=False,
        )

    def written(self) -> dict[str, bytes]:
        """Returns: what Ray has to say of its jobs: their metadata, and the metrics."""
        pages = {"jobs": f"{self.address}/api/jobs/", "metrics": self.metrics}
        contents = {}
        for name, url in pages.items():
            with urllib.request.urlopen(url, timeout=30) as answer:
                contents[name] = answer.read()
        return contents


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


@contextmanager
def ray_head(environment: Mapping[str, str]) -> Iterator[RayHead]:
    """Starts a head with these variables besides those of this process, and ends it.

    Of its files those under `RayHead.folder` go as well.
    """
    port, dashboard, agent, agent_grpc, metrics = free_ports(5)
    folder = tempfile.mkdtemp(prefix="rj", dir="/tmp")  # short: unix sockets allow 107 characters
    command = [
        *("ray", "start", "--head", "--block", "--num-cpus=4", "--disable-usage-stats", f"--temp-dir={folder}"),
        *(f"--port={port}", "--node-ip-address=127.0.0.1"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"),
        *(f"--metrics-export-port={metrics}", f"--object-store-memory={100 * 2**20}"),
    ]
    with (Path(folder) / "head.log").open("wb") as log:
        head = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**ENVIRONMENT, **environment}, start_new_session=True
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        until = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/version", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                assert head.poll() is None, (Path(folder) / "head.log").read_text()
                assert time.monotonic() < until, (Path(folder) / "head.log").read_text()
                time.sleep(0.5)
        yield RayHead(address, f"http://127.0.0.1:{metrics}/metrics", Path(folder))
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        shutil.rmtree(folder, ignore_errors=True)
