"""An HTTP interface of a model on loopback, as unreliable as a test wants it."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body of a response."""


def answer(value: Any, status: int = 200, **headers: str) -> Answer:
    return status, headers, json.dumps(value).encode()


def pixels_of(png: bytes) -> np.ndarray:
    """uint8 [channels, H, W]."""
    picture = np.asarray(Image.open(io.BytesIO(png)))
    return picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)


@dataclass
class Interface:
    """What arrived, and what is answered: `respond` gets the number of the request from 0 and its content."""

    respond: Callable[[int, bytes], Answer]
    url: str = ""
    times_s: list[float] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def interface(respond: Callable[[int, bytes], Answer]) -> Iterator[Interface]:
    """Yields an interface that listens."""
    arrived = Interface(respond)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            with arrived.lock:
                number = len(arrived.times_s)
                arrived.times_s.append(time.monotonic())
                arrived.headers.append(dict(self.headers))
                arrived.bodies.append(content)
            status, headers, body = arrived.respond(number, content)
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    arrived.url = f"http://127.0.0.1:{server.server_port}/v1/classify"
    try:
        yield arrived
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def png_in_json(content: bytes, name: str) -> bytes:
    return base64.b64decode(json.loads(content)[name])
