"""Certificates of invented answers, of the formats without and with a question."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from taggants.detection import Certificate, Evidence, Registration, certify
from taggants.detection.outcome import LabelMap, PlainCovers
from taggants.detection.question import Question
from taggants.detection.registration import SigningRecord

WHEN = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)
RANKS = (1, 1, 2, 1, 1, 1, 3, 1, 2, 1, 1, 4, 1, 1, 2, 6)


def old_certificate(ranks: tuple[int, ...] = RANKS, suspect: str = "victim-0", **changes: Any) -> Certificate:
    """Of the key images alone."""
    fields: dict[str, Any] = {"statistic": "rank", "top_k": 1, "alpha": 1e-3, "num_classes": 10}
    registration = Registration(
        keys_commitment="ab" * 32, num_keys=len(ranks), dataset_fingerprint="12" * 32, **{**fields, **changes}
    )
    evidence = Evidence(registration.num_classes, ranks)
    software = {"taggants": "0.1.0"}
    return certify(
        evidence, registration, suspect=suspect, suspect_sha256="ef" * 32, created_at=WHEN, software=software
    )


def question_certificate(
    effect: float = 1.5,
    covers: tuple[int, int] | None = (64, 50),
    label_map: LabelMap | None = None,
    suspect: str = "resnet",
    num_classes: int = 20,
    **changes: Any,
) -> Certificate:
    """effect: by how many standard deviations the labels are favoured. changes: of the registration."""
    question = Question("fe" * 32, tuple(range(64)), (32, 64, 128), (1, 1, 1), 0, 64, num_classes)
    fields: dict[str, Any] = {"statistic": "question", "top_k": 1, "alpha": 1e-3, "number": 2, "keys_root": "cd" * 32}
    registration = Registration(
        keys_commitment="ab" * 32,
        num_keys=10,
        num_classes=num_classes,
        dataset_fingerprint="12" * 32,
        question=question,
        references=("surrogate-0-" + "0f" * 8,),
        image_shape=(3, 32, 32),
        **{**fields, **changes},
    )
    num_known = num_classes if label_map is None else len(label_map.known)
    random = np.random.default_rng(0)
    labels = random.integers(0, num_known, 10)
    table = np.rint(160 * random.normal(size=(10, num_known))).astype(int)
    table[range(10), labels] -= round(160 * effect)
    return certify(
        Evidence.of_table(table, labels),
        registration,
        suspect=suspect,
        suspect_sha256=None,
        created_at=WHEN,
        software={"taggants": "0.1.0"},
        answers_sha256="aa" * 32,
        signing=SigningRecord(registration.registration_sha256, "77" * 32, ("11" * 32,), ("22" * 32,)),
        covers=None if covers is None else PlainCovers(*covers),
        label_map=label_map,
        look=1,
    )
