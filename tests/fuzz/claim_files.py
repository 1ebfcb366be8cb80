"""What an owner hands to a stranger: a damaged file is read or refused, and a claim with a changed one never passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from tests.fuzz.kind import Kind
from tests.fuzz.records import with_hashes

_GOLDEN = Path(__file__).parent.parent / "golden"
# What only its owner can say, and nothing contradicts once all hashes are written anew.
_ON_TRUST = frozenset({"suspect", "suspect_sha256", "created_at", "software", "look", "certificate_sha256"})


@cache
def _claim() -> Any:
    """The golden claim with all that a stranger may have: what was published, and the classes of the covers."""
    import numpy as np

    from taggants.claims.check import ClaimFiles
    from taggants.detection import Certificate
    from tests.claims.test_golden import CLAIM

    certificate = Certificate.from_text(CLAIM.certificate)
    registration, signing = certificate.registration, certificate.signing
    assert signing is not None
    assert isinstance(CLAIM, ClaimFiles)
    return replace(
        CLAIM,
        published=(registration.registration_sha256, signing.sha256),
        cover_labels=np.arange(10),  # one of each class, in order: taggants.detection.question.balanced_covers
    )


def _passes(**changes: Any) -> bool:
    from taggants.claims.check import check_claim

    return all(finding.holds is not False for finding in check_claim(replace(_claim(), **changes)))


def _json_of_a_claim(field: str, name: str, aside: frozenset[str] = frozenset()) -> Kind:
    """A JSON file. Changed, it may pass only if it says the same, in other bytes; but for fields that are taken on trust."""

    def read(data: bytes, folder: Path) -> object:
        if not _passes(**{field: data}):
            return None
        ours, theirs = json.loads((_GOLDEN / name).read_bytes()), json.loads(data)
        for fields in (ours, theirs):
            for key in aside:
                fields.pop(key, None)
        if field == "certificate":  # of p-values some may be left out, and their last digits may differ
            ours, theirs = (
                {key: value for key, value in fields.items() if key not in ("p_values", "e_value")}
                for fields in (ours, theirs)
            )
        assert ours == theirs, "a changed file passed"
        return None

    return Kind(lambda: [(_GOLDEN / name).read_bytes()], read, is_text=True, repair=with_hashes)


def _read_answers(data: bytes, folder: Path) -> object:
    from taggants.errors import InputError
    from taggants.suspects.recorded_answers import decode_answers

    for num_classes in (10, None):
        try:
            decode_answers(data, num_classes)
        except InputError:
            continue
    (first, original), *others = _claim().answers
    passed = _passes(answers=((first, data), *others))
    assert passed == (data == original), "changed answers passed"
    return None


def _read_timestamp(data: bytes, folder: Path) -> object:
    from taggants.claims.check import check_claim

    def said(token: bytes) -> list[str]:
        (timestamp,) = _claim().timestamps
        findings = check_claim(replace(_claim(), timestamps=(replace(timestamp, data=token),)))
        return [finding.text for finding in findings if finding.subject == "time" and finding.holds]

    found = said(data)
    assert found in ([], said((_GOLDEN / "registration.tsr").read_bytes())), "a changed timestamp says another time"
    return None


def _of(path: str) -> Callable[[], list[bytes]]:
    return lambda: [(_GOLDEN / path).read_bytes()]


CLAIM_FILES: dict[str, Kind] = {
    "claim-certificate": _json_of_a_claim("certificate", "certificate-3.json", _ON_TRUST),
    "claim-registration": _json_of_a_claim("registration", "registration-2.json"),
    "claim-disclosed-keys": _json_of_a_claim("disclosure", "disclosure-1-keys.json"),
    "claim-disclosed-secret": _json_of_a_claim("disclosure", "disclosure-1-secret.json"),
    "claim-answers": Kind(lambda: [_claim().answers[0][1]], _read_answers),
    "claim-timestamp": Kind(_of("registration.tsr"), _read_timestamp),
}
