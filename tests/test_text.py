from __future__ import annotations

import logging

import pytest

from taggants.errors import FailedShards, InputError
from taggants.text import logger_of, one_line

HOSTILE = [
    "a\nerror: forged",
    "a\r\x1b[2J\x1b]0;title\x07",
    "\u202eexe.gnp\u2066",
    "nul \0, tab \t, \x7f, \x85, \u2028, \u2029, soft\u00adhyphen",
    "lone \ud800 surrogate",
    "x" * 2**20,
    "\x1b" * 2**20,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_one_short_printable_line(text: str) -> None:
    shown = one_line(text)
    assert shown.isprintable()
    assert len(shown) <= 2000
    assert one_line(shown) == shown
    for error in (InputError, FailedShards):
        assert str(error(text)) == shown


def test_escapes_tell_what_was_there_and_the_end_of_a_long_text_stays() -> None:
    assert one_line("a\n\x1b\ud800\u202e") == r"a\n\x1b\ud800\u202e"
    assert one_line("Straße 図 -") == "Straße 図 -"
    long = one_line(f"class {'x' * 10_000} is too long; rename it.")
    assert long.startswith("class x")
    assert long.endswith("; rename it.")
    assert len(one_line("y" * 100, 40)) == 40


def test_a_warning_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    logger = logger_of("taggants.somewhere")
    assert logger_of("taggants.somewhere") is logger
    assert len(logger.filters) == 1
    with caplog.at_level(logging.WARNING):
        logger.warning("%s failed %d times", "a\nWARNING forged\x1b[1A", 3)
    assert caplog.messages == [r"a\nWARNING forged\x1b[1A failed 3 times"]
