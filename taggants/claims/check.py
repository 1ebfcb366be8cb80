"""Checks a claim line by line from the files that its owner hands over: what holds, what does not, and what stays open.

Nothing here needs torch, Ray or the owner's configuration.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from taggants.claims.disclosure import DisclosedKeys, read_disclosure
from taggants.claims.evidence import check_covers, check_evidence, check_label_map, check_same_answers
from taggants.claims.timestamps import Timestamp, check_timestamp, is_dated_by
from taggants.detection import Certificate, Registration
from taggants.detection.statistics import STATISTICS
from taggants.errors import InputError
from taggants.suspects.answers import Answers, question_evidence
from taggants.suspects.recorded_answers import decode_answers

_T = TypeVar("_T")
Asker: TypeAlias = Callable[[Registration, NDArray[np.uint8]], tuple[str | None, Answers]]
"""From images of keys to what is known of a model's weights, as a SHA-256 or None, and its answers: to the plain covers, then to
the queries of each key in turn."""
_LONGEST = 400
_CLOCKS_DIFFER = timedelta(days=1)


@dataclass(frozen=True)
class Finding:
    """One line of a check. holds: False where the claim is refused; None where a file or fact is missing that would tell."""

    subject: str
    holds: bool | None
    text: str


@dataclass(frozen=True)
class ClaimFiles:
    """What a claim is checked by; all but the first two may be missing.

    Attributes:
        certificate, registration, disclosure: contents of the JSON files.
        answers: contents of the files of recorded answers, by their paths.
        timestamps: of the registration or the signing record.
        published: numbers that the owner published, each the SHA-256 of the registration or of the signing record.
        cover_labels: class of each registered cover, int64 [num_covers].
        covers_by_rule: whether the registered covers are the first images of each class.
        suspect, references: ask a model about disclosed keys once more.
    """

    certificate: bytes
    registration: bytes
    disclosure: bytes | None = None
    answers: tuple[tuple[str, bytes], ...] = ()
    timestamps: tuple[Timestamp, ...] = ()
    published: tuple[str, ...] = ()
    cover_labels: NDArray[np.int64] | None = None
    covers_by_rule: bool | None = None
    suspect: Asker | None = None
    references: tuple[Asker, ...] = ()


def check_claim(files: ClaimFiles) -> list[Finding]:
    """Returns what was found of each part of a claim, in the order in which a reader asks."""
    check = _Check(files)
    certificate = check.read("certificate", lambda: Certificate.from_text(files.certificate))
    if certificate is not None:
        check.say("certificate", True, _outcome(certificate))
        num_tests = certificate.registration.num_suspects * certificate.registration.num_looks
        if certificate.look is not None:
            text = f"it is test {certificate.look} of its run by the owner's count, and alpha was registered for {num_tests}"
            check.say("certificate", None, f"{text}: ask what came of the others")
        if datetime.fromisoformat(certificate.created_at) > datetime.now(UTC) + _CLOCKS_DIFFER:
            check.say("certificate", False, f"created_at is {certificate.created_at}, which is yet to come")
    registration = check.read("registration", lambda: Registration.from_text(files.registration))
    if registration is not None and certificate is not None:
        check.same_registration(certificate.registration, registration)
    numbers = _numbers(registration, certificate)
    check.published(numbers)
    if registration is None:
        return check.findings
    check.registered(registration)
    check.dated(numbers, certificate)
    keys = check.disclosed(registration)
    if certificate is None or certificate.registration != registration:
        return check.findings
    recorded = None if registration.question is None else check.recorded(certificate)
    if registration.question is None:
        check.say("evidence", None, "without a question no answers were recorded: its ranks are taken on trust")
    if recorded is not None:
        check.evidence(certificate, keys, recorded)
    check.asked_again(certificate, keys, recorded)
    return check.findings


def _outcome(certificate: Certificate) -> str:
    registered, p = certificate.registration, certificate.p_value
    sign = "<=" if certificate.is_detected else ">"
    return (
        f"its evidence gives p ({registered.statistic}) = {p:.3g} {sign} {registered.level:.3g}, the registered level: "
        f"{certificate.verdict}"
    )


def _numbers(registration: Registration | None, certificate: Certificate | None) -> dict[str, str]:
    """What the owner publishes, by its name."""
    numbers = {} if registration is None else {"the registration": registration.registration_sha256}
    if certificate is not None and certificate.signing is not None:
        numbers["the signing record"] = certificate.signing.sha256
    if registration is not None and registration.randomness is not None:
        numbers["the commitment to the secret"] = registration.randomness.commitment_sha256
    return numbers


@dataclass
class _Check:
    """The findings so far."""

    files: ClaimFiles
    findings: list[Finding] = field(default_factory=list)

    def say(self, subject: str, holds: bool | None, text: str) -> None:
        self.findings.append(Finding(subject, holds, text))

    def read(self, subject: str, read: Callable[[], _T]) -> _T | None:
        """Returns what a reader returns; None, and says why, where it refuses."""
        try:
            return read()
        except InputError as error:
            self.say(subject, False, str(error))
            return None

    def judge(self, subject: str, judge: Callable[[], tuple[bool | None, str]], head: str = "") -> None:
        """Says what a judgement says; no, and why, where it cannot be made of the files."""
        try:
            holds, text = judge()
        except InputError as error:
            holds, text = False, str(error)
        self.say(subject, holds, head + text)

    def same_registration(self, embedded: Registration, given: Registration) -> None:
        for part in fields(Registration):
            ours, theirs = getattr(embedded, part.name), getattr(given, part.name)
            if ours != theirs:
                text = f"{part.name} is {ours!r} in the certificate but {theirs!r} in the registration"
                text = text if len(text) < _LONGEST else f"{part.name} differs between certificate and registration"
                return self.say("registration", False, text)
        self.say("registration", True, f"the certificate holds the same one, {given.registration_sha256}")

    def published(self, numbers: dict[str, str]) -> None:
        for number in self.files.published:
            if number in numbers.values():
                name = next(name for name, found in numbers.items() if found == number)
                self.say("published", True, f"{number} is the number of {name}")
            else:
                self.say("published", False, f"{number} is not the number of {' or '.join(numbers) or 'anything here'}")
        for name, number in numbers.items():
            if number not in self.files.published:
                text = f"files can be made anew: look up that {number} was published as the number of {name}"
                self.say("published", None, text)

    def registered(self, registration: Registration) -> None:
        if registration.demonstration:
            self.say("keys", False, "they come from the public demonstration secret: anybody can make this claim")
        if self.files.covers_by_rule is not None:
            text = "the registered ones are the first images of each class, so nobody chose them"
            if not self.files.covers_by_rule:
                text = "the registered ones are not the first images of each class: ask who chose them, knowing which models"
            self.say("covers", self.files.covers_by_rule or None, text)
        text = f"it is number {registration.number} of its secret by the owner's count"
        self.say("registration", None, f"{text}: ask for the others, those of other secrets, and what came of them")

    def dated(self, numbers: dict[str, str], certificate: Certificate | None) -> None:
        tested_at = None if certificate is None else datetime.fromisoformat(certificate.created_at)
        for timestamp in self.files.timestamps:
            judge = functools.partial(check_timestamp, timestamp, numbers, tested_at)
            self.judge("time", judge, f"{timestamp.name}: ")
        if not self.files.timestamps:
            self.say("time", None, "no timestamp was given: when it was registered is the owner's word")
            return
        for name, number in numbers.items():
            if not any(is_dated_by(timestamp, number) for timestamp in self.files.timestamps):
                self.say("time", None, f"no timestamp of {name} was given: when it was made is the owner's word")
        if tested_at is not None:
            text = f"that the test was at {tested_at:%Y-%m-%d %H:%M:%S} UTC is the owner's word"
            self.say("time", None, f"{text}: compare the dates with the first day on which the suspect was known")

    def disclosed(self, registration: Registration) -> DisclosedKeys | None:
        content = self.files.disclosure
        if content is None:
            self.say("keys", None, "no disclosure was given: keys and labels are taken on trust")
            return None
        keys = self.read("keys", lambda: read_disclosure(content, registration))
        if keys is None:
            return None
        if keys.spec is None:
            text = f"{len(keys.indices)} of {registration.num_keys} keys and their labels are proved by keys_root"
            self.say("keys", True, text)
            self.say(
                "labels",
                None,
                "only the secret shows that they were drawn as they should be, and that it is not a public one",
            )
            return keys
        self.say("keys", True, f"the secret gives all {registration.num_keys} keys and keys_commitment")
        drawn, choice = registration.randomness, keys.spec.choice
        if drawn is None and choice is not None:
            text = f"chosen out of {choice.pool}: nothing shows that the choice by networks was made without a look at labels"
            self.say("keys", None, text)
        if drawn is None:
            text = "derived from the secret alone: nothing shows that secrets were not tried until their labels suited"
            self.say("labels", None, text)
            return keys
        self.say("labels", True, "derived from the secret that was committed to and the registered public value")
        text = (
            f"look up that {drawn.source} gave {drawn.value} in round {drawn.round}, after the commitment was published, and "
            "that no other commitment was"
        )
        self.say("labels", None, text)
        return keys

    def recorded(self, certificate: Certificate) -> list[Answers] | None:
        """Returns the recorded answers of the suspect and of the references; None if one is missing."""
        signing, registration = certificate.signing, certificate.registration
        assert signing is not None, "checked with the certificate"
        assert certificate.answers_sha256 is not None, "checked with the certificate"
        names = dict(zip(signing.reference_answers, registration.references, strict=True))
        names[certificate.answers_sha256] = "the suspect"
        found: dict[str, Answers] = {}
        others: list[tuple[str, str]] = []
        for path, data in self.files.answers:
            sha256 = hashlib.sha256(data).hexdigest()
            if sha256 not in names:
                others.append((path, sha256))
                continue
            own_classes = sha256 == certificate.answers_sha256 and certificate.label_map is not None
            num_classes = None if own_classes else registration.num_classes
            most = registration.num_images
            answers = self.read("answers", functools.partial(decode_answers, data, num_classes, most))
            if answers is not None:
                found[sha256] = answers
        missing = [name for sha256, name in names.items() if sha256 not in found]
        if others and not missing:  # a run folder holds those of other suspects, too
            self.say("answers", None, f"{len(others)} more files are of other suspects, and were not needed")
        elif others:
            for path, sha256 in others:
                self.say("answers", False, f"{path} is not what the certificate names: its SHA-256 is {sha256}")
        if missing:
            text = f"those of {', '.join(missing)} are not here: the evidence is taken on trust"
            self.say("answers", None, text)
            return None
        self.say(
            "answers",
            True,
            f"those of the suspect and of {len(registration.references)} references have the hashes named",
        )
        return [found[sha256] for sha256 in (certificate.answers_sha256, *signing.reference_answers)]

    def evidence(self, certificate: Certificate, keys: DisclosedKeys | None, recorded: list[Answers]) -> None:
        suspect, labels = recorded[0], self.files.cover_labels
        if suspect.num_unusable != certificate.num_refused:
            text = (
                f"num_refused is {certificate.num_refused} but {suspect.num_unusable} answers are refused or hold NaN"
            )
            self.say("answers", False, text)
        if certificate.label_map is not None:
            self.judge("label map", lambda: check_label_map(certificate, suspect, labels))
        question = certificate.registration.question
        has_covers = question is not None and bool(question.cover_ids)
        if has_covers and labels is None:
            text = "whether plain covers were answered with their class shows with their dataset: --covers"
            self.say("covers", None, text)
        elif has_covers and labels is not None:
            self.judge("covers", lambda: check_covers(certificate, suspect, labels))
        if keys is None:
            self.say("evidence", None, "it belongs to the keys, which are not disclosed")
            return
        self.judge("evidence", lambda: check_evidence(certificate, keys, recorded))
        num_asked = len(certificate.ranks) + certificate.num_left_out
        num_others = num_asked - int(np.count_nonzero(keys.indices < num_asked))
        if num_others:
            text = f"ranks of the other {num_others} of {num_asked} keys, and so p, are taken on trust"
            self.say("evidence", None, f"{text}: ask for all keys, since the owner chose which to show")

    def asked_again(self, certificate: Certificate, keys: DisclosedKeys | None, recorded: list[Answers] | None) -> None:
        """Asks the suspect and references again, about the disclosed keys."""
        if self.files.suspect is None:
            self.say("suspect", None, "it was not asked again: --suspect")
        asked: set[int] = set()
        if keys is not None:
            for reference in self.files.references:
                ask = functools.partial(_asked_reference, reference, certificate, keys, recorded, asked)
                self.judge("references", ask)
        names = certificate.registration.references
        if num_others := len(names) - len(asked):
            text = f"{num_others} of {len(names)} were not asked again, so that their answers are the owner's word: --reference"
            self.say("references", None, text)
        if keys is None:
            if self.files.suspect is not None or self.files.references:
                self.say("suspect", None, "nobody can be asked without keys: --disclosure")
        elif self.files.suspect is not None:
            self.judge("suspect", functools.partial(_asked_suspect, self.files.suspect, certificate, keys, recorded))


def _asked_reference(
    reference: Asker, certificate: Certificate, keys: DisclosedKeys, recorded: list[Answers] | None, asked: set[int]
) -> tuple[bool | None, str]:
    """asked: gets the places of the reference among the registered ones."""
    sha256, answers = reference(certificate.registration, keys.images)
    weights = () if certificate.signing is None else certificate.signing.reference_weights
    if sha256 not in weights:
        return False, f"the model with SHA-256 {sha256} is none of the references"
    places = [index for index, found in enumerate(weights) if found == sha256]
    asked.update(places)  # the record names one file of answers for all of them
    if recorded is None:
        return None, "answers are compared with the recorded ones: --answers"
    place = places[0]
    holds, text = check_same_answers(certificate.registration, None, recorded[1 + place], answers, keys.indices)
    return holds, f"{certificate.registration.references[place]}: {text}"


def _asked_suspect(
    suspect: Asker, certificate: Certificate, keys: DisclosedKeys, recorded: list[Answers] | None
) -> tuple[bool | None, str]:
    registration, label_map = certificate.registration, certificate.label_map
    sha256, answers = suspect(registration, keys.images)
    if sha256 != certificate.suspect_sha256:
        return False, f"suspect_sha256 is {certificate.suspect_sha256} but this one's is {sha256}: it is another model"
    if registration.question is None:
        again = answers.evidence(keys.labels)
    elif recorded is None:
        return None, "its answers are compared with the recorded ones: --answers"
    else:
        holds, text = check_same_answers(registration, label_map, recorded[0], answers, keys.indices)
        if not holds or len(keys.indices) < registration.num_keys:
            return holds, text
        again = question_evidence(registration.question, answers, recorded[1:], keys.labels, label_map)
    p_value = STATISTICS.find(registration.statistic).p_value(again, registration)
    text = f"asked again, it gives p = {p_value:.3g}; the certificate says {certificate.p_value:.3g}"
    return (p_value <= registration.level) == certificate.is_detected, text
