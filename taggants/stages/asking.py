"""How a suspect is asked: plain covers first, then key by key, and every answer kept as it comes.

The answers of a suspect with an `identity` are appended to asked/<hash of registration and identity>.jsonl in the run folder, so
that nothing is asked twice: not after a crash, and not when the same test is repeated. Requests of `OneByOne` suspects are
counted there before they are sent, so that no number of crashes exceeds their budget.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from taggants.detection import Registration
from taggants.detection.outcome import MAX_CLASS_NUMBER, EValue, LabelMap, PlainCovers
from taggants.detection.statistics import ANYTIME
from taggants.errors import InputError
from taggants.identity import identity
from taggants.reporting.progress import say, stage
from taggants.run import Run
from taggants.stages.query_export import query_batches, query_names
from taggants.suspects import Answers, Suspect, question_evidence
from taggants.suspects.answers import is_kept
from taggants.suspects.answers_table import AnswersTable
from taggants.suspects.label_maps import fitted_label_map, held_out_half, label_map_by_names, label_map_from_file
from taggants.suspects.one_by_one import BudgetSpent, OneByOne, Row, rows_of_table, table_of_rows
from taggants.suspects.recorded_answers import encode_answers

_FORMAT: Final = "taggants-asked/1"


@dataclass(frozen=True)
class Asked:
    """What a suspect answered.

    Attributes:
        answers: to the plain covers, then to the queries of each key that was asked, in the suspect's classes.
        sha256: of their file in answers/.
        covers: how the plain covers were answered; None without covers whose class it knows.
        label_map: which of its classes are the owner's; None: all, in the same order.
        num_keys: how many of the registered keys were asked, in their order.
    """

    answers: Answers
    sha256: str
    covers: PlainCovers | None
    label_map: LabelMap | None
    num_keys: int


def ask(
    run: Run,
    registration: Registration,
    suspect: Suspect,
    *,
    references: list[Answers] | None = None,
    label_map: str | None = None,
) -> Asked:
    """Asks a suspect the registered question and records what it says.

    If the registered statistic holds at any stopping time, asking stops after the first key at which it is detected, or when the
    budget of its requests is spent.

    Args:
        references: what it is compared with after each key; None: it is a reference itself, and asked everything.
        label_map: "names", "fitted" or the URI of a file (`taggants.suspects.label_maps`); None: its classes are the owner's.

    Raises:
        InputError: it answers in no known form or in several, no label map can be found, or its budget is spent before a test
            that needs all answers has them.
    """
    question = registration.question
    assert question is not None, "registered"
    num_covers = len(question.cover_ids)
    num_images = num_covers + registration.num_keys * question.num_queries
    may_stop = references is not None and registration.statistic in ANYTIME
    table = suspect.rows_of(query_names(run, registration)) if isinstance(suspect, AnswersTable) else None
    rows: list[Row] = []
    covers, found, num_keys = None, None, 0
    with _log_of(run, registration, suspect) as log, stage(f"ask {suspect.name}", num_images, "images") as advance:
        batches = query_batches(run, registration)
        if num_covers:
            rows += log.ask(suspect, 0, next(batches), advance) if table is None else table[:num_covers]
        labels = run.sources[1].index().labels[list(question.cover_ids)]
        covers, found = _understood(rows, labels, registration, suspect, label_map)
        for batch in batches:
            first = len(rows)
            try:
                rows += log.ask(suspect, first, batch, advance) if table is None else table[first : first + len(batch)]
            except BudgetSpent as error:
                if not may_stop or not num_keys:
                    raise
                say(f"ask {suspect.name}: the test is of the first {num_keys} keys: {error}")
                break
            num_keys += 1
            # At steps that grow, since each costs as much as the last test: any rule when to stop is fine.
            if may_stop and references is not None and num_keys % (1 + num_keys // 64) == 0:
                own = run.keys.labels[:num_keys]
                if is_kept(own, found).any():
                    evidence = question_evidence(question, _answers(rows, suspect), references, own, found)
                    if EValue.of(evidence, 0).log_maximum >= -math.log(registration.level):
                        break
    answers = _answers(rows, suspect)
    if len({repr(row) for row in rows}) == 1:
        say(f"ask {suspect.name}: all {len(rows)} answers are alike; check how it is fed and read")
    data = encode_answers(answers)
    sha256 = hashlib.sha256(data).hexdigest()
    run.root.create_bytes(answers_path(sha256), data, private=True)
    return Asked(answers, sha256, covers, found, num_keys)


def ask_keys(run: Run, registration: Registration, suspect: Suspect) -> Answers:
    """Returns the answers to the key images alone, where no question is registered.

    Raises:
        InputError: as `ask`.
    """
    if isinstance(suspect, AnswersTable):
        return _answers(suspect.rows_of(query_names(run, registration)), suspect)
    with _log_of(run, registration, suspect) as log:
        return _answers(log.ask(suspect, 0, run.keys.images, lambda done, note: None), suspect)


def answers_path(sha256: str) -> str:
    """Returns where in the run folder answers of that hash lie."""
    return f"answers/{sha256}.parquet"


def _answers(rows: list[Row], suspect: Suspect) -> Answers:
    return Answers.of(table_of_rows(rows), len(rows), suspect.num_classes)


def _understood(
    rows: list[Row], labels: NDArray[np.int64], registration: Registration, suspect: Suspect, label_map: str | None
) -> tuple[PlainCovers | None, LabelMap | None]:
    """How the plain covers were answered, and what the suspect's classes stand for: known before any key is asked."""
    num_classes = registration.num_classes
    best = _answers(rows, suspect).best if rows else np.zeros(0, dtype=np.int64)
    counted = np.ones(len(labels), dtype=np.bool_)
    checked = found = None
    if label_map == "names":
        checked = found = label_map_by_names(registration.class_names, suspect.class_names)
    elif label_map == "fitted":
        counted = held_out_half(labels)  # those that it is fitted on would agree anyway
        checked = fitted_label_map(best[~counted], labels[~counted], num_classes)
        found = fitted_label_map(best, labels, num_classes)
    elif label_map is not None:
        checked = found = label_map_from_file(
            label_map, registration.class_names, num_classes, suspect.class_names, suspect.num_classes
        )
    if checked is not None:
        wanted = np.array([-2 if theirs is None else theirs for theirs in checked.classes])[labels]
        counted &= wanted >= 0
    else:
        wanted = labels
    if found is not None:
        say(f"ask {suspect.name}: it knows {len(found.known)} of the {num_classes} classes (label map {found.kind})")
    num, num_right = int(counted.sum()), int((best == wanted)[counted].sum())
    if num == 0:
        return None, found
    covers = PlainCovers(num, num_right)
    say(f"ask {suspect.name}: {num_right} of {num} plain covers answered with their class")
    if not covers.is_above_chance(num_classes if checked is None else len(checked.known)):
        say(
            f"ask {suspect.name}: guessing would do as well, so a test that does not detect it says nothing; check its "
            "preprocessing and the order of its classes (--label-map)"
        )
    return covers, found


@dataclass(frozen=True)
class _Record:
    """One line of a log: requests that were about to be sent, or answers, the first of them to the query of that number."""

    requests: Annotated[int, Field(ge=0, le=2**40)] = 0
    first: Annotated[int, Field(ge=0, le=2**40)] = 0
    rows: list[list[Annotated[int, Field(ge=0, le=MAX_CLASS_NUMBER)]] | list[float] | None] = field(
        default_factory=list
    )


_RECORD: Final = TypeAdapter(_Record)


class _Log:
    """The rows that a suspect answered so far, by the number of the query, and the requests that were sent."""

    def __init__(self, lines: list[bytes], append: Callable[[bytes], None], where: str) -> None:
        self._append_line, self._lock = append, threading.Lock()
        self._rows: dict[int, Row] = {}
        self._num_requests = 0
        for line in lines:
            try:
                record = _RECORD.validate_json(line, strict=True)
            except ValidationError:
                raise InputError(f"{where} is damaged; restore it, or delete it to ask everything again") from None
            self._num_requests += record.requests
            self._rows.update(enumerate(record.rows, record.first))

    @property
    def num_answers(self) -> int:
        return len(self._rows)

    def ask(
        self, suspect: Suspect, first: int, images: NDArray[np.uint8], advance: Callable[[float, str], None]
    ) -> list[Row]:
        """The rows of some queries, of which `first` is the number of the first; asks for those that are not there."""
        numbers = range(first, first + len(images))
        missing = [number for number in numbers if number not in self._rows]
        if missing and isinstance(suspect, OneByOne):
            wanted = images[[number - first for number in missing]]
            try:
                with closing(suspect.one_by_one(wanted, lambda: self._count(suspect))) as answered:
                    for index, row in answered:
                        self._keep(missing[index], [row])
                        advance(len(self._rows), f"{self._num_requests} of {suspect.max_requests} requests")
            except BudgetSpent as error:
                raise BudgetSpent(
                    f"{error} after {len(self._rows)} answers; raise max_requests and run the same command again to go on, what "
                    "was answered is kept"
                ) from error
        elif missing:
            given = np.asarray(suspect.answers(images))
            Answers.of(given, len(images), suspect.num_classes)  # what has no known form is not kept
            self._keep(first, rows_of_table(given))
        advance(first + len(images), "")
        return [self._rows[number] for number in numbers]

    def _append(self, line: bytes) -> None:
        with self._lock:  # requests are counted by the threads that send them
            self._append_line(line)

    def _count(self, suspect: OneByOne) -> None:
        if self._num_requests >= suspect.max_requests:
            raise BudgetSpent(f"the budget of {suspect.max_requests} requests is spent")
        self._append(b'{"requests": 1}')  # before it is sent: a killed process may have sent it
        self._num_requests += 1

    def _keep(self, first: int, rows: list[Row]) -> None:
        self._append(json.dumps({"first": first, "rows": rows}).encode())
        self._rows.update(enumerate(rows, first))


@contextmanager
def _log_of(run: Run, registration: Registration, suspect: Suspect) -> Iterator[_Log]:
    known = getattr(suspect, "identity", None)
    if known is None:  # a function may be another one tomorrow
        yield _Log([], lambda line: None, "")
        return
    path = f"asked/{identity([_FORMAT, registration.registration_sha256, known])}.jsonl"
    with run.root.appending(path) as (lines, append):
        log = _Log(lines, append, run.root.uri_of(path))
        if log.num_answers:
            say(f"ask {suspect.name}: {log.num_answers} answers are there from before")
        yield log
