"""A statistic, a key family, a method and a kind of suspect, defined here, registered, and used from craft to verify.

Each is one definition and one registration: what else would have to change for it is a fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from taggants.config import load_config
from taggants.crafting.methods import METHODS, Method, SetToSign
from taggants.crafting.signing_set import CraftedSet
from taggants.detection import STATISTICS, Certificate, Evidence, Registration, certify, exact_p_value
from taggants.errors import InputError
from taggants.export import verify_export
from taggants.keys.families import KEY_FAMILIES, KeyFamily, Parameter, TestVector
from taggants.registry import Registry
from taggants.run import Run
from taggants.suspects import SUSPECT_KINDS, CallableSuspect, Owner, SuspectDescription, SuspectKind
from tests.detection.registrations import registered
from tests.jobs.running import exit_code, settings_in
from tests.keys import test_families


@pytest.fixture(autouse=True)
def tables_are_left_as_they_were() -> Iterator[None]:
    tables: list[Registry[Any]] = [STATISTICS, KEY_FAMILIES, METHODS, SUSPECT_KINDS]
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table._entries = entries


def crafted(folder: Path, *settings: str) -> Run:
    settings_all = settings_in(folder, "evaluation.num_controls=1", *settings)
    assert exit_code("craft", settings_all) == 0
    run = Run(load_config(None, settings_all))
    assert verify_export(run.root.child("signed")).num_rows == 1297
    return run


def certificates_of(run: Run, name: str) -> list[Certificate]:
    paths = [path for path in run.root.list("certificates") if path.split("/")[1].startswith(name)]
    return [Certificate.from_text(run.root.read_bytes(path)) for path in paths]


@dataclass(frozen=True)
class WorstRank:
    """The largest of all ranks: P(all ranks <= r) = (r / C)^K."""

    null: str = "the suspect does not depend on the key labels, so even its worst rank is that of chance"
    needs: str = "ranks"

    def p_value(self, evidence: Evidence, registration: Registration) -> float:
        return float((max(evidence.ranks) / evidence.num_classes) ** len(evidence.ranks))


def test_a_statistic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    STATISTICS.register("worst", WorstRank())
    run = crafted(tmp_path, "detection.statistic=worst")
    (certificate,) = certificates_of(run, "control-0")
    assert certificate.registration.statistic == "worst"
    assert certificate.p_value == pytest.approx((max(certificate.ranks) / 10) ** 3)
    assert set(certificate.p_values) == {"rank", "hits", "worst"}
    shown = capsys.readouterr().out
    assert "even its worst rank is that of chance." in " ".join(shown.split())
    assert re.search(r"p \(worst\)  ?[0-9.e+-]+ +<- registered, decides", shown)
    assert "test    worst statistic" in shown


@dataclass(frozen=True)
class TableSum:
    """The sum of the values behind the ranks."""

    null: str = "the values do not depend on the key labels"
    needs: str = "table"

    def p_value(self, evidence: Evidence, registration: Registration) -> float:
        return exact_p_value(np.array(evidence.table), evidence.positions)


def test_a_statistic_that_needs_more_than_the_answers_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a question it stays out of certificates, and cannot be registered."""
    STATISTICS.register("sum", TableSum())
    run = crafted(tmp_path)
    (certificate,) = certificates_of(run, "control-0")
    assert set(certificate.p_values) == {"rank", "hits"}
    capsys.readouterr()
    again = settings_in(tmp_path, "evaluation.num_controls=1", "detection.statistic=sum")
    assert exit_code("craft", again) == 2
    assert "detection.statistic=sum needs a question" in capsys.readouterr().err


def test_a_table_in_a_certificate_is_checked() -> None:
    STATISTICS.register("sum", TableSum())
    random = np.random.default_rng(0)
    evidence = Evidence.of_table(random.integers(0, 300, (4, 12)), random.integers(0, 12, 4))
    registration = registered(num_keys=4, num_classes=12, statistic="sum", alpha=0.05)
    certificate = certify(
        evidence, registration, suspect="a", suspect_sha256=None, created_at=datetime.now(UTC), software={}
    )
    text = json.dumps(certificate.to_json())
    assert Certificate.from_text(text) == certificate
    content = json.loads(text)
    content["evidence"]["table"][0][0] -= 200
    with pytest.raises(InputError, match=r"p-value of '(question|sum)' is .* but its evidence gives"):
        Certificate.from_json(content)


def stripes(stream: NDArray[np.uint8], channels: int, image_size: int, period: int) -> NDArray[np.uint8]:
    shape = (channels, image_size, image_size)
    return np.broadcast_to(stream[np.arange(image_size) // period], shape)


STRIPES = KeyFamily(
    description="vertical stripes",
    parameters={"period": Parameter(2, 1, 8, "pixels of one stripe")},
    num_bytes=lambda channels, image_size, period: image_size,
    image=stripes,
    test_vectors=(TestVector(1, 8, {"period": 2}, "3aa14bfba02ea8b3d4dbb3399200a96a8ac48f463f674b4541355fd58e777608"),),
)


def test_a_key_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    KEY_FAMILIES.register("stripes", STRIPES)
    test_families.test_a_family_gives_the_images_that_it_declares("stripes")
    run = crafted(tmp_path, "keys.family=stripes", "keys.period=3")
    assert run.keys.spec.parameters == {"period": 3}
    assert (run.keys.images == run.keys.images[:, :, :1, :]).all()
    assert json.loads((tmp_path / "secrets" / "digits.json").read_text())["spec"]["period"] == 3
    (certificate,) = certificates_of(run, "control-0")
    assert certificate.registration.keys_commitment == run.keys.commitment
    assert "3 stripes keys" in capsys.readouterr().out
    assert load_config(None, settings_in(tmp_path, "keys.family=stripes")).keys.parameters == {"period": 2}
    for setting, sentence in (
        ("keys.cell_size=1", "'cell_size' does not exist with family stripes; `taggants config keys`"),
        ("keys.period=9", r"period is 9 but must be an integer in 1..8"),
    ):
        assert exit_code("keys", settings_in(tmp_path, "keys.family=stripes", setting)) == 2
        assert sentence in capsys.readouterr().err


def brightened(given: SetToSign) -> CraftedSet:
    images = given.signing_set.images
    signed = (images.int() + given.optimisation.levels).clamp(max=255).to(images.dtype)
    return CraftedSet(signed, signed, alignment=None, alignment_before=None, history=())


def test_a_method(tmp_path: Path) -> None:
    METHODS.register("brighten", Method("all pixels brighter", lambda imprint: 0.0, brightened))
    run = crafted(tmp_path, "crafting.method=brighten", "signing.selection=random", "crafting.epsilon=8/255")
    (certificate,) = certificates_of(run, "control-0")
    assert not certificate.is_detected
    signed = [i for shard in run.folder.read_plan().shards for i in shard.sample_ids]
    before, after = (
        source.read_images(signed).astype(int)
        for source in (run.sources[0], run.sources[0].at(run.root.child("signed")))
    )
    assert (after == np.minimum(before + 8, 255)).all()


class AlwaysDescription(SuspectDescription):
    label: int

    def open(self, owner: Owner) -> CallableSuspect:
        return CallableSuspect(
            lambda images: np.full(len(images), self.label), f"always-{self.label}", owner.num_classes
        )


def fields_of(text: str) -> dict[str, Any] | None:
    return {"label": text.removeprefix("always:")} if text.startswith("always:") else None


def test_a_kind_of_suspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SUSPECT_KINDS.register("always", SuspectKind(AlwaysDescription, "always:LABEL", fields_of))
    run = crafted(tmp_path)
    (tmp_path / "suspect.yaml").write_text("kind: always\nlabel: 4\nname: as-described\n")
    suspects = f"verify.suspects=['always:3', '{tmp_path / 'suspect.yaml'}']"
    settings = settings_in(tmp_path, "evaluation.num_controls=1", suspects)
    capsys.readouterr()
    assert exit_code("verify", settings) == 0
    (certificate,) = certificates_of(run, "always-3")
    assert certificate.ranks == tuple(1 if label == 3 else 10 for label in run.keys.labels)
    assert "as-described" in capsys.readouterr().out
    assert exit_code("verify", [*settings[:-1], "verify.suspects=['never:3']"]) == 2
    assert "'never:3' is not in a known form; write one of: path or s3:// URI" in capsys.readouterr().err
