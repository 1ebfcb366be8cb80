"""Claims about suspects that know some classes, and about tests that were stopped, without a run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from taggants.claims.check import ClaimFiles, Finding, check_claim
from taggants.claims.disclosure import disclosure_of
from taggants.claims.evidence import check_same_answers
from taggants.detection import Certificate, Registration, certify
from taggants.detection.outcome import LabelMap, PlainCovers
from taggants.detection.question import Question
from taggants.detection.registration import SigningRecord
from taggants.keys import Choice, KeySpec, derive_keys
from taggants.suspects.answers import Answers, is_kept, question_evidence
from taggants.suspects.label_maps import held_out_half
from taggants.suspects.recorded_answers import decode_answers, encode_answers

KEYS = derive_keys(bytes(range(32)), KeySpec(8, 4, 1, 8, "block", {"cell_size": 1}))
COVER_LABELS = np.repeat(np.arange(4), 4)
QUESTION = Question("covers", tuple(range(16)), (64,), (1,), 0, 16, 6)
NUM_QUERIES = 17
MAP = LabelMap("fitted", (5, 0, None, 3))  # the suspect never answers the owner's class 2 with one class


def claim(
    label_map: LabelMap | None, num_asked: int = 8, statistic: str = "question", num_references: int = 1
) -> ClaimFiles:
    """A suspect of 6 classes that knows three of the owner's four, or all; and references with weights of SHA-256 0, 1, ..."""
    rng = np.random.default_rng(0)
    registration = Registration(
        KEYS.commitment,
        8,
        4,
        "data",
        statistic,
        1,
        0.05,
        QUESTION,
        tuple(f"reference-{index}-0123456789abcdef" for index in range(num_references)),
        None,
        (1, 8, 8),
        KEYS.root,
    )
    num_images = 16 + 8 * NUM_QUERIES
    scores = rng.random((16 + num_asked * NUM_QUERIES, 4 if label_map is None else 6))
    for row, label in enumerate(COVER_LABELS):
        known = label if label_map is None else label_map.classes[label]
        scores[row, rng.integers(0, scores.shape[1]) if known is None else known] += 2
    if label_map is not None:  # all different, so that none of them is fitted to class 2
        scores[8:12] = np.eye(6)[[5, 0, 3, 5]]
    suspect = Answers(scores.shape[1], scores, None)
    references = [Answers(4, rng.random((num_images, 4)), None) for _ in range(num_references)]
    files = [encode_answers(answers) for answers in (suspect, *references)]
    hashes = [hashlib.sha256(data).hexdigest() for data in files]
    labels = KEYS.labels[:num_asked]
    evidence = question_evidence(QUESTION, suspect, references, labels, label_map)
    counted = np.ones(16, dtype=bool) if label_map is None else held_out_half(COVER_LABELS) & (COVER_LABELS != 2)
    certificate = certify(
        evidence,
        registration,
        suspect="some",
        suspect_sha256=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        software={},
        answers_sha256=hashes[0],
        signing=SigningRecord(
            registration.registration_sha256,
            "signed",
            tuple(f"{index:064x}" for index in range(num_references)),
            tuple(hashes[1:]),
        ),
        covers=PlainCovers(int(counted.sum()), int(counted.sum())),
        label_map=label_map,
        num_left_out=int((~is_kept(labels, label_map)).sum()),
        look=1,
    )
    return ClaimFiles(
        json.dumps(certificate.to_json()).encode(),
        json.dumps(registration.to_json()).encode(),
        json.dumps(disclosure_of(registration, KEYS, range(8))).encode(),
        tuple((f"answers {index}", data) for index, data in enumerate(files)),
        cover_labels=COVER_LABELS,
    )


def found(files: ClaimFiles, subject: str) -> Finding:
    finding = next(
        finding for finding in check_claim(files) if finding.subject == subject
    )  # what stays open comes behind
    return finding


def some_keys(files: ClaimFiles, *indices: int) -> ClaimFiles:
    registration = Registration.from_text(files.registration)
    return replace(files, disclosure=json.dumps(disclosure_of(registration, KEYS, indices)).encode())


def recertified(files: ClaimFiles, **changes: Any) -> ClaimFiles:
    """The same files with a certificate whose numbers agree with changed fields."""
    certificate = replace(Certificate.from_text(files.certificate), **changes)
    fields = (
        "suspect",
        "suspect_sha256",
        "software",
        "answers_sha256",
        "signing",
        "covers",
        "label_map",
        "num_left_out",
        "look",
    )
    built = certify(
        certificate.evidence,
        certificate.registration,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        **{name: getattr(certificate, name) for name in fields},
    )
    return replace(files, certificate=json.dumps(built.to_json()).encode())


def test_a_reference_that_is_asked_twice_stands_for_no_other() -> None:
    files = claim(None, num_references=2)
    answers = [decode_answers(data, 4) for _, data in files.answers[1:]]

    def references(*places: int) -> list[Finding]:
        asked = tuple(lambda registration, images, i=place: (f"{i:064x}", answers[i]) for place in places)
        return [finding for finding in check_claim(replace(files, references=asked)) if finding.subject == "references"]

    assert [finding.holds for finding in references(0, 1)] == [True, True]
    again = references(0, 0)
    assert [finding.holds for finding in again] == [True, True, None]
    assert again[-1].text.startswith("1 of 2 were not asked again")
    uncompared = replace(files, answers=(), references=(lambda registration, images: ("0" * 64, answers[0]),))
    said = [finding.text for finding in check_claim(uncompared) if finding.subject == "references"]
    assert said[0] == "answers are compared with the recorded ones: --answers"
    assert said[1].startswith("1 of 2 were not asked again")


def test_a_label_map_and_what_it_leaves_out_are_recomputed() -> None:
    files = claim(MAP)
    assert [finding for finding in check_claim(files) if finding.holds is False] == []
    assert Certificate.from_text(files.certificate).num_left_out == int((KEYS.labels == 2).sum()) > 0
    assert found(files, "label map").holds is True
    assert found(files, "covers").holds is True
    assert found(files, "evidence").text.startswith("recomputed from the answers for all 8 keys")
    without = replace(files, cover_labels=None)
    assert found(without, "label map").holds is found(without, "covers").holds is None
    other = recertified(files, label_map=LabelMap("fitted", (0, 5, None, 3)))
    assert found(other, "label map").holds is False
    assert found(other, "evidence").holds is False
    for kind in ("names", "file"):
        assert found(recertified(files, label_map=LabelMap(kind, MAP.classes)), "label map").holds is None
    assert found(recertified(files, covers=PlainCovers(6, 5)), "covers").holds is False


def test_some_keys_are_found_among_those_kept() -> None:
    files = claim(MAP)
    left_out = np.flatnonzero(KEYS.labels == 2).tolist()
    kept = np.flatnonzero(KEYS.labels != 2).tolist()
    assert found(some_keys(files, *kept[-2:]), "evidence").text.startswith("recomputed from the answers for 2 of 8")
    assert found(some_keys(files, left_out[0], kept[0]), "evidence").holds is True
    assert found(some_keys(files, *left_out), "evidence").holds is None
    evidence = Certificate.from_text(files.certificate).evidence
    assert evidence.table is not None
    last = tuple(value - (place == 0) for place, value in enumerate(evidence.table[-1]))
    forged = recertified(files, evidence=replace(evidence, table=(*evidence.table[:-1], last)))
    assert found(forged, "evidence").holds is False
    assert f"about key {kept[-1]} give another row" in found(some_keys(forged, kept[-1]), "evidence").text
    assert "about the other keys give other rows" in found(some_keys(forged, kept[0]), "evidence").text


def test_a_stopped_test_is_checked_for_the_keys_that_were_asked() -> None:
    files = claim(None, num_asked=5, statistic="sequential")
    assert [finding for finding in check_claim(files) if finding.holds is False] == []
    assert found(files, "evidence").text.startswith("recomputed from the answers for all 5 keys")
    assert found(some_keys(files, 6, 7), "evidence").holds is None
    assert found(some_keys(files, 4, 7), "evidence").text.startswith("recomputed from the answers for 1 of 5")
    full = claim(None, statistic="sequential")
    mixed = replace(files, answers=full.answers)
    assert any("is not what the certificate names" in finding.text for finding in check_claim(mixed))


@pytest.mark.parametrize("name", ["num_refused", "look"])
def test_counts_are_compared_where_files_tell(name: str) -> None:
    files = claim(None)
    certificate = replace(Certificate.from_text(files.certificate), **{name: 3})
    changed = replace(files, certificate=json.dumps(certificate.to_json()).encode())
    refused = [finding for finding in check_claim(changed) if finding.holds is False]
    assert [("num_refused is 3 but 0" in finding.text) for finding in refused] == [True] * (name == "num_refused")


def test_a_model_that_is_asked_again_must_say_what_was_recorded() -> None:
    registration = Registration.from_text(claim(None).registration)
    rng = np.random.default_rng(1)
    scores = rng.random((16 + 8 * NUM_QUERIES, 4))
    indices = np.array([2, 5])
    rows = np.concatenate([np.arange(16), *(16 + k * NUM_QUERIES + np.arange(NUM_QUERIES) for k in indices)])
    recorded = Answers(4, scores, None)

    def again(changed: Any) -> tuple[bool | None, str]:
        return check_same_answers(registration, None, recorded, Answers(4, changed, None), indices)

    assert again(scores[rows] + 1e-9) == (True, "asked again about 2 keys, it answers as was recorded")
    bare = scores[rows].copy()
    bare[16 + NUM_QUERIES] = bare[
        16 + NUM_QUERIES, ::-1
    ]  # the bare key alone, which weighs as much as all its overlays
    assert again(bare) == (False, "asked again about key 5, it answers otherwise than was recorded")
    few = Answers(4, scores[: 16 + 2 * NUM_QUERIES], None)
    assert check_same_answers(registration, None, few, Answers(4, scores[rows], None), indices)[0] is None


def test_a_choice_of_keys_before_their_labels_were_drawn_is_said() -> None:
    files, secret = claim(None), bytes(range(32))
    registration = Registration.from_text(files.registration)
    spec = replace(KEYS.spec, choice=Choice(9, ("0" * 64,), (8, 0, 1, 2, 3, 4, 5, 6)))
    keys = derive_keys(secret, spec)
    chosen = replace(registration, keys_commitment=keys.commitment, keys_root=keys.root)
    changed = replace(
        files,
        registration=json.dumps(chosen.to_json()).encode(),
        disclosure=json.dumps(disclosure_of(chosen, keys, [], secret)).encode(),
    )
    said = [finding.text for finding in check_claim(changed) if finding.subject == "keys"]
    assert said[0].startswith("the secret gives all 8 keys")
    assert said[1].startswith("chosen out of 9: nothing shows")


def test_covers_that_somebody_chose_stay_open() -> None:
    said = [
        finding for finding in check_claim(replace(claim(None), covers_by_rule=False)) if finding.subject == "covers"
    ]
    assert [finding.holds for finding in said] == [None, True]
    assert "are not the first images of each class" in said[0].text
