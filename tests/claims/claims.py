"""A small claim from the command line: keys from public randomness, a signed run with a question, and a suspect that knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from taggants.cli import main
from taggants.keys import key_file
from taggants.run import Run
from taggants.stages.verify import verify
from taggants.suspects import CallableSuspect
from tests.jobs.running import settings_in

QUESTION = (
    "detection.statistic=question",
    "detection.question={num_covers: 10, amplitudes: [1/4]}",
    "detection.alpha=0.04",
    "detection.num_looks=2",
)
VALUE = "c1" * 32


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def signed_run(folder: Path) -> Run:
    """Returns a crafted run of 3 keys, 10 classes and 11 queries a key."""
    config = words(*settings_in(folder, *QUESTION))
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # so that the references' habits, and the forged verdicts, are always the same
        patch.setattr(key_file, "secrets", SimpleNamespace(token_bytes=lambda count: bytes([7]) * count))
        assert main(["keys", "commit", *config, "--source", "drand mainnet", "--round", "4000000"]) == 0
    assert main(["keys", "draw", *config, VALUE]) == 0
    assert main(["craft", *config]) == 0
    (path,) = (folder / "runs").glob("*/plan.json")
    return Run.open(str(path.parent))


class Knowing(CallableSuspect):
    """Knows the class of each plain cover and the label of each key, which it finds by the order of the queries."""

    def __init__(self, run: Run) -> None:
        labels = run.sources[1].labels()[list(run.registration.question.cover_ids)].tolist()  # type: ignore[union-attr]
        self.left: list[int] = labels + np.repeat(run.keys.labels, 11).tolist()
        super().__init__(self._predict, "knowing", 10)

    def _predict(self, images: np.ndarray) -> np.ndarray:
        own = [self.left.pop(0) for _ in images]
        scores = np.random.default_rng(len(self.left)).random((len(images), 10))
        scores[range(len(images)), own] += 1
        return scores


def claim(run: Run, folder: Path) -> dict[str, Any]:
    """Returns the paths of a claim's files: certificate, registration, disclosures of all, of some and by the secret, answers."""
    certificate = verify(run, Knowing(run))
    assert certificate.is_detected
    here, uri = Path(run.uri), run.uri
    for name, which in (("all", ["--keys", "all"]), ("some", ["--keys", "1-2"]), ("secret", ["--secret"])):
        assert main(["disclose", uri, *which, "-o", str(folder / f"{name}.json")]) == 0
    assert certificate.signing is not None
    hashes: Sequence[str | None] = (certificate.answers_sha256, *certificate.signing.reference_answers)
    return {
        "certificate": here / "certificates" / "knowing.json",
        "registration": here / "registration.json",
        **{name: folder / f"{name}.json" for name in ("all", "some", "secret")},
        "answers": [here / "answers" / f"{sha256}.parquet" for sha256 in hashes],
    }
