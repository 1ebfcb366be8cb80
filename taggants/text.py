"""Text that others named or wrote, such as files, classes and answers of servers, on its way to people."""

from __future__ import annotations

import logging


def one_line(text: object, most: int = 2000) -> str:
    """Returns a text as one printable line of at most `most` characters, so that it can neither forge a line of a log nor steer a
    terminal: what is not printable (line breaks, escape sequences, bidirectional controls, lone surrogates) is written as Python
    escapes it, and the middle of a long text is left out.
    """
    return _cut(printable(_cut(str(text), most)), most)


def printable(text: str) -> str:
    """Returns a text with all that is not printable, line breaks too, as Python escapes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _cut(text: str, most: int) -> str:
    end = most // 4
    return text if len(text) <= most else f"{text[: most - end - 5]} ... {text[len(text) - end :]}"


def logger_of(name: str) -> logging.Logger:
    """Returns the logger of a module, whose messages are `one_line` each."""
    logger = logging.getLogger(name)
    if _on_one_line not in logger.filters:
        logger.addFilter(_on_one_line)
    return logger


def _on_one_line(record: logging.LogRecord) -> bool:
    record.msg, record.args = one_line(record.getMessage()), None
    return True
