"""The certificate: the record of one test of one suspect, which anyone can check against its own ranks."""

from __future__ import annotations

import html
import math
import platform
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final, Literal, get_args

import numpy as np
import scipy
from numpy.typing import ArrayLike

import taggants
from taggants.detection.binomial import P_VALUE_FLOOR, binomial_p_value
from taggants.detection.rank_statistic import rank_p_value
from taggants.errors import InputError

Statistic = Literal["rank", "hits"]

CERTIFICATE_FORMAT: Final = "taggants-certificate/1"
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
_WIDTH: Final = 90
_RELATIVE_TOLERANCE: Final = 1e-9  # libraries and processors differ in the last digits of a p-value


@dataclass(frozen=True)
class Certificate:
    """What was asked of a suspect, under which registration, and what came out. Holds ranks, but no key and no label.

    Build it with `certify`, which computes the dependent numbers, or read it with `from_json`, which checks them.

    Attributes:
        suspect: name of the suspect, printable, at most 200 characters.
        suspect_sha256: of the suspect's weights, 64 hex digits, or None for a suspect behind an API.
        keys_commitment: commitment to the secret keys, 64 hex digits.
        registration_sha256: of the registration that fixed the test, 64 hex digits.
        dataset_fingerprint: of the dataset that was signed.
        num_keys: number of keys K.
        num_classes: number of classes C.
        top_k: a key is a hit when the rank of its label is at most this.
        alpha: level of the test, in (0, 1).
        statistic: the registered, deciding statistic, "rank" or "hits".
        ranks: rank of each key label in the suspect's answer, [num_keys] in 1..num_classes.
        num_hits: number of ranks <= top_k.
        p_value_hits: `binomial_p_value` of the hits.
        p_value_rank: `rank_p_value` of the ranks.
        created_at: time of the test, ISO 8601, UTC, such as "2025-01-31T12:00:00Z".
        software: versions, name to version.

    Raises:
        InputError: a value has the wrong type or is out of its range.
    """

    suspect: str
    suspect_sha256: str | None
    keys_commitment: str
    registration_sha256: str
    dataset_fingerprint: str
    num_keys: int
    num_classes: int
    top_k: int
    alpha: float
    statistic: Statistic
    ranks: tuple[int, ...]
    num_hits: int
    p_value_hits: float
    p_value_rank: float
    created_at: str
    software: Mapping[str, str]

    def __post_init__(self) -> None:
        _check_text("suspect", self.suspect)
        if self.suspect_sha256 is not None:
            _check_sha256("suspect_sha256", self.suspect_sha256)
        _check_sha256("keys_commitment", self.keys_commitment)
        _check_sha256("registration_sha256", self.registration_sha256)
        _check_text("dataset_fingerprint", self.dataset_fingerprint)
        _check_integer("num_keys", self.num_keys, 1, 100_000)
        _check_integer("num_classes", self.num_classes, 2, 1_000_000)
        _check_integer("top_k", self.top_k, 1, self.num_classes)
        if not isinstance(self.alpha, float) or not 0 < self.alpha < 1:
            raise InputError(f"alpha is {self.alpha!r} but must be a number above 0 and below 1.")
        if self.statistic not in get_args(Statistic):
            raise InputError(f"statistic is {self.statistic!r} but must be 'rank' or 'hits'.")
        if len(self.ranks) != self.num_keys:
            raise InputError(f"ranks has {len(self.ranks)} entries but must have {self.num_keys}, one for every key.")
        for rank in self.ranks:
            _check_integer("a rank", rank, 1, self.num_classes)
        _check_integer("num_hits", self.num_hits, 0, self.num_keys)
        for name, p_value in (("p_value_hits", self.p_value_hits), ("p_value_rank", self.p_value_rank)):
            if not isinstance(p_value, float) or not 0 < p_value <= 1:
                raise InputError(f"{name} is {p_value!r} but must be a number above 0 and at most 1.")
        _check_time(self.created_at)
        for name, version in self.software.items():
            _check_text("a software name", name)
            _check_text("a software version", version)

    @property
    def p_value(self) -> float:
        """The p-value of the registered statistic: the one that decides."""
        return self.p_value_rank if self.statistic == "rank" else self.p_value_hits

    @property
    def is_detected(self) -> bool:
        """Whether the registered test rejects its null at the registered level."""
        return self.p_value <= self.alpha

    def _repr_html_(self) -> str:
        """Returns the description as a notebook shows it."""
        return f"<pre>{html.escape(describe(self))}</pre>"

    def to_json(self) -> dict[str, Any]:
        content = {certificate_field.name: getattr(self, certificate_field.name) for certificate_field in fields(self)}
        return {**content, "format": CERTIFICATE_FORMAT, "ranks": list(self.ranks), "software": dict(self.software)}

    @classmethod
    def from_json(cls, value: object) -> Certificate:
        """The certificate in a JSON object as `to_json` writes it, its hits and p-values recomputed from its ranks.

        Raises:
            InputError: a field is missing, unknown or out of range, or a number disagrees with the ranks.
        """
        names = [certificate_field.name for certificate_field in fields(cls)]
        if not isinstance(value, dict) or set(value) != {*names, "format"}:
            raise InputError(f"The certificate must be a JSON object with only the fields format, {', '.join(names)}.")
        if value["format"] != CERTIFICATE_FORMAT:
            raise InputError(f"The certificate's format is {value['format']!r} but must be {CERTIFICATE_FORMAT!r}.")
        if not isinstance(value["ranks"], list) or not isinstance(value["software"], dict):
            raise InputError("The certificate's ranks must be a JSON list and its software a JSON object.")
        certificate = cls(**{**{name: value[name] for name in names}, "ranks": tuple(value["ranks"])})
        certificate._check_numbers()
        return certificate

    def _check_numbers(self) -> None:
        num_hits = sum(rank <= self.top_k for rank in self.ranks)
        expected = {
            "num_hits": num_hits,
            "p_value_hits": binomial_p_value(num_hits, self.num_keys, self.top_k, self.num_classes),
            "p_value_rank": rank_p_value(self.ranks, self.num_classes),
        }
        for name, number in expected.items():
            if not math.isclose(getattr(self, name), number, rel_tol=_RELATIVE_TOLERANCE):
                raise InputError(
                    f"The certificate's {name} is {getattr(self, name)} but its ranks give {number}: repeat the test."
                )


def certify(
    ranks: ArrayLike,
    *,
    suspect: str,
    suspect_sha256: str | None,
    keys_commitment: str,
    registration_sha256: str,
    dataset_fingerprint: str,
    num_keys: int,
    num_classes: int,
    top_k: int,
    alpha: float,
    statistic: Statistic,
    created_at: datetime,
    software: Mapping[str, str],
) -> Certificate:
    """The certificate of one test: the arguments repeat the registration, hits and p-values come from `ranks`.

    Args:
        ranks: int [num_keys] in 1..num_classes, as of `key_ranks`; every registered key, none left out.
        created_at: an aware time.

    Raises:
        InputError: a value is out of its range, or `ranks` does not have num_keys entries.
    """
    if created_at.tzinfo is None:
        raise InputError(f"created_at is {created_at.isoformat()} but must have a time zone: use datetime.now(UTC).")
    observed = np.asarray(ranks)
    if observed.shape != (num_keys,):
        raise InputError(f"ranks has shape {observed.shape} but must be ({num_keys},), one for every registered key.")
    p_value_rank = rank_p_value(observed, num_classes)
    num_hits = int(np.count_nonzero(observed <= top_k))
    return Certificate(
        suspect=suspect,
        suspect_sha256=suspect_sha256,
        keys_commitment=keys_commitment,
        registration_sha256=registration_sha256,
        dataset_fingerprint=dataset_fingerprint,
        num_keys=num_keys,
        num_classes=num_classes,
        top_k=top_k,
        alpha=alpha,
        statistic=statistic,
        ranks=tuple(int(rank) for rank in observed),
        num_hits=num_hits,
        p_value_hits=binomial_p_value(num_hits, num_keys, top_k, num_classes),
        p_value_rank=p_value_rank,
        created_at=created_at.astimezone(UTC).strftime(_TIME_FORMAT),
        software=dict(software),
    )


def software_versions() -> dict[str, str]:
    """The versions that a certificate's numbers depend on, name to version."""
    return {
        "taggants": taggants.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def describe(certificate: Certificate) -> str:
    """The certificate for a human reader: plain text, at most 24 lines of 90 columns."""
    c = certificate
    expected = c.num_keys * c.top_k / c.num_classes
    keys = "1 secret key" if c.num_keys == 1 else f"{c.num_keys} secret keys"
    registered = {"rank": "", "hits": "", c.statistic: "   <- registered, decides"}
    decision = "DETECTED" if c.is_detected else "NOT DETECTED"
    sign = "<=" if c.is_detected else ">"
    lines = [
        f"Suspect    {c.suspect if len(c.suspect) <= 70 else c.suspect[:67] + '...'}",
        f"Question   does it answer {keys} with their labels, out of {c.num_classes} classes?",
        *_paragraph(
            "Null       ",
            "the suspect does not depend on the key labels, so the rank of each label in its answers is uniform, "
            "independently over keys.",
        ),
        f"Hits       {c.num_hits} of {c.num_keys} labels in the top {c.top_k}; {expected:.3g} expected under the null",
        f"p (rank)   {_number(c.p_value_rank)}{registered['rank']}",
        f"p (hits)   {_number(c.p_value_hits)}{registered['hits']}",
        f"Decision   {decision}: p {sign} alpha = {c.alpha:g}",
        "",
        "What this does and does not show",
        *_paragraph(
            "- ",
            "Under the null, p <= alpha happens with probability at most alpha, in this single registered test. It "
            "assumes that the labels were drawn i.i.d. uniform, and that keys and test were committed to before the "
            "data was published. With several suspects or looks, correct for them.",
        ),
        *_paragraph("- ", "Detection does not show that every image was used, nor that the training was unlawful."),
        *_paragraph("- ", "No detection is no proof that the data was not used."),
        "",
        f"Keys {c.keys_commitment[:16]}...  registration {c.registration_sha256[:16]}...  {c.created_at}",
    ]
    return "\n".join(lines)


def _paragraph(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head))


def _number(p_value: float) -> str:
    return f"at most {P_VALUE_FLOOR:g}" if p_value <= P_VALUE_FLOOR else f"{p_value:.2e}"


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"{name} is {value!r} but must be an integer in {low}..{high}.")


def _check_sha256(name: str, value: object) -> None:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise InputError(f"{name} is {value!r} but must be 64 lower-case hex digits.")


def _check_text(name: str, value: object) -> None:
    # Printable, so that a name can neither forge a line of the description nor steer a terminal.
    if not isinstance(value, str) or not 1 <= len(value) <= 200 or not value.isprintable():
        raise InputError(f"{name} is {value!r} but must be 1 to 200 printable characters.")


def _check_time(value: object) -> None:
    try:
        if not isinstance(value, str):
            raise ValueError
        datetime.strptime(value, _TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise InputError(f"created_at is {value!r} but must be a UTC time such as '2025-01-31T12:00:00Z'.") from None
