"""What an HTTP suspect sends, understands and puts up with."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import socketserver
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest

from taggants.errors import InputError
from taggants.suspects import Owner, open_suspect
from taggants.suspects.http import HttpSuspect
from taggants.suspects.one_by_one import BudgetSpent
from tests.suspects.http_interface import Answer, answer, interface, pixels_of, png_in_json

OWNER = Owner(10, (3, 4, 4))
IMAGES = np.arange(6 * 3 * 4 * 4, dtype=np.uint8).reshape(6, 3, 4, 4)


def brightness(png: bytes) -> int:
    """A label that tells the images apart."""
    return int(pixels_of(png)[0, 0, 0]) // 48


def suspect_of(url: str, **fields: Any) -> HttpSuspect:
    """A suspect that does not wait."""
    described = {"kind": "http", "url": url, "max_requests": 100, **fields}
    if "scores" not in fields:
        described.setdefault("labels", "labels")
    suspect = open_suspect(described, OWNER)
    assert isinstance(suspect, HttpSuspect)
    suspect._sleep = lambda seconds: None
    return suspect


def in_body(number: int, content: bytes) -> Answer:
    return answer({"labels": [brightness(content), 9]})


def in_json(number: int, content: bytes) -> Answer:
    return answer({"out": [{"names": {str(brightness(png_in_json(content, "image"))): 0.9, "9": 0.1}}]})


def in_form(number: int, content: bytes) -> Answer:
    assert b'name="threshold"' in content
    start = content.index(b"\x89PNG")
    label = brightness(content[start : content.index(b"IEND") + 8])
    return answer([{"label": label}, {"other": 1}, {"label": 9}])


@pytest.mark.parametrize(
    ("respond", "fields"),
    [
        (in_body, {}),
        (in_json, {"send": "json", "field": "image", "body": {"top": 2}, "labels": "out.0.names"}),
        (in_form, {"send": "multipart", "field": "file", "body": {"threshold": 0.1}, "labels": "*.label"}),
    ],
)
def test_images_are_sent_and_answers_read_in_each_way(respond: Any, fields: dict[str, Any]) -> None:
    with interface(respond) as arrived:
        answers = suspect_of(arrived.url, concurrency=3, **fields).answers(IMAGES)
    assert answers.tolist() == [[number, 9] for number in range(6)]
    assert len(arrived.bodies) == 6


def test_scores_by_place_and_by_name() -> None:
    scores = np.random.default_rng(0).random((6, 3))
    names = ("cat", "Dog", "Zürich")

    def by_place(number: int, content: bytes) -> Answer:
        return answer({"scores": scores[brightness(content)].tolist()})

    def by_name(number: int, content: bytes) -> Answer:
        return answer(
            {"scores": dict(zip(("ZU\u0308RICH", "cat", "dog"), scores[brightness(content)][[2, 0, 1]], strict=True))}
        )

    for respond in (by_place, by_name):
        with interface(respond) as arrived:
            suspect = suspect_of(arrived.url, scores="scores", class_names=names)
            assert suspect.answers(IMAGES).tolist() == scores.tolist()
            assert (suspect.num_classes, suspect.class_names) == (3, names)


def test_labels_by_name_and_refusals() -> None:
    said: list[Any] = [["dog", "CAT", "dog"], "cat", ["horse"], None, [], ["horse", "dog"]]

    def respond(number: int, content: bytes) -> Answer:
        index = brightness(content)
        return answer({"reason": "not allowed"}, 451) if index == 3 else answer({"labels": said[index]})

    with interface(respond) as arrived:
        suspect = suspect_of(arrived.url, class_names=["cat", "dog"], refused_statuses=[451])
        assert suspect.answers(IMAGES).tolist() == [[1, 0], [0, -1], [-1, -1], [-1, -1], [-1, -1], [1, -1]]


def test_what_may_pass_is_tried_again_and_counted() -> None:
    """A closed connection, each status that may pass, something that is no JSON, then the answer."""
    failures = [(0, {}, b""), *(answer({}, status) for status in (429, 500, 503)), (200, {}, b"<html>")]

    def respond(number: int, content: bytes) -> Answer:
        return failures[number] if number < len(failures) else in_body(number, content)

    with interface(respond) as arrived:
        suspect = suspect_of(arrived.url)
        assert suspect.answers(IMAGES)[:, 0].tolist() == list(range(6))
        assert suspect._num_sent == len(arrived.bodies) == 6 + len(failures)


def test_pauses_grow_and_follow_retry_after() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    failures = [answer({}, 503)] * 3 + [answer({}, 429, Retry_After="7"), answer({}, 429, Retry_After=later)]

    def respond(number: int, content: bytes) -> Answer:
        return failures[number] if number < len(failures) else in_body(number, content)

    pauses: list[float] = []
    with interface(respond) as arrived:
        suspect = suspect_of(arrived.url)
        suspect._sleep, suspect._clock = pauses.append, lambda: 1000.0
        suspect.answers(IMAGES[:1])
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1 <= pauses[2] <= 2
    assert pauses[3:] == [0.0, 7.0, 0.0, pytest.approx(100, abs=5)]


def test_the_pace_and_the_number_under_way_are_kept() -> None:
    under_way, most = [0], [0]
    lock = threading.Lock()
    slots: list[float] = []

    def respond(number: int, content: bytes) -> Answer:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        threading.Event().wait(0.05)
        with lock:
            under_way[0] -= 1
        return in_body(number, content)

    with interface(respond) as arrived:
        suspect = suspect_of(arrived.url, concurrency=2, requests_per_second=4)
        suspect._sleep, suspect._clock = slots.append, lambda: 50.0  # a clock that stands: every slot is waited for
        suspect.answers(IMAGES)
    assert most[0] == 2
    assert sorted(slots) == pytest.approx([0.25 * place for place in range(1, 6)])


def test_the_budget_is_never_exceeded_and_nothing_is_sent_after_an_error() -> None:
    with interface(lambda number, content: answer({}, 500)) as arrived:
        with pytest.raises(BudgetSpent, match="5 requests of max_requests are spent"):
            suspect_of(arrived.url, max_requests=5, concurrency=4, retries=100).answers(IMAGES)
        assert len(arrived.bodies) == 5
    with interface(lambda number, content: answer({}, 403)) as arrived:
        with pytest.raises(InputError, match="HTTP status 403, which trying again does not change"):
            suspect_of(arrived.url).answers(IMAGES)
        assert len(arrived.bodies) == 1
    with interface(lambda number, content: answer({}, 500)) as arrived:
        with pytest.raises(
            InputError, match="failed 3 times on one image, at last with: HTTP status 500; run the same"
        ):
            suspect_of(arrived.url, retries=2).answers(IMAGES)
        assert len(arrived.bodies) == 3


@pytest.mark.parametrize(
    ("response", "fields", "sentence"),
    [
        ({"labels": ["cat"]}, {}, "names of classes, such as 'cat'; give class_names"),
        ({"labels": [10]}, {}, "class 10 but must answer with 0 to 9"),
        ({"labels": [1.5]}, {}, "has a float at 'labels'"),
        ({"labels": [[1]]}, {}, "has a list at 'labels'"),
        ({"labels": {"1": "likely"}}, {}, "an object whose values are not all numbers"),
        ({"scores": [0.5] * 5}, {"scores": "scores"}, "5 scores but its classes are 10"),
        ({"scores": [10**400] * 10}, {"scores": "scores"}, "a number that is too large"),
        ({"scores": ["a"] * 10}, {"scores": "scores"}, "no list of numbers"),
        ({"scores": {"a": 1.0}}, {"scores": "scores", "class_names": ["a", "b"]}, "a number for each of class_names"),
        ({"else": 1}, {}, "the first 16 responses of .* have nothing at 'labels'"),
    ],
)
def test_a_response_that_is_not_as_described_is_named(response: Any, fields: dict[str, Any], sentence: str) -> None:
    images = np.concatenate([IMAGES] * 3)
    with interface(lambda number, content: answer(response)) as arrived, pytest.raises(InputError, match=sentence):
        suspect_of(arrived.url, **fields).answers(images)


def test_secrets_come_from_the_environment_and_stay_out_of_what_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "se$cret-4711"
    monkeypatch.setenv("API_TOKEN", secret)
    caplog.set_level(logging.DEBUG)
    fields = {"headers": {"Authorization": "Bearer ${API_TOKEN}", "X-Key": "$API_TOKEN"}, "retries": 1}
    with interface(lambda number, content: answer({"you sent": secret}, 400 if number else 500)) as arrived:
        suspect = suspect_of(f"{arrived.url}?key=$API_TOKEN", **fields)
        with pytest.raises(InputError) as raised:
            suspect.answers(IMAGES)
    assert [arrived.headers[0][name] for name in ("Authorization", "X-Key")] == [f"Bearer {secret}", secret]
    assert "?key=$API_TOKEN" in str(raised.value)
    said = (
        f"{raised.value!r} {raised.value.__cause__!r} {raised.value.__context__!r} {suspect.name} {capsys.readouterr()}"
    )
    records = " ".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("taggants", "httpx"))
    )
    assert secret not in said + records
    monkeypatch.delenv("API_TOKEN")
    with pytest.raises(
        InputError, match="url of the HTTP suspect needs the environment variable API_TOKEN, which is not set"
    ):
        suspect_of(f"{arrived.url}?key=$API_TOKEN", **fields)


def test_pace_and_budget_are_not_part_of_the_identity_but_what_is_asked_is() -> None:
    url = "https://example.org/classify"
    same = [
        suspect_of(url),
        suspect_of(url, max_requests=7, retries=1, timeout_s=1, concurrency=9, requests_per_second=2),
    ]
    others = [suspect_of(url, labels="other"), suspect_of(f"{url}2"), suspect_of(url, name="later")]
    assert same[0].identity == same[1].identity
    assert len({suspect.identity for suspect in (same[0], *others)}) == 4
    assert same[0].name == f"example.org-{same[0].identity[:8]}"
    assert same[0].sha256 is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"url": "ftp://example.org"}, "must begin with http:// or https://"),
        ({"url": "https://user:hidden@example.org/"}, "without user@"),
        ({"labels": None}, "exactly one of labels and scores"),
        ({"scores": "scores", "labels": "labels"}, "exactly one of labels and scores"),
        ({"send": "json"}, "field must be set with send: json"),
        ({"field": "x"}, "field must be null with send: body"),
        ({"body": {"a": 1}}, "body must be empty"),
        ({"top_m": 3}, "top_m must be null"),
        ({"max_requests": 0}, "max_requests"),
        ({"concurrency": 65}, "concurrency"),
        ({"urll": "x"}, "did you mean 'url'"),
        ({"send": "json", "field": "a.b", "body": {"a": "text"}}, "does not fit its body"),
    ],
)
def test_a_description_that_does_not_fit_is_named(fields: dict[str, Any], sentence: str) -> None:
    described = {"kind": "http", "url": "https://example.org", "labels": "labels", "max_requests": 9, **fields}
    with pytest.raises(InputError, match=sentence) as raised:
        open_suspect(described, OWNER).answers(IMAGES[:1])
    assert "hidden" not in str(raised.value)


def test_a_deep_place_in_the_body_is_made() -> None:
    with interface(lambda number, content: answer({"labels": 1})) as arrived:
        suspect_of(arrived.url, send="json", field="inputs.0.image.b64", body={"inputs": [{"id": 3}]}).answers(
            IMAGES[:1]
        )
    (sent,) = json.loads(arrived.bodies[0])["inputs"]
    assert sent["id"] == 3
    assert set(sent["image"]) == {"b64"}


@contextmanager
def raw_interface(respond: Callable[[socket.socket], None]) -> Iterator[str]:
    """Yields the address of an interface that sends what it likes."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(2**16)
            with suppress(OSError):
                respond(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"])
def test_bytes_that_drip_in_do_not_keep_it_waiting(head: bytes) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(200):
            connection.sendall(b" ")
            time.sleep(0.05)

    started_s = time.monotonic()
    with raw_interface(drip) as url, pytest.raises(InputError, match="failed 2 times"):
        suspect_of(url, timeout_s=0.3, retries=1).answers(IMAGES[:1])
    assert time.monotonic() - started_s < 4


def test_a_compressed_response_is_not_unpacked() -> None:
    packed = gzip.compress(gzip.compress(b" " * 2**20))
    with (
        interface(lambda number, content: (200, {"Content_Encoding": "gzip, gzip"}, packed)) as arrived,
        pytest.raises(InputError, match="compressed response"),
    ):
        suspect_of(arrived.url).answers(IMAGES[:1])
    assert arrived.headers[0]["Accept-Encoding"] == "identity"


def test_no_redirection_takes_the_authorisation_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "a-secret")
    headers = {"Authorization": "Bearer $API_TOKEN"}
    targets = ["file:///etc/passwd"]
    with (
        interface(in_body) as other,
        interface(lambda number, content: (307, {"Location": targets[0]}, b"")) as arrived,
    ):
        for target in (other.url, *targets):
            targets[0] = target
            with pytest.raises(InputError, match="HTTP status 307"):
                suspect_of(arrived.url, headers=headers).answers(IMAGES[:1])
        assert other.headers == []


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        ("s3cret\n", {"headers": {"Authorization": "Bearer $API_TOKEN"}}),
        ("s3cr\u00e9t", {"headers": {"Authorization": "Bearer $API_TOKEN"}}),
        ("s3cret", {"url": "http://127.0.0.1:$API_TOKEN/"}),
    ],
)
def test_a_secret_that_cannot_be_sent_is_not_quoted(
    value: str, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", value)
    with pytest.raises(InputError) as caught:
        suspect_of(**{"url": "http://127.0.0.1/", **fields})
    assert "s3cr" not in "".join(traceback.format_exception(caught.value))
