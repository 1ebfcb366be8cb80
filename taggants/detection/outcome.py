"""What a certificate says of a test beside its evidence: how the suspect was understood, and the verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from scipy.special import bdtrc

from taggants.detection.evidence import Evidence
from taggants.detection.sequential import running_e_values
from taggants.errors import InputError, check_integer
from taggants.identity import identity

Verdict = Literal["detected", "not detected", "cannot be judged"]
CHANCE_LEVEL: Final = 0.01  # of the test whether a suspect answers plain covers better than by guessing
_MAX_COUNT: Final = 2**40
MAX_CLASS_NUMBER: Final = 2**24  # of a suspect's class: tables by class stay small


@dataclass(frozen=True)
class PlainCovers:
    """How a suspect answered the covers without a key: whether it was fed and read as it should be.

    Attributes:
        num: covers whose class the suspect knows, at least 1.
        num_right: of them, those answered with their class, 0..num.
    """

    num: int
    num_right: int

    def __post_init__(self) -> None:
        check_integer("the number of covers", self.num, 1, _MAX_COUNT)
        check_integer("num_right of covers", self.num_right, 0, self.num)

    def is_above_chance(self, num_classes: int) -> bool:
        """Returns whether guessing one of num_classes classes would do as well with a probability of at most `CHANCE_LEVEL`."""
        return self.num_right > 0 and bool(bdtrc(self.num_right - 1, self.num, 1 / num_classes) <= CHANCE_LEVEL)

    def to_json(self) -> dict[str, Any]:
        return {"num": self.num, "num_right": self.num_right}

    @classmethod
    def from_json(cls, value: object) -> PlainCovers:
        if not isinstance(value, dict) or set(value) != {"num", "num_right"}:
            raise InputError("The certificate's covers must be null or a JSON object with only num and num_right.")
        return cls(**value)


@dataclass(frozen=True)
class LabelMap:
    """Which class of the suspect stands for each class of the owner.

    Attributes:
        kind: "names": by equal names; "file": given by whoever tests; "fitted": as agrees best with the answers to plain covers.
        classes: for each of the owner's classes the suspect's, each at most once; None where it knows no such class.

    Raises:
        InputError: a value is out of its range, or the suspect knows fewer than 2 of the classes.
    """

    kind: Literal["names", "file", "fitted"]
    classes: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if self.kind not in ("names", "file", "fitted"):
            raise InputError(f"the kind of label_map is {self.kind!r} but must be 'names', 'file' or 'fitted'.")
        found = [known for known in self.classes if known is not None]
        for known in found:
            check_integer("a class of label_map", known, 0, MAX_CLASS_NUMBER)
        if len(set(found)) != len(found):
            raise InputError("label_map takes a class of the suspect for two of the owner's; name each once.")
        if len(found) < 2:
            raise InputError(f"label_map knows {len(found)} of the owner's classes but at least 2 are needed.")

    @property
    def known(self) -> tuple[int, ...]:
        """The owner's classes that the suspect knows, rising."""
        return tuple(own for own, found in enumerate(self.classes) if found is not None)

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) over the canonical JSON of `classes`."""
        return identity(list(self.classes))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "classes": list(self.classes), "sha256": self.sha256}

    @classmethod
    def from_json(cls, value: object) -> LabelMap:
        if not isinstance(value, dict) or set(value) != {"kind", "classes", "sha256"}:
            raise InputError(
                "The certificate's label_map must be null or a JSON object with only kind, classes, sha256."
            )
        if not isinstance(value["classes"], list):
            raise InputError("The certificate's label_map must hold a JSON list of classes.")
        found = cls(value["kind"], tuple(value["classes"]))
        if found.sha256 != value["sha256"]:
            raise InputError("The certificate's label_map does not match its sha256, so it was changed.")
        return found


@dataclass(frozen=True)
class EValue:
    """The test that may be stopped at any time (`taggants.detection.sequential`), after the keys that were asked.

    Attributes:
        log_maximum: natural logarithm of the largest e-value after any key, 0 before the first.
        log_final: of the e-value after the last key that was asked.
        num_asked: keys that the suspect was asked about, those left out since it does not know their class included.
    """

    log_maximum: float
    log_final: float
    num_asked: int

    def __post_init__(self) -> None:
        for name in ("log_maximum", "log_final"):
            if not isinstance(value := getattr(self, name), float) or not math.isfinite(value):
                raise InputError(f"{name} of e_value is {value!r} but must be a finite number.")
        check_integer("num_asked of e_value", self.num_asked, 1, _MAX_COUNT)

    @classmethod
    def of(cls, evidence: Evidence, num_left_out: int) -> EValue:
        """Returns what evidence with a table gives."""
        running = running_e_values(np.array(evidence.table), evidence.positions)
        return cls(max(0.0, float(running.max())), float(running[-1]), len(evidence.ranks) + num_left_out)

    def to_json(self) -> dict[str, Any]:
        return {"log_maximum": self.log_maximum, "log_final": self.log_final, "num_asked": self.num_asked}

    @classmethod
    def from_json(cls, value: object) -> EValue:
        if not isinstance(value, dict) or set(value) != {"log_maximum", "log_final", "num_asked"}:
            raise InputError(
                "The certificate's e_value must be a JSON object with only log_maximum, log_final and num_asked."
            )
        return cls(**value)


def verdict_of(p_value: float, level: float, evidence: Evidence, covers: PlainCovers | None) -> Verdict:
    """Returns the verdict of one test.

    "detected" when p <= level, which is exact whatever the suspect says of covers. Otherwise "cannot be judged" when it answers
    plain covers no better than by guessing, or says the same of all classes for every key: it may be fed or read wrongly, so
    that silence says nothing. Otherwise "not detected".
    """
    if p_value <= level:
        return "detected"
    if covers is not None and not covers.is_above_chance(evidence.num_classes):
        return "cannot be judged"
    if evidence.table is not None and all(row[0] == row[-1] for row in evidence.table):
        return "cannot be judged"
    return "not detected"
