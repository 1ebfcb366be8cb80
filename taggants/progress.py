"""Progress of long work: a live bar with rate and ETA on a terminal, plain lines of the same in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

console = Console(highlight=False, soft_wrap=True)
"""Where jobs write for people."""

Advance = Callable[[float, str], None]
"""(how many units are done in all, a short note) -> None."""

_LINE_EVERY_S = 10.0


@contextmanager
def stage(title: str, total: float, unit: str) -> Iterator[Advance]:
    """Yields a function to call with the units done so far and a note; prints rate and ETA as work goes on.

    The first call sets where this run starts (a resumed run starts above 0), so that rate and ETA speak of now.
    """
    started = time.monotonic()
    first: list[float] = []

    def summary(done: float, note: str) -> str:
        elapsed = time.monotonic() - started
        worked = done - first[0] if first else 0.0
        rate = worked / elapsed if elapsed > 0 else 0.0
        eta = f", ETA {(total - done) / rate:.0f} s" if rate > 0 and done < total else ""
        speed = f", {rate:.3g} {unit}/s{eta}" if worked > 0 else ""
        return f"{title}: {done:g}/{total:g} {unit}{speed}{', ' + note if note else ''}"

    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(title, total=total, text="")

            def draw(done: float, note: str = "") -> None:
                if not first:
                    first.append(done)
                progress.update(task, completed=done, text=summary(done, note).removeprefix(f"{title}: "))

            yield draw
    else:
        last = [started]

        def write(done: float, note: str = "") -> None:
            if not first:
                first.append(done)
            now = time.monotonic()
            if done < total and now - last[0] >= _LINE_EVERY_S:
                last[0] = now
                console.print(summary(done, note), markup=False)

        yield write


def say(text: str) -> None:
    """Prints one line or block for people."""
    console.print(text, markup=False)
