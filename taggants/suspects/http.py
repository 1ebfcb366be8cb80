"""A suspect behind an HTTP interface: one request for each image, tried again where that may help, within a budget."""

from __future__ import annotations

import base64
import copy
import email.utils
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from taggants.data.image_codec import encode_png
from taggants.errors import InputError
from taggants.identity import identity, strict_json
from taggants.suspects.description import Owner, SuspectDescription
from taggants.suspects.http_address import http_address
from taggants.suspects.json_paths import put_value, value_at
from taggants.suspects.label_maps import folded_name
from taggants.suspects.naming import name_from
from taggants.suspects.one_by_one import BudgetSpent, Row, table_of_rows

_MOST_RESPONSE_BYTES: Final = 16 * 2**20
_LONGEST_PAUSE_S: Final = 60.0
_LONGEST_RETRY_AFTER_S: Final = 3600.0
_MAY_PASS: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_NUM_MISSING: Final = 16  # answers without a label, none with one before them: the path is wrong


class HttpDescription(SuspectDescription):
    """An HTTP interface that takes one image and answers with JSON. $NAME in url and headers is read from the environment."""

    url: str = Field(description="http:// or https:// address that images are sent to")
    method: Literal["POST", "PUT"] = Field("POST", description="HTTP method")
    send: Literal["body", "multipart", "json"] = Field(
        "body", description="the PNG as the request's body, as a file of a form, or in base64 within JSON"
    )
    field: str | None = Field(
        None, description="name of the form's file, or where the base64 goes in the JSON, such as inputs.0.image"
    )
    body: dict[str, Any] = Field({}, description="the rest of the form or of the JSON")
    headers: dict[str, str] = Field({}, description="such as {Authorization: Bearer $API_TOKEN}")
    labels: str | None = Field(
        None,
        description="where the response names its best classes, best first: one, a list, or scores by name, such as "
        "predictions.*.label",
    )
    scores: str | None = Field(
        None,
        description="where the response has the scores of all classes: a list in their order, or an object by name",
    )
    num_classes: int | None = Field(
        None, ge=2, description="number of its classes; null: those of class_names, else of the signed dataset"
    )
    refused_statuses: tuple[int, ...] = Field(
        (), description="HTTP statuses that mean: it refuses to answer this image"
    )
    max_requests: int = Field(
        ge=1, description="the most requests in all, those that failed and earlier tries included"
    )
    requests_per_second: float | None = Field(None, gt=0, le=10_000, description="null: as fast as it answers")
    concurrency: int = Field(1, ge=1, le=64, description="requests under way at once")
    timeout_s: float = Field(60, gt=0, le=3600, description="a request that takes longer has failed")
    retries: int = Field(8, ge=0, le=100, description="further tries of a request that failed, with growing pauses")

    @model_validator(mode="after")
    def _fits(self) -> HttpDescription:
        if (self.labels is None) == (self.scores is None):
            raise ValueError("set exactly one of labels and scores")
        if (self.send == "body") != (self.field is None):
            raise ValueError(f"field must {'be null' if self.send == 'body' else 'be set'} with send: {self.send}")
        if self.send == "body" and self.body:
            raise ValueError("body must be empty with send: body, whose body is the image")
        if self.top_m is not None:
            raise ValueError("top_m must be null: the interface decides how many labels it names")
        return self

    def open(self, owner: Owner) -> HttpSuspect:
        if self.num_classes is None and self.class_names is None:
            return HttpSuspect(self, owner.num_classes, owner.class_names)
        return HttpSuspect(self, self.num_classes or len(self.class_names or ()), self.class_names)


class HttpSuspect:
    """What `HttpDescription` describes.

    Attributes:
        identity: SHA-256 of all of the description that decides what is asked and understood; pace and budget do not.
        max_requests: the budget, for whoever counts requests over several processes.

    Raises:
        InputError: httpx is missing, the url is none, or an environment variable is not set.
    """

    def __init__(
        self,
        description: HttpDescription,
        num_classes: int,
        class_names: tuple[str, ...] | None,
        *,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise InputError("HTTP suspects need httpx; install it: pip install 'taggants[http]'") from None
        given = description
        self._url, host, self._headers = http_address(httpx, given.url, given.headers)
        logging.getLogger("httpx").setLevel(logging.WARNING)  # which logs addresses, and they may hold a key
        self._httpx = httpx
        self._description = description
        self._sleep, self._clock = sleep, clock
        self.identity = identity(
            given.model_dump(
                mode="json",
                exclude={"max_requests", "requests_per_second", "concurrency", "timeout_s", "retries"},
            )
            | {"kind": "http", "num_classes": num_classes, "class_names": list(class_names or ())}
        )
        self.name = name_from(host, self.identity)
        self.sha256: str | None = None
        self.num_classes = num_classes
        self.class_names = class_names
        self.max_requests = given.max_requests
        self._numbers = {folded_name(name): number for number, name in enumerate(class_names or ())}
        self._lock = threading.Lock()
        self._next_slot_s = 0.0
        self._num_with_label = self._num_without = self._num_sent = 0

    def answers(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Returns labels [N, m], shorter lists and refusals filled up with -1, or scores [N, num_classes], a refusal being NaN.

        Raises:
            InputError: as `one_by_one`.
        """
        rows: dict[int, Row] = dict(self.one_by_one(images, self._count))
        return table_of_rows([rows[index] for index in range(len(images))])

    def _count(self) -> None:
        if self._num_sent >= self.max_requests:
            raise BudgetSpent(f"the {self.max_requests} requests of max_requests are spent")
        self._num_sent += 1

    def one_by_one(
        self, images: NDArray[np.uint8], before_request: Callable[[], None]
    ) -> Generator[tuple[int, Row], None, None]:
        """Yields the number of an image and what was answered, as soon as it is: labels, best first; scores; None: refused.

        Args:
            images: uint8 [N, channels, H, W].
            before_request: called before every request is sent, one call at a time; if it raises, nothing more is sent.

        Raises:
            InputError: a status that trying again does not change, too many failures of one request, or a response that is not
                as described.
        """
        given = self._description
        stopped = threading.Event()
        clients: list[Any] = []  # that no thread uses at the moment
        with ExitStack() as opened, ThreadPoolExecutor(given.concurrency) as pool:
            opened.callback(lambda: [client.close() for client in clients])
            waiting = {
                pool.submit(self._ask, clients, image, before_request, stopped): n for n, image in enumerate(images)
            }
            failure: BaseException | None = None
            try:
                for done in as_completed(waiting):
                    try:
                        row = done.result()
                    except _Stopped:
                        continue
                    except BaseException as error:  # what is under way is still answered, and paid for
                        failure = failure or error
                        continue
                    yield waiting[done], row
            finally:
                stopped.set()
            if failure is not None:
                raise failure

    def _ask(
        self, clients: list[Any], image: NDArray[np.uint8], before_request: Callable[[], None], stopped: threading.Event
    ) -> Row:
        try:
            return self._answer(clients, image, before_request, stopped)
        except BaseException:
            stopped.set()  # before this thread takes the next image
            raise

    def _answer(
        self, clients: list[Any], image: NDArray[np.uint8], before_request: Callable[[], None], stopped: threading.Event
    ) -> Row:
        given = self._description
        request = self._request(encode_png(image))
        reason = ""
        for attempt in range(given.retries + 1):
            self._wait_for_slot(stopped)
            with self._lock:
                if stopped.is_set():
                    raise _Stopped
                before_request()
            pause_s = min(_LONGEST_PAUSE_S, 0.5 * 2**attempt) * (0.5 + random.random() / 2)
            try:
                status, headers, content = self._sent(clients, request)
            except self._httpx.RequestError as error:
                reason = type(error).__name__  # its text may hold the address
            else:
                if status in given.refused_statuses:
                    return None
                if 200 <= status < 300:
                    try:
                        tree = strict_json(content, "The response", _MOST_RESPONSE_BYTES)
                    except InputError as error:
                        reason = str(error)
                    else:
                        return self._read(tree)
                elif status in _MAY_PASS:
                    reason = f"HTTP status {status}"
                    after_s = _retry_after(headers.get("retry-after"))
                    if after_s is not None:  # speaks to all that is under way
                        pause_s = 0.0
                        with self._lock:
                            self._next_slot_s = max(self._next_slot_s, self._clock() + after_s)
                else:
                    raise InputError(
                        f"{given.url} answered with HTTP status {status}, which trying again does not change; correct the "
                        "description of the suspect, or name the status in refused_statuses if it is a refusal"
                    )
            if attempt < given.retries:
                self._pause(pause_s, stopped)
        raise InputError(
            f"{given.url} failed {given.retries + 1} times on one image, at last with: {reason}; run the same command again to "
            "go on, what was answered is kept"
        )

    def _request(self, png: bytes) -> dict[str, Any]:
        given = self._description
        if given.send == "body":
            return {"content": png, "headers": {"Content-Type": "image/png"}}
        assert given.field is not None, "checked by the schema"
        if given.send == "multipart":
            form = {name: str(value) for name, value in given.body.items()}
            return {"files": {given.field: ("image.png", png, "image/png")}, "data": form}
        tree = copy.deepcopy(given.body)
        put_value(tree, given.field, base64.b64encode(png).decode())
        return {"json": tree}

    def _sent(self, clients: list[Any], request: dict[str, Any]) -> tuple[int, Any, bytes]:
        """Status, headers and content; a response that comes too slowly or is too long counts as a failed request."""
        given = self._description
        try:
            client = clients.pop()
        except IndexError:
            client = self._httpx.Client(timeout=given.timeout_s, headers=self._headers)
        # httpx limits each wait for the next bytes: a header that comes byte by byte would take days.
        watch = threading.Timer(given.timeout_s, client.close)
        watch.daemon = True
        watch.start()
        content = bytearray()
        try:
            with client.stream(given.method, self._url, **request) as response:
                if response.headers.get("content-encoding", "identity").lower() != "identity":
                    raise InputError(
                        f"{given.url} answers with a compressed response, which was not asked for and may be of any size; "
                        "have its compression switched off"
                    )
                for piece in response.iter_raw():
                    content += piece
                    if len(content) > _MOST_RESPONSE_BYTES:
                        raise self._httpx.ReadTimeout("too long")
        except RuntimeError:
            if not client.is_closed:
                raise
        finally:
            watch.cancel()
            watch.join()  # from here on it does not close the client
            if not client.is_closed:
                clients.append(client)
        if client.is_closed:
            raise self._httpx.ReadTimeout("too slow")
        return response.status_code, response.headers, bytes(content)

    def _pause(self, seconds: float, stopped: threading.Event) -> None:
        (self._sleep or stopped.wait)(seconds)  # ends early when asking ends

    def _wait_for_slot(self, stopped: threading.Event) -> None:
        pace = self._description.requests_per_second
        with self._lock:
            now_s = self._clock()
            slot_s = max(now_s, self._next_slot_s)
            if pace is not None:
                self._next_slot_s = slot_s + 1 / pace
        if slot_s > now_s:
            self._pause(slot_s - now_s, stopped)

    def _read(self, tree: Any) -> Row:
        given = self._description
        path = given.labels or given.scores
        assert path is not None, "checked by the schema"
        found = value_at(tree, path)
        if found is None or found == [] or found == {}:
            with self._lock:
                self._num_without += 1
                if not self._num_with_label and self._num_without >= _NUM_MISSING:
                    raise InputError(
                        f"the first {self._num_without} responses of {given.url} have nothing at {path!r}; correct that path"
                    )
            return None
        with self._lock:
            self._num_with_label += 1
        return self._scores(found) if given.scores is not None else self._labels(found)

    def _labels(self, found: Any) -> list[int]:
        if isinstance(found, dict):
            if not all(_is_number(value) for value in found.values()):
                raise self._not_as_described("an object whose values are not all numbers")
            found = sorted(found, key=lambda name: -found[name])
        numbers = [self._number(label) for label in (found if isinstance(found, list) else [found])]
        return list(dict.fromkeys(number for number in numbers if number is not None))

    def _number(self, label: Any) -> int | None:
        """The class of a label; None for a name beside class_names."""
        if isinstance(label, str) and self._numbers:
            return self._numbers.get(folded_name(label))
        if isinstance(label, str) and re.fullmatch("[0-9]{1,9}", label):
            label = int(label)
        if isinstance(label, str):
            raise InputError(
                f"{self._description.url} answers with names of classes, such as {label[:50]!r}; give class_names in the "
                "description"
            )
        if type(label) is not int:
            raise self._not_as_described(f"a {type(label).__name__}")
        if not 0 <= label < self.num_classes:
            raise InputError(
                f"{self._description.url} answers with class {label} but must answer with 0 to {self.num_classes - 1}; give "
                "num_classes or class_names in the description"
            )
        return label

    def _scores(self, found: Any) -> list[float]:
        if isinstance(found, dict):
            by_number = {self._numbers.get(folded_name(name)): value for name, value in found.items()}
            found = [by_number.get(number) for number in range(self.num_classes)]
        if not isinstance(found, list) or not all(_is_number(value) for value in found):
            raise self._not_as_described("no list of numbers, nor an object with a number for each of class_names")
        if len(found) != self.num_classes:
            raise InputError(
                f"{self._description.url} answers with {len(found)} scores but its classes are {self.num_classes}; give "
                "num_classes or class_names, or use labels"
            )
        try:
            return [float(value) for value in found]
        except OverflowError:  # an integer beyond all floats
            raise self._not_as_described("a number that is too large") from None

    def _not_as_described(self, what: str) -> InputError:
        given = self._description
        return InputError(
            f"the response of {given.url} has {what} at {given.labels or given.scores!r}; correct that path"
        )


class _Stopped(Exception):
    """Another request failed for good, or nobody wants the answers any more."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _retry_after(text: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None without a header that can be read."""
    if text is None:
        return None
    seconds = None
    if re.fullmatch("[0-9]{1,9}", text.strip()):
        seconds = float(text)
    else:
        with suppress(ValueError, TypeError, OverflowError):
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    return None if seconds is None else min(_LONGEST_RETRY_AFTER_S, max(0.0, seconds))
