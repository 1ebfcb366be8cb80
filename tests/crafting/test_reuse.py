from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from taggants.alignment import ENGINES
from taggants.augmentation import Compose, MixAugment, ThreeAugment
from taggants.crafting.driver import DriveResult, drive
from taggants.crafting.inline_pool import InlinePool
from taggants.crafting.methods import Imprint
from taggants.crafting.plan import Commit, Plan, RunFolder, Shard
from taggants.crafting.reuse import CraftedShards, described, shard_addresses
from taggants.crafting.shard import Companions, CraftingJob, Hardware, Perception
from taggants.data.layouts.parquet.source import ParquetSource
from taggants.keys import KeySpec, derive_keys
from taggants.storage import Root
from tests.crafting.optimisation import OPTIMISATION

KEYS = derive_keys(bytes(range(32)), KeySpec(3, 10, 3, 8, "block", {"cell_size": 1}))
SHARD = Shard(0, 1, (4, 7), 11)
NUM_SHARDS = 3


def job_in(folder: Path) -> CraftingJob:
    (folder / "lpips.safetensors").write_bytes(b"weights")
    return CraftingJob(
        run=Root(str(folder / "run")),
        models=Root(str(folder / "models")),
        plan_hash="p",
        source=ParquetSource(Root(str(folder / "data")), "train.parquet", channels=3),
        image_size=8,
        surrogates=(("a/model.safetensors", "a" * 64), ("b/model.safetensors", "b" * 64)),
        optimisation=dataclasses.replace(OPTIMISATION, milestones=(3, 6), engine=ENGINES["one_sided"].with_step(1e-3)),
        hardware=Hardware("cpu", "float32", False, False, 1),
        perception=Perception("lpips", 0.01, str(folder / "lpips.safetensors")),
        companions=Companions(MixAugment(10), (1, 2), (3, 4)),
        key_images=KEYS.images,
        key_labels=KEYS.labels,
        key_ids=KEYS.ids,
        method="mixed",
        imprint=Imprint(0.5, 0.7, 2),
    )


def address(job: CraftingJob, shard: Shard = SHARD, fingerprint: str = "f") -> str:
    (found,) = shard_addresses(job, fingerprint, [shard]).values()
    return found


# Addresses


def other_values(value: object) -> list[object]:
    """For each field of a frozen dataclass, the same with another value there."""
    others: dict[type, Callable[[object], object]] = {
        int: lambda v: v + 1,  # type: ignore[operator]
        float: lambda v: v / 2 + 0.125,  # type: ignore[operator]
        bool: lambda v: not v,
        str: lambda v: f"{v}x",
    }
    changed = []
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        before = getattr(value, field.name)
        after: object
        if type(before) in others:
            after = others[type(before)](before)
        elif isinstance(before, tuple):
            after = (*before, 9)
        elif field.name == "engine":
            after = ENGINES["one_sided"].with_step(2e-3)
        elif field.name == "mix":
            after = MixAugment(10, probability=0.5)
        else:
            after = ThreeAugment()
        changed.append(dataclasses.replace(value, **{field.name: after}))  # type: ignore[type-var]
    return changed


def test_every_setting_that_a_worker_reads_is_in_the_address(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    jobs = [job]
    for section in ("optimisation", "hardware", "companions", "imprint"):
        jobs += [dataclasses.replace(job, **{section: other}) for other in other_values(getattr(job, section))]
    for perception in (None, Perception("lpips", 0.02, job.perception.weights_uri), Perception("ssim", 0.01, "")):  # type: ignore[union-attr]
        jobs.append(dataclasses.replace(job, perception=perception))
    jobs += [
        dataclasses.replace(job, companions=None),
        *(dataclasses.replace(job, method=method) for method in ("matching", "imprint")),
        dataclasses.replace(job, image_size=9),
        dataclasses.replace(job, source=dataclasses.replace(job.source, channels=1)),  # type: ignore[type-var]
        dataclasses.replace(job, surrogates=job.surrogates[::-1]),
        dataclasses.replace(job, surrogates=job.surrogates[:1]),
    ]
    engines = [*ENGINES.values(), ENGINES["central"].with_step(1e-3)]
    for engine in engines:
        jobs.append(dataclasses.replace(job, optimisation=dataclasses.replace(job.optimisation, engine=engine)))
    addresses = [address(changed) for changed in jobs]
    shards = [Shard(0, 2, (4, 7), 11), Shard(0, 1, (7, 4), 11), Shard(0, 1, (4,), 11), Shard(0, 1, (4, 7), 12)]
    addresses += [address(job, shard) for shard in shards]
    addresses += [address(job, fingerprint="g")]
    assert len(addresses) > 40
    assert len(set(addresses)) == len(addresses)
    assert all(len(found) == 64 for found in addresses)


def test_an_address_stays_where_only_places_and_plans_differ(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    moved = dataclasses.replace(
        job_in(tmp_path / "elsewhere"),
        plan_hash="q",
        surrogates=tuple((f"moved/{path}", sha256) for path, sha256 in job.surrogates),
        key_images=np.zeros_like(KEYS.images),  # the id stands for them
        key_labels=np.zeros_like(KEYS.labels),
    )
    assert address(moved, dataclasses.replace(SHARD, index=5)) == address(job)
    matched = dataclasses.replace(job, method="matching")
    assert address(dataclasses.replace(matched, imprint=Imprint())) == address(matched)
    (tmp_path / "elsewhere" / "lpips.safetensors").write_bytes(b"other weights")
    assert address(moved) != address(job)


def test_an_address_depends_on_the_keys_before_but_not_on_those_after(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    more = derive_keys(bytes(range(32)), dataclasses.replace(KEYS.spec, num_keys=6))
    assert address(dataclasses.replace(job, key_ids=more.ids)) == address(job)
    assert address(dataclasses.replace(job, key_ids=derive_keys(bytes(32), KEYS.spec).ids)) != address(job)


def test_described_settings_are_the_same_in_every_process() -> None:
    engine = described(ENGINES["one_sided"].with_step(1e-3))
    assert engine["bind"]["is"] == "taggants.alignment.engines.one_sided_difference"
    assert engine["bind"]["keywords"] == {"step": 1e-3}
    assert described(Compose((ThreeAugment(),)))["stages"] == [{"is": "ThreeAugment"}]
    with pytest.raises(AssertionError, match="no canonical form"):
        described({"array": np.zeros(2)})


# Taking over


def plan_of(name: str, num_shards: int = NUM_SHARDS) -> Plan:
    return Plan(name, "d", "k", "s", tuple(Shard(i, i, (i, i + 100), 7) for i in range(num_shards)))


def addresses_of(plan: Plan, kind: str = "a") -> dict[int, str]:
    return {shard.index: f"{kind}{shard.key_index:063d}" for shard in plan.shards}


def table_of(shard: Shard) -> pa.Table:
    return pa.table({"sample_id": list(shard.sample_ids), "value": [shard.seed * i for i in shard.sample_ids]})


def run(root: Root, name: str, num_shards: int = NUM_SHARDS, kind: str = "a") -> tuple[DriveResult, list[int]]:
    """Drives a run under an output root; the second value: the shards that it crafted."""
    plan, crafted = plan_of(name, num_shards), []
    folder = RunFolder(root.child(name))

    class Worker:
        def craft(self, shard: Shard, attempt: int) -> Commit:
            crafted.append(shard.index)
            return folder.write_attempt(plan.plan_hash, shard, attempt, table_of(shard))

    earlier = CraftedShards(root, name, addresses_of(plan, kind))
    result = drive(plan, folder, InlinePool(Worker()), earlier=earlier)
    commits = folder.read_commits()
    assert all(folder.read_attempt(commits[shard.index]).equals(table_of(shard)) for shard in plan.shards)
    return result, crafted


def test_a_larger_run_crafts_what_is_new_only(root: Root) -> None:
    assert run(root, "three") == (DriveResult(3, 0, 3, {}), [0, 1, 2])
    assert run(root, "six", 6) == (DriveResult(6, 0, 3, {}, num_reused=3), [3, 4, 5])
    assert run(root, "six", 6) == (DriveResult(6, 6, 0, {}), [])
    # Self-contained: nothing of the first run is read again.
    for path in root.child("three").list():
        root.child("three").delete(path)
    assert run(root, "six", 6) == (DriveResult(6, 6, 0, {}), [])


def test_nothing_is_taken_from_another_address(root: Root) -> None:
    run(root, "one")
    assert run(root, "other", kind="b") == (DriveResult(3, 0, 3, {}), [0, 1, 2])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    run(Root(str(tmp_path)), "first")
    return tmp_path


def record(runs: Path, index: int) -> Path:
    return runs / "crafted" / f"{addresses_of(plan_of(''))[index]}.json"


def spoil_bytes(runs: Path) -> None:
    path = runs / "first" / "attempts" / "00001-1.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rewrite(runs: Path, **fields: object) -> None:
    path = record(runs, 1)
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_bytes,
        lambda runs: (runs / "first" / "attempts" / "00001-1.parquet").write_bytes(b"half"),
        lambda runs: (runs / "first" / "attempts" / "00001-1.parquet").unlink(),
        lambda runs: record(runs, 1).write_text("{"),
        lambda runs: record(runs, 1).write_bytes(b"\xff\xfe"),
        lambda runs: record(runs, 1).write_text("[]"),
        lambda runs: record(runs, 1).write_text("{}"),
        lambda runs: record(runs, 1).write_bytes(record(runs, 0).read_bytes()),
        partial(rewrite, sha256="0" * 64),
        partial(rewrite, num_rows=3),
        partial(rewrite, size_bytes=1),
        partial(rewrite, size_bytes="1"),
        partial(rewrite, run="../first"),
        partial(rewrite, path="../../first/attempts/00001-1.parquet"),
        partial(rewrite, path=""),
    ],
)
def test_a_record_that_leads_nowhere_is_passed_over_and_replaced(
    runs: Path, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    spoil(runs)
    with caplog.at_level(logging.WARNING, "taggants"):
        assert run(Root(str(runs)), "second") == (DriveResult(3, 0, 1, {}, num_reused=2), [1])
    assert [record(runs, 1).name in message for message in caplog.messages] == [True]
    assert run(Root(str(runs)), "third") == (DriveResult(3, 0, 0, {}, num_reused=3), [])


def test_a_deleted_run_is_not_missed(runs: Path) -> None:
    shutil.rmtree(runs / "first")
    assert run(Root(str(runs)), "second") == (DriveResult(3, 0, 3, {}), [0, 1, 2])
    assert run(Root(str(runs)), "third") == (DriveResult(3, 0, 0, {}, num_reused=3), [])


def test_commits_without_a_record_get_one_when_their_run_goes_on(runs: Path) -> None:
    """As after a driver was killed between the two, or in a run of an older version."""
    for index in (0, 2):
        record(runs, index).unlink()
    assert run(Root(str(runs)), "first") == (DriveResult(3, 3, 0, {}), [])
    assert run(Root(str(runs)), "second") == (DriveResult(3, 0, 0, {}, num_reused=3), [])


def test_of_two_drivers_that_take_over_at_once_one_commits(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Root(str(runs))
    plan, copy_attempt = plan_of("second"), RunFolder.copy_attempt

    def overtake(folder: RunFolder, plan_hash: str, shard: Shard, data: bytes, num_rows: int) -> Commit:
        commit = copy_attempt(folder, plan_hash, shard, data, num_rows)
        if shard.index == 2:
            assert folder.commit(copy_attempt(folder, plan_hash, shard, data, num_rows))
        return commit

    monkeypatch.setattr(RunFolder, "copy_attempt", overtake)
    assert run(root, "second") == (DriveResult(3, 1, 0, {}, num_reused=2), [])
    assert sorted(RunFolder(root.child("second")).read_commits()) == [shard.index for shard in plan.shards]


def test_a_shard_that_another_driver_committed_first_is_left_to_its_record(runs: Path) -> None:
    root, plan = Root(str(runs)), plan_of("second", 4)
    folder = RunFolder(root.child("second"))

    class Worker:
        def craft(self, shard: Shard, attempt: int) -> Commit:
            folder.commit(folder.write_attempt(plan.plan_hash, shard, attempt + 1, table_of(shard)))
            return folder.write_attempt(plan.plan_hash, shard, attempt, table_of(shard).slice(1))

    addresses = addresses_of(plan)
    result = drive(plan, folder, InlinePool(Worker()), earlier=CraftedShards(root, "second", addresses))
    assert result == DriveResult(4, 0, 1, {}, num_overtaken=1, num_reused=3)
    assert not root.exists(f"crafted/{addresses[3]}.json")


def test_a_record_says_where_and_nothing_else(runs: Path) -> None:
    content = json.loads(record(runs, 1).read_text())
    attempt = runs / "first" / "attempts" / "00001-1.parquet"
    assert content.pop("sha256") == Root(str(runs)).sha256("first/attempts/00001-1.parquet")
    assert content == {
        "address": addresses_of(plan_of(""))[1],
        "run": "first",
        "path": "attempts/00001-1.parquet",
        "size_bytes": attempt.stat().st_size,
        "num_rows": 2,
    }


def test_copies_are_for_their_owner_alone(runs: Path) -> None:
    run(Root(str(runs)), "second")
    copies = list((runs / "second" / "attempts").iterdir())
    assert len(copies) == 3
    assert {path.stat().st_mode & 0o777 for path in copies} == {0o600}


def test_the_folder_of_records_is_listed_once(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    list_files = Root.list
    monkeypatch.setattr(Root, "list", lambda root, path="": listed.append(path) or list_files(root, path))
    run(Root(str(runs)), "second")
    assert listed.count("crafted") == 1
