"""The certificate: the record of one test of one suspect, which anyone can check against its own evidence."""

from __future__ import annotations

import html
import importlib.metadata
import math
import platform
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

import taggants
from taggants.detection.evidence import Evidence
from taggants.detection.exact import P_VALUE_FLOOR
from taggants.detection.registration import Registration
from taggants.detection.statistics import STATISTICS, p_values
from taggants.errors import InputError, check_sha256, check_text
from taggants.identity import strict_json

CERTIFICATE_FORMAT: Final = "taggants-certificate/2"  # of a test that asks the key images alone
CERTIFICATE_FORMAT_QUESTION: Final = "taggants-certificate/3"
_OF_A_QUESTION: Final = ("answers_sha256", "signing_sha256")
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
_WIDTH: Final = 90
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
        answers_sha256: of the file of the suspect's answers to the registered question; None where there is no question.
        signing_sha256: of the `SigningRecord` whose references it was compared with; None where there is no question.

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
    signing_sha256: str | None = None

    def __post_init__(self) -> None:
        check_text("suspect", self.suspect)
        if self.suspect_sha256 is not None:
            check_sha256("suspect_sha256", self.suspect_sha256)
        registered = self.registration
        for name in _OF_A_QUESTION:
            if registered.question is not None:
                check_sha256(name, getattr(self, name))
            elif getattr(self, name) is not None:
                raise InputError(f"{name} must be empty where no question is registered.")
        if len(self.ranks) != registered.num_keys:
            raise InputError(
                f"ranks has {len(self.ranks)} entries but must have {registered.num_keys}, one for every key."
            )
        if self.evidence.num_classes != registered.num_classes:
            raise InputError(
                f"the evidence is of {self.evidence.num_classes} classes but {registered.num_classes} are registered."
            )
        if registered.statistic not in self.p_values:
            raise InputError(f"p_values lacks {registered.statistic!r}, the registered statistic.")
        for name, p_value in self.p_values.items():
            if not isinstance(p_value, float) or not 0 < p_value <= 1:
                raise InputError(f"p_values[{name!r}] is {p_value!r} but must be a number above 0 and at most 1.")
        _check_time(self.created_at)
        for name, version in self.software.items():
            check_text("a software name", name)
            check_text("a software version", version)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each key label in the suspect's answers, [num_keys] in 1..num_classes."""
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
    def is_detected(self) -> bool:
        """Whether the registered test rejects its null at the registered level."""
        return self.p_value <= self.registration.alpha

    def says_the_same_as(self, other: Certificate) -> bool:
        """Whether the two record the same answers of the same suspect under one registration, at whatever time."""
        ours, theirs = (
            (c.suspect, c.suspect_sha256, c.registration, c.evidence, c.answers_sha256, c.signing_sha256)
            for c in (self, other)
        )
        return ours == theirs

    def _repr_html_(self) -> str:
        """Returns the description as a notebook shows it."""
        return f"<pre>{html.escape(describe(self))}</pre>"

    def to_json(self) -> dict[str, Any]:
        return {
            "format": CERTIFICATE_FORMAT if self.registration.question is None else CERTIFICATE_FORMAT_QUESTION,
            "suspect": self.suspect,
            "suspect_sha256": self.suspect_sha256,
            "registration": self.registration.to_json(),
            "evidence": self.evidence.to_json(),
            "p_values": dict(self.p_values),
            "created_at": self.created_at,
            "software": dict(self.software),
            **({} if self.registration.question is None else {name: getattr(self, name) for name in _OF_A_QUESTION}),
        }

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
        found = value.get("format", CERTIFICATE_FORMAT) if isinstance(value, dict) else CERTIFICATE_FORMAT
        if found not in (CERTIFICATE_FORMAT, CERTIFICATE_FORMAT_QUESTION):
            raise InputError(
                f"The certificate's format is {found!r} but must be {CERTIFICATE_FORMAT!r} or {CERTIFICATE_FORMAT_QUESTION!r}."
            )
        with_question = found == CERTIFICATE_FORMAT_QUESTION
        names = [part.name for part in fields(cls) if with_question or part.name not in _OF_A_QUESTION]
        if not isinstance(value, dict) or set(value) != {*names, "format"}:
            raise InputError(f"The certificate must be a JSON object with only the fields format, {', '.join(names)}.")
        for name in ("p_values", "software"):
            if not isinstance(value[name], dict):
                raise InputError(f"The certificate's {name} must be a JSON object.")
        registration = Registration.from_json(value["registration"])
        if (registration.question is not None) != with_question:
            raise InputError(
                f"The certificate's format {found!r} does not fit its registration; use the original file."
            )
        evidence = Evidence.from_json(value["evidence"], registration.num_classes)
        certificate = cls(**{**{n: value[n] for n in names}, "registration": registration, "evidence": evidence})
        for name in certificate.p_values:
            STATISTICS.find(name)
        computed = p_values(evidence, registration)
        for name, claimed in certificate.p_values.items():
            if not math.isclose(claimed, computed.get(name, math.nan), rel_tol=_RELATIVE_TOLERANCE):
                raise InputError(
                    f"The certificate's p-value of {name!r} is {claimed} but its evidence gives {computed.get(name)}: "
                    "repeat the test."
                )
        return certificate


def certify(
    evidence: Evidence,
    registration: Registration,
    *,
    suspect: str,
    suspect_sha256: str | None,
    created_at: datetime,
    software: Mapping[str, str],
    answers_sha256: str | None = None,
    signing_sha256: str | None = None,
) -> Certificate:
    """The certificate of one test: what the evidence gives under the registration, by every statistic that can use it.

    Args:
        evidence: of every registered key, none left out.
        created_at: an aware time.

    Raises:
        InputError: a value is out of its range, the evidence has another number of keys or classes than are registered, or
            the registered statistic needs more than it holds.
    """
    if created_at.tzinfo is None:
        raise InputError(f"created_at is {created_at.isoformat()} but must have a time zone: use datetime.now(UTC).")
    return Certificate(
        suspect=suspect,
        suspect_sha256=suspect_sha256,
        registration=registration,
        evidence=evidence,
        p_values=p_values(evidence, registration),
        created_at=created_at.astimezone(UTC).strftime(_TIME_FORMAT),
        software=dict(software),
        answers_sha256=answers_sha256,
        signing_sha256=signing_sha256,
    )


def software_versions() -> dict[str, str]:
    """The versions that a certificate's numbers depend on, name to version."""
    numpy = importlib.metadata.version("numpy")
    return {"taggants": taggants.__version__, "python": platform.python_version(), "numpy": numpy}


def describe(certificate: Certificate) -> str:
    """The certificate for a human reader: plain text of at most 90 columns."""
    c, registered = certificate, certificate.registration
    expected = registered.num_keys * registered.top_k / registered.num_classes
    keys = "1 secret key" if registered.num_keys == 1 else f"{registered.num_keys} secret keys"
    decision = "DETECTED" if c.is_detected else "NOT DETECTED"
    sign = "<=" if c.is_detected else ">"
    lines = [
        f"Suspect    {c.suspect if len(c.suspect) <= 70 else c.suspect[:67] + '...'}",
        f"Question   does it answer {keys} with their labels, out of {registered.num_classes} classes?",
        *_asked(registered),
        *_paragraph("Null       ", f"{STATISTICS.find(registered.statistic).null}."),
        f"Hits       {c.num_hits} of {registered.num_keys} labels in the top {registered.top_k}; {expected:.3g} expected under "
        "the null",
    ]
    for name in (name for name in STATISTICS if name in c.p_values):
        decides = "   <- registered, decides" if name == registered.statistic else ""
        lines.append(f"{f'p ({name})':<11}{_number(c.p_values[name])}{decides}")
    lines += [
        f"Decision   {decision}: p {sign} alpha = {registered.alpha:g}",
        "",
        "What this does and does not show",
        *_paragraph(
            "- ",
            "Under the null, p <= alpha happens with probability at most alpha, in this single registered test. It "
            "assumes that the labels were drawn i.i.d. uniform, and that keys and test were committed to before the "
            "data was published. With several suspects or looks, correct for them.",
        ),
        *_paragraph("- ", "Detection does not show that every image was used, nor that the training was unlawful."),
        *_paragraph("- ", "No detection does not prove that the data was not used."),
        "",
        f"Keys {registered.keys_commitment[:16]}...  registration {registered.registration_sha256[:16]}...  {c.created_at}",
    ]
    return "\n".join(lines)


def _asked(registered: Registration) -> list[str]:
    question = registered.question
    if question is None:
        return []
    bare = "itself, " if question.bare_weight else ""
    over = f"laid over {len(question.cover_ids)} covers at {len(question.amplitudes)} amplitudes, " * bool(
        question.cover_ids
    )
    references = (
        f"compared with {len(registered.references)} clean models" if registered.references else "compared with none"
    )
    return _paragraph("Asked      ", f"{question.num_queries} images for each key: {bare}{over}{references}")


def _paragraph(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head))


def _number(p_value: float) -> str:
    return f"at most {P_VALUE_FLOOR:g}" if p_value <= P_VALUE_FLOOR else f"{p_value:.2e}"


def _check_time(value: object) -> None:
    try:
        if not isinstance(value, str):
            raise ValueError
        datetime.strptime(value, _TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise InputError(f"created_at is {value!r} but must be a UTC time such as '2025-01-31T12:00:00Z'.") from None
