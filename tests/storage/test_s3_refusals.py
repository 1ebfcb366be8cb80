"""Servers that are not quite S3, played by a few lines on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from taggants.errors import InputError
from taggants.storage import Root, s3


class FakeServer(ThreadingHTTPServer):
    """Answers every request with one status and code; with 200 it forgets what it is given."""

    status = 200
    code = ""
    takes_conditions = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.num_requests = 0
        self.present: set[str] = set()


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server = self.server
        server.num_requests += 1
        status = server.status
        if status == 200 and self.command == "PUT":
            if server.takes_conditions and self.headers.get("If-None-Match") and self.path in server.present:
                status = 412
            server.present.add(self.path)
        if self.command == "DELETE":
            server.present.discard(self.path)
        body = b"" if status in (200, 304) else f"<Error><Code>{server.code}</Code></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    server = FakeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}",
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_ignores_conditions_is_refused(server: FakeServer) -> None:
    with pytest.raises(InputError, match="s3://bucket ignores If-None-Match: it took a file twice"):
        Root("s3://bucket/runs").check_exclusive()
    assert not server.present


def test_a_server_that_takes_conditions_is_not(server: FakeServer) -> None:
    server.takes_conditions = True
    Root("s3://bucket/runs").check_exclusive()
    assert not server.present


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (304, "304"),  # which has no body that could name it
        (405, "MethodNotAllowed"),
        (411, "MissingContentLength"),
        (501, "NotImplemented"),
        (507, "InsufficientStorage"),
        (451, "UnavailableForLegalReasons"),
    ],
)
def test_final_statuses_are_one_sentence_at_once(
    server: FakeServer, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3.time, "sleep", lambda _: pytest.fail("it is tried again"))
    server.status, server.code = status, code
    root = Root("s3://bucket/runs")
    for call in (lambda: root.write_bytes("a", b"x"), lambda: root.create_bytes("a", b"x")):
        with pytest.raises(InputError, match=rf"S3 refused PutObject with {code} \(HTTP status {status}\)"):
            call()


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "InternalError"), (503, "SlowDown"), (408, ""), (409, "Conflict"), (400, "RequestTimeout")],
)
def test_passing_ones_are_no_fault_of_a_person(
    server: FakeServer, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_PATIENCE_S", 0.0)
    server.status, server.code = status, code
    with pytest.raises(ConnectionError, match=f"PutObject with HTTP status {status}"):
        Root("s3://bucket/runs").write_bytes("a", b"x")
