"""Progress of long work: a live bar with rate and ETA on a terminal, plain lines or JSON of the same in a log."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from taggants.reporting.quantities import number, speed
from taggants.text import one_line, printable

console = Console(highlight=False, soft_wrap=True)
"""Where jobs write for people."""

Advance = Callable[[float, str], None]
"""(how many units are done in all, a short note) -> None."""

_LINE_EVERY_S = 10.0

_writes_json = False


def write_json_lines(enabled: bool) -> None:
    """From now on all that this process says is one JSON object a line, as log collectors take it, or plain text again.

    Every object has time (ISO 8601, UTC), level and message; progress also stage, done, total, unit, per_s, eta_s and note.
    Warnings of the library's loggers come in the same form.
    """
    global _writes_json
    _writes_json = enabled
    logger = logging.getLogger("taggants")
    logger.handlers = [_JsonLines()] if enabled else []
    logger.propagate = not enabled


def json_line(message: str, level: str = "info", **fields: Any) -> str:
    """Returns one object of `write_json_lines`."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "message": message, **fields})


class _JsonLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(
            json_line(record.getMessage(), record.levelname.lower(), logger=record.name), file=console.file, flush=True
        )


@contextmanager
def stage(title: str, total: float, unit: str) -> Iterator[Advance]:
    """Yields a function to call with the units done so far and a note; prints rate and ETA as work goes on.

    The first call sets where this run starts (a resumed run starts above 0), so that rate and ETA speak of now.
    """
    started = time.monotonic()
    first: list[float] = []

    def speed_and_eta(done: float) -> tuple[float | None, float | None]:
        elapsed = time.monotonic() - started
        worked = done - first[0] if first else 0.0
        rate = worked / elapsed if worked > 0 and elapsed > 0 else None
        return rate, (total - done) / rate if rate is not None and done < total else None

    def summary(done: float, note: str) -> str:
        rate, eta_s = speed_and_eta(done)
        eta = "" if eta_s is None else f", ETA {eta_s:.0f} s"
        pace = "" if rate is None else f", {speed(rate, unit)}{eta}"
        return f"{title}: {number(done)}/{number(total)} {unit}{pace}{', ' + note if note else ''}"

    if console.is_terminal and not _writes_json:
        title = printable(title)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            TextColumn("{task.fields[text]}", markup=False),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(title, total=total, text="")

            def draw(done: float, note: str = "") -> None:
                if not first:
                    first.append(done)
                progress.update(task, completed=done, text=printable(summary(done, note).removeprefix(f"{title}: ")))

            yield draw
    else:
        last = [started]

        def write(done: float, note: str = "") -> None:
            if not first:
                first.append(done)
            now = time.monotonic()
            if done < total and now - last[0] >= _LINE_EVERY_S:
                last[0] = now
                rate, eta_s = speed_and_eta(done)
                fields = {
                    "stage": title,
                    "done": done,
                    "total": total,
                    "unit": unit,
                    "per_s": rate,
                    "eta_s": eta_s,
                    "note": note,
                }
                say(summary(done, note), **fields)

        yield write


def say(text: str, **fields: Any) -> None:
    """Prints one line or block for people; the fields go into its JSON only.

    Line breaks are printed: what others named goes through `one_line` first. Other control characters are escaped here.
    """
    text = "\n".join(map(printable, text.split("\n")))
    if _writes_json:
        print(json_line(text, **fields), file=console.file, flush=True)
    else:
        console.print(text, markup=False)


def say_error(sentence: str) -> None:
    """Prints to stderr why a command ends."""
    console.file.flush()
    sentence = one_line(sentence)
    print(json_line(sentence, "error") if _writes_json else f"error: {sentence}", file=sys.stderr)


def show(table: Table) -> None:
    """Prints a table for people; as JSON its lines are one message."""
    if _writes_json:
        with console.capture() as capture:
            console.print(table, markup=False)
        say(capture.get())
    else:
        console.print(table, markup=False)
