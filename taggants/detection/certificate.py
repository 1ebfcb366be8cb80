"""The certificate: the record of one test of one suspect, which anyone can check against its own evidence."""

from __future__ import annotations

import html
import importlib.metadata
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

import taggants
from taggants.detection.evidence import Evidence
from taggants.detection.outcome import EValue, LabelMap, PlainCovers, Verdict, verdict_of
from taggants.detection.registration import Registration, SigningRecord
from taggants.detection.statistics import STATISTICS, p_values
from taggants.errors import InputError, check_integer, check_sha256, check_text
from taggants.identity import format_in, identity, strict_json

CERTIFICATE_FORMAT: Final = "taggants-certificate/2"  # of a test that asks the key images alone
CERTIFICATE_FORMAT_QUESTION: Final = "taggants-certificate/3"
_OF_A_QUESTION: Final = (
    "answers_sha256",
    "signing",
    "covers",
    "label_map",
    "num_left_out",
    "e_value",
    "look",
    "num_refused",
)
_MAX_COUNT: Final = 2**40
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
_RELATIVE_TOLERANCE: Final = 1e-9  # libraries and processors differ in the last digits of a p-value


@dataclass(frozen=True)
class Certificate:
    """What was asked of a suspect, under which registration, and what came out. Holds evidence, but no key and no label.

    Build it with `certify`, which computes the p-values, or read it with `from_text` or `from_json`, which check them.

    Attributes:
        suspect: name of the suspect, printable, at most 200 characters.
        suspect_sha256: of what is known of the suspect, such as its weights, 64 hex digits; None behind an API.
        registration: that fixed the test in advance, whole.
        evidence: what the suspect's answers say of each registered key.
        p_values: by the name of the statistic, each in (0, 1]; that of the registered one decides.
        created_at: time of the test, ISO 8601, UTC, such as "2025-01-31T12:00:00Z".
        software: versions, name to version.
        answers_sha256: of the file of the suspect's answers to the registered question. This and all that follows is None, or 0
            where it is a number, where there is no question.
        signing: the record of the signed data, and of the references that it was compared with.
        covers: how the plain covers were answered; None if none were asked.
        label_map: which classes of the suspect stand for the owner's; None where they are the same.
        num_left_out: keys whose class the suspect does not know. The evidence is then of the other keys and the known classes:
            given which these are, labels are uniform on the known classes.
        e_value: of the test that may be stopped at any time.
        look: which test under this registration it is, counting from 1, as the owner's run folder counts them.
        num_refused: queries and covers that were refused, or answered with NaN.

    Raises:
        InputError: a value has the wrong type or is out of its range.
    """

    suspect: str
    suspect_sha256: str | None
    registration: Registration
    evidence: Evidence
    p_values: Mapping[str, float]
    created_at: str
    software: Mapping[str, str]
    answers_sha256: str | None = None
    signing: SigningRecord | None = None
    covers: PlainCovers | None = None
    label_map: LabelMap | None = None
    num_left_out: int = 0
    e_value: EValue | None = None
    look: int | None = None
    num_refused: int = 0

    def __post_init__(self) -> None:
        check_text("suspect", self.suspect)
        if self.suspect_sha256 is not None:
            check_sha256("suspect_sha256", self.suspect_sha256)
        registered = self.registration
        if registered.question is None:
            self._check_without_question()
        else:
            self._check_with_question()
        if registered.statistic not in self.p_values:
            raise InputError(f"p_values lacks {registered.statistic!r}, the registered statistic.")
        for name, p_value in self.p_values.items():
            if not isinstance(p_value, float) or not 0 < p_value <= 1:
                raise InputError(f"p_values[{name!r}] is {p_value!r} but must be a number above 0 and at most 1.")
        _check_time(self.created_at)
        for name, version in self.software.items():
            check_text("a software name", name)
            check_text("a software version", version)

    def _check_without_question(self) -> None:
        for part in fields(self):
            if part.name in _OF_A_QUESTION and getattr(self, part.name) != part.default:
                raise InputError(f"{part.name} must be empty where no question is registered.")
        if len(self.ranks) != self.registration.num_keys:
            raise InputError(
                f"ranks has {len(self.ranks)} entries but must have {self.registration.num_keys}, one for every key."
            )
        if self.evidence.num_classes != self.registration.num_classes:
            raise InputError(
                f"the evidence is of {self.evidence.num_classes} classes but {self.registration.num_classes} are registered."
            )

    def _check_with_question(self) -> None:
        registered = self.registration
        check_sha256("answers_sha256", self.answers_sha256)
        if self.signing is None or self.e_value is None:
            raise InputError("signing and e_value must be there where a question is registered.")
        if self.signing.registration_sha256 != registered.registration_sha256:
            raise InputError("the signing record completes another registration than the certificate's.")
        if len(self.signing.reference_answers) != len(registered.references):
            raise InputError("the signing record does not name the registered references.")
        check_integer("look", self.look, 1, _MAX_COUNT)
        check_integer("num_refused", self.num_refused, 0, _MAX_COUNT)
        check_integer("num_left_out", self.num_left_out, 0, registered.num_keys)
        num_asked = len(self.ranks) + self.num_left_out
        if not self.ranks or num_asked > registered.num_keys:
            raise InputError(
                f"ranks has {len(self.ranks)} entries and {self.num_left_out} keys are left out, but {registered.num_keys} keys "
                "are registered."
            )
        if num_asked != self.e_value.num_asked:
            raise InputError(f"e_value is of {self.e_value.num_asked} keys but the evidence of {num_asked}.")
        assert registered.question is not None, "checked before"
        if self.label_map is None and (self.covers is None) != (not registered.question.cover_ids):
            raise InputError("covers must be there where plain covers are registered, and only there.")
        if self.label_map is None and self.num_left_out:
            raise InputError("num_left_out must be 0 without a label_map: the suspect knows every class.")
        if self.label_map is not None and len(self.label_map.classes) != registered.num_classes:
            raise InputError(
                f"label_map has {len(self.label_map.classes)} classes but {registered.num_classes} are registered."
            )
        num_known = registered.num_classes if self.label_map is None else len(self.label_map.known)
        if self.evidence.num_classes != num_known:
            raise InputError(
                f"the evidence is of {self.evidence.num_classes} classes but the suspect knows {num_known}."
            )

    @property
    def is_stopped(self) -> bool:
        """Whether asking was stopped before the last registered key."""
        return len(self.ranks) + self.num_left_out < self.registration.num_keys

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each key label in the evidence, one for each key that was asked, in 1..num_classes."""
        return self.evidence.ranks

    @property
    def num_hits(self) -> int:
        """Number of keys whose label is within the registered top k."""
        return sum(rank <= self.registration.top_k for rank in self.ranks)

    @property
    def p_value(self) -> float:
        """The p-value of the registered statistic: the one that decides."""
        return self.p_values[self.registration.statistic]

    @property
    def verdict(self) -> Verdict:
        """What the registered test says at the registered level (`verdict_of`)."""
        return verdict_of(self.p_value, self.registration.level, self.evidence, self.covers)

    @property
    def is_detected(self) -> bool:
        """Whether the registered test rejects its null at the registered level."""
        return self.p_value <= self.registration.level

    def says_the_same_as(self, other: Certificate) -> bool:
        """Whether the two record the same answers of the same suspect under one registration, at whatever time and look."""
        aside: dict[str, Any] = {"created_at": "", "software": {}, "look": None}
        ours, theirs = ({part.name: getattr(c, part.name) for part in fields(c)} | aside for c in (self, other))
        return ours == theirs

    def _repr_html_(self) -> str:
        """Returns the description as a notebook shows it."""
        from taggants.detection.description import describe

        return f"<pre>{html.escape(describe(self))}</pre>"

    def to_json(self) -> dict[str, Any]:
        content = {
            "format": CERTIFICATE_FORMAT,
            "suspect": self.suspect,
            "suspect_sha256": self.suspect_sha256,
            "registration": self.registration.to_json(),
            "evidence": self.evidence.to_json(),
            "p_values": dict(self.p_values),
            "created_at": self.created_at,
            "software": dict(self.software),
        }
        if self.registration.question is None:
            return content
        of_question = {name: getattr(self, name) for name in _OF_A_QUESTION}
        of_question |= {name: value.to_json() for name, value in of_question.items() if hasattr(value, "to_json")}
        content |= {"format": CERTIFICATE_FORMAT_QUESTION, **of_question, "verdict": self.verdict}
        return {**content, "certificate_sha256": identity(content)}

    @classmethod
    def from_text(cls, text: str | bytes) -> Certificate:
        """The certificate in a JSON file; as `from_json`, and refused if a field stands there twice or a number is NaN."""
        return cls.from_json(strict_json(text, "The certificate"))

    @classmethod
    def from_json(cls, value: object) -> Certificate:
        """The certificate in a JSON object as `to_json` writes it, its hash and p-values computed anew.

        Raises:
            InputError: a field is missing, unknown or out of range, the registration fails its hash, a p-value is of a
                statistic that is not known here, or disagrees with the evidence.
        """
        found = format_in(value, "The certificate", (CERTIFICATE_FORMAT, CERTIFICATE_FORMAT_QUESTION))
        with_question = found == CERTIFICATE_FORMAT_QUESTION
        names = [part.name for part in fields(cls) if with_question or part.name not in _OF_A_QUESTION]
        expected = [*names, "verdict", "certificate_sha256"] if with_question else names
        if not isinstance(value, dict) or set(value) != {*expected, "format"}:
            raise InputError(
                f"The certificate must be a JSON object with only the fields format, {', '.join(expected)}."
            )
        for name in ("p_values", "software"):
            if not isinstance(value[name], dict):
                raise InputError(f"The certificate's {name} must be a JSON object.")
        registration = Registration.from_json(value["registration"])
        if (registration.question is not None) != with_question:
            raise InputError(
                f"The certificate's format {found!r} does not fit its registration; use the original file."
            )
        content = {name: value[name] for name in names} | {"registration": registration}
        num_classes = registration.num_classes
        if with_question:
            content["signing"] = SigningRecord.from_json(value["signing"])
            content["e_value"] = EValue.from_json(value["e_value"])
            if value["covers"] is not None:
                content["covers"] = PlainCovers.from_json(value["covers"])
            if value["label_map"] is not None:
                content["label_map"] = LabelMap.from_json(value["label_map"])
                num_classes = len(content["label_map"].known)
        content["evidence"] = Evidence.from_json(value["evidence"], num_classes)
        certificate = cls(**content)
        certificate._check_numbers()
        if with_question and value["verdict"] != certificate.verdict:
            raise InputError(
                f"The certificate's verdict is {value['verdict']!r} but its numbers say {certificate.verdict!r}."
            )
        rest = {name: field for name, field in value.items() if name != "certificate_sha256"}
        if with_question and value["certificate_sha256"] != identity(rest):
            raise InputError(
                "The certificate does not match its certificate_sha256, so it was changed: use the original."
            )
        return certificate

    def _check_numbers(self) -> None:
        """Raises InputError unless the evidence gives the p-values and the e-value."""
        for name in self.p_values:
            STATISTICS.find(name)
        computed = p_values(self.evidence, self.registration, stopped=self.is_stopped)
        for name, claimed in self.p_values.items():
            if not math.isclose(claimed, computed.get(name, math.nan), rel_tol=_RELATIVE_TOLERANCE):
                raise InputError(
                    f"The certificate's p-value of {name!r} is {claimed} but its evidence gives {computed.get(name)}: "
                    "repeat the test."
                )
        if self.e_value is None:
            return
        found = EValue.of(self.evidence, self.num_left_out)
        for name in ("log_maximum", "log_final"):
            claimed, given = getattr(self.e_value, name), getattr(found, name)
            if not math.isclose(claimed, given, rel_tol=_RELATIVE_TOLERANCE, abs_tol=_RELATIVE_TOLERANCE):
                raise InputError(f"The certificate's {name} of e_value is {claimed} but its evidence gives {given}.")


def certify(
    evidence: Evidence,
    registration: Registration,
    *,
    suspect: str,
    suspect_sha256: str | None,
    created_at: datetime,
    software: Mapping[str, str],
    answers_sha256: str | None = None,
    signing: SigningRecord | None = None,
    covers: PlainCovers | None = None,
    label_map: LabelMap | None = None,
    num_left_out: int = 0,
    look: int | None = None,
    num_refused: int = 0,
) -> Certificate:
    """The certificate of one test: what the evidence gives under the registration, by every statistic that can use it.

    Args:
        evidence: of every registered key but those left out, or of the first ones where asking was stopped.
        created_at: an aware time.
        answers_sha256, ...: as of `Certificate`, where a question is registered.

    Raises:
        InputError: a value is out of its range, the evidence has another number of keys or classes than are registered, or
            the registered statistic needs more than it holds.
    """
    if created_at.tzinfo is None:
        raise InputError(f"created_at is {created_at.isoformat()} but must have a time zone: use datetime.now(UTC).")
    with_question, num_asked = registration.question is not None, len(evidence.ranks) + num_left_out
    return Certificate(
        suspect=suspect,
        suspect_sha256=suspect_sha256,
        registration=registration,
        evidence=evidence,
        p_values=p_values(evidence, registration, stopped=with_question and num_asked < registration.num_keys),
        created_at=created_at.astimezone(UTC).strftime(_TIME_FORMAT),
        software=dict(software),
        answers_sha256=answers_sha256,
        signing=signing,
        covers=covers,
        label_map=label_map,
        num_left_out=num_left_out,
        e_value=EValue.of(evidence, num_left_out) if with_question else None,
        look=look,
        num_refused=num_refused,
    )


def software_versions() -> dict[str, str]:
    """The versions that a certificate's numbers depend on, name to version."""
    numpy = importlib.metadata.version("numpy")
    return {"taggants": taggants.__version__, "python": platform.python_version(), "numpy": numpy}


def _check_time(value: object) -> None:
    try:
        if not isinstance(value, str):
            raise ValueError
        if datetime.strptime(value, _TIME_FORMAT).replace(tzinfo=UTC).strftime(_TIME_FORMAT) != value:
            raise ValueError  # digits left out, or of another script: other readers of ISO 8601 refuse them
    except ValueError:
        raise InputError(f"created_at is {value!r} but must be a UTC time such as '2025-01-31T12:00:00Z'.") from None
