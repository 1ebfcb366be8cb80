"""Suspects: models under test behind one protocol, and what people write to name one.

To add a kind, write a class with the members of `Suspect` in a module of its own, here or in a plugin, and register what
opens it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from taggants.errors import InputError
from taggants.registry import Registry
from taggants.suspects.answers import Answers, Suspect, check_suspect, question_evidence
from taggants.suspects.callable_suspect import CallableSuspect

if TYPE_CHECKING:
    from taggants.suspects.checkpoint import CheckpointSuspect as CheckpointSuspect

__all__ = [
    "SUSPECT_KINDS",
    "Answers",
    "CallableSuspect",
    "CheckpointSuspect",
    "Suspect",
    "SuspectKind",
    "check_suspect",
    "open_suspect",
    "question_evidence",
]


@dataclass(frozen=True)
class SuspectKind:
    """What a person writes to name a suspect, and how it is opened.

    Attributes:
        form: how it is written, for people, such as "path or s3:// URI of a model.safetensors".
        recognises: whether a text has that form; looks at the text alone.
        open: returns the suspect that the text names; raises InputError.
    """

    form: str
    recognises: Callable[[str], bool]
    open: Callable[[str], Suspect]


def open_suspect(text: str) -> Suspect:
    """Returns the suspect that a text names, by the first kind that recognises it.

    Raises:
        InputError: none does, or the suspect cannot be opened.
    """
    for kind in SUSPECT_KINDS.values():
        if kind.recognises(text):
            return kind.open(text)
    forms = "; ".join(kind.form for kind in SUSPECT_KINDS.values())
    raise InputError(
        f"suspect {text!r} is not in a known form; write one of: {forms}; or test any model in "
        "Python: taggants.verify(run, predict)"
    )


def __getattr__(name: str) -> Any:
    """What needs torch is loaded when it is first used: answers can be read without it."""
    if name != "CheckpointSuspect":
        raise AttributeError(f"module 'taggants.suspects' has no attribute {name!r}")
    from taggants.suspects.checkpoint import CheckpointSuspect

    return CheckpointSuspect


def _open_checkpoint(text: str) -> Suspect:
    from taggants.suspects.checkpoint import CheckpointSuspect

    return CheckpointSuspect(text)


SUSPECT_KINDS: Final[Registry[SuspectKind]] = Registry("suspect kind")
SUSPECT_KINDS.register(
    "checkpoint",
    SuspectKind(
        "path or s3:// URI of a model.safetensors that taggants trained",
        lambda text: text.endswith(".safetensors"),
        _open_checkpoint,
    ),
)
