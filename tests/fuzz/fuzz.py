"""Damaged files of every kind that other people pass on: each is read or refused by an InputError, within 10 s and 2 GiB.

    python -m tests.fuzz.fuzz [--count 2000] [--seed 0] [KIND ...]

Each kind is worked on in a process of its own, limited in memory (2 GiB beyond what its imports take), which is ended
when one file takes longer. A failure prints the number of the file: `--only NUMBER KIND` repeats it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from taggants.errors import InputError
from tests.fuzz.claim_files import CLAIM_FILES
from tests.fuzz.dataset_files import FILES
from tests.fuzz.json_files import JSON_FILES
from tests.fuzz.kind import Kind, mutated
from tests.fuzz.model_files import MODEL_FILES
from tests.fuzz.records import RECORDS

MOST_BYTES = 2 * 2**30
MOST_SECONDS = 10.0
KINDS: dict[str, Kind] = {**FILES, **RECORDS, **CLAIM_FILES, **MODEL_FILES, **JSON_FILES}


def case(kind: str, seed: int, number: int) -> bytes:
    """Returns the file of a number, a function of the arguments."""
    draw = random.Random(f"{kind} {seed} {number}")
    data = mutated(draw.choice(_seeds(kind)), draw, is_text=KINDS[kind].is_text)
    repair = KINDS[kind].repair
    return data if repair is None or draw.random() < 0.3 else repair(data)


@cache
def _seeds(kind: str) -> list[bytes]:
    return KINDS[kind].seeds()


def failure_of(kind: str, data: bytes) -> str | None:
    """Returns the traceback of an exception other than InputError."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            KINDS[kind].read(data, Path(folder))
        except InputError:
            return None
        except BaseException:
            return traceback.format_exc()
    return None


def _work(kind: str, seed: int, numbers: range) -> None:
    """Tells each number before and after it, on stdout."""
    import warnings

    for data in _seeds(kind):
        failure = failure_of(kind, data)  # imports what reading needs
        assert failure is None, failure
    warnings.simplefilter("ignore")  # which Pillow gives for what it reads all the same
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, used + MOST_BYTES))
    for number in numbers:
        print(json.dumps([number]), flush=True)
        print(json.dumps([number, failure_of(kind, case(kind, seed, number))]), flush=True)


def failures(kind: str, seed: int, count: int) -> Iterator[tuple[int, str]]:
    """Yields the number of each file that was neither read nor refused, and why."""
    first = 0
    while first < count:
        command = [sys.executable, "-m", "tests.fuzz.fuzz", kind, f"--seed={seed}", f"--work={first}:{count}"]
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True, bufsize=0
            ) as process,  # without a buffer, of which select knows nothing
        ):
            assert process.stdout is not None
            begun, done = first - 1, first - 1
            while done < count - 1:
                wait_s = 300 if begun < first else MOST_SECONDS  # imports first
                if not select.select([process.stdout], [], [], wait_s)[0]:
                    yield begun, f"it took more than {MOST_SECONDS:g} s"
                    break
                line = process.stdout.readline()
                if not line:
                    errors.seek(0)
                    yield begun, f"the process died: {errors.read().decode(errors='replace')[-2000:]}"
                    break
                told = json.loads(line)
                begun = told[0]
                if len(told) == 2:
                    done = begun
                    if told[1] is not None:
                        yield begun, told[1]
            if done < count - 1:
                os.killpg(process.pid, signal.SIGKILL)
        first = begun + 1 if begun >= first else count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--count", type=int, default=2000, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="repeat one number")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        first, count = map(int, given.work.split(":"))
        _work(given.kinds[0], given.seed, range(first, count))
        return 0
    num_failures = 0
    for kind in given.kinds or KINDS:
        if given.only is not None:
            print(failure_of(kind, case(kind, given.seed, given.only)) or "read or refused")
            continue
        found = list(failures(kind, given.seed, given.count))
        num_failures += len(found)
        print(f"{kind:<24}{given.count} files, {len(found)} failures", flush=True)
        for number, reason in found[:20]:
            print(f"  {number}: {reason.strip()[-1500:]}", flush=True)
    return 1 if num_failures else 0


if __name__ == "__main__":
    sys.exit(main())
