"""Registrations for tests."""

from __future__ import annotations

from typing import Any

from taggants.detection import Registration


def registered(**changes: Any) -> Registration:
    fields: dict[str, Any] = {
        "keys_commitment": "ab" * 32,
        "num_keys": 10,
        "num_classes": 1000,
        "dataset_fingerprint": "12" * 32,
        "statistic": "rank",
        "top_k": 10,
        "alpha": 1e-6,
    }
    return Registration(**{**fields, **changes})
