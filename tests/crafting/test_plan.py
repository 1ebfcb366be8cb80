from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taggants.crafting.plan import Commit, Plan, RunFolder, Shard
from taggants.errors import InputError
from taggants.storage import Root, encode_table

PLAN = Plan(
    config_hash="c0",
    dataset_fingerprint="d0",
    keys_commitment="k0",
    surrogate_sha256="s0",
    shards=(Shard(0, 0, (1, 2), 7), Shard(1, 1, (5,), 8), Shard(42, 1, (9, 3), 9)),
)
TABLE = pa.table({"sample_id": pa.array([1, 2], pa.int64()), "image": pa.array([b"\x00\xff", b"\x01"], pa.binary())})

texts = st.text(max_size=10)
shards = st.builds(
    Shard,
    st.integers(0, 10**6),
    st.integers(0, 100),
    st.lists(st.integers(0, 2**40), max_size=5).map(tuple),
    st.integers(),
)
plans = st.builds(
    Plan, texts, texts, texts, texts, st.lists(shards, max_size=4, unique_by=lambda shard: shard.index).map(tuple)
)


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(Root(str(tmp_path)))
    folder.register_plan(PLAN)
    return folder


def attempt(run_folder: RunFolder, shard: Shard, number: int = 1, table: pa.Table = TABLE) -> Commit:
    return run_folder.write_attempt(PLAN.plan_hash, shard, number, table)


# Records


@given(plans)
def test_plan_round_trip(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.plan_hash == plan.plan_hash


@given(st.builds(Commit, texts, st.integers(), texts, st.integers(), texts, st.integers()))
def test_commit_round_trip(commit: Commit) -> None:
    assert Commit.from_json(commit.to_json()) == commit


def test_plan_hash_is_that_of_the_canonical_text() -> None:
    plan = Plan("c", "d", "k", "s", (Shard(3, 0, (1, 2), 5),))
    text = (
        '{"config_hash":"c","dataset_fingerprint":"d","keys_commitment":"k",'
        '"shards":[{"index":3,"key_index":0,"sample_ids":[1,2],"seed":5}],"surrogate_sha256":"s"}'
    )
    assert plan.to_json() == text
    assert plan.plan_hash == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Plan) if field.name != "shards"])
def test_every_field_counts_in_the_plan_hash(name: str) -> None:
    assert dataclasses.replace(PLAN, **{name: "other"}).plan_hash != PLAN.plan_hash


@pytest.mark.parametrize("change", [{"index": 9}, {"key_index": 9}, {"sample_ids": (2, 1)}, {"seed": 6}])
def test_every_shard_field_counts_in_the_plan_hash(change: dict[str, int]) -> None:
    shards = (dataclasses.replace(PLAN.shards[0], **change), *PLAN.shards[1:])  # type: ignore[arg-type]
    assert dataclasses.replace(PLAN, shards=shards).plan_hash != PLAN.plan_hash


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"config_hash": 3},
        {"shards": [{"index": 0}]},
        {"shards": [{**dataclasses.asdict(PLAN.shards[0]), "seed": "7"}]},
    ],
)
def test_plan_of_another_form_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match="The plan is not a complete plan"):
        Plan.from_json(json.dumps({**json.loads(PLAN.to_json()), **change}))


def test_plan_with_one_index_twice_is_refused() -> None:
    shard = json.loads(PLAN.to_json())["shards"][0]
    with pytest.raises(InputError, match="two shards of the plan share an index"):
        Plan.from_json(json.dumps({**json.loads(PLAN.to_json()), "shards": [shard, shard]}))


# The plan of a run folder


def test_register_plan_again(run_folder: RunFolder, tmp_path: Path) -> None:
    run_folder.register_plan(PLAN)
    assert run_folder.read_plan() == PLAN
    assert hashlib.sha256((tmp_path / "plan.json").read_bytes()).hexdigest() == PLAN.plan_hash


def test_another_plan_is_refused_with_both_hashes(run_folder: RunFolder) -> None:
    other = dataclasses.replace(PLAN, config_hash="c1")
    with pytest.raises(InputError, match=r"plan\.json has plan hash") as refusal:
        run_folder.register_plan(other)
    assert PLAN.plan_hash in str(refusal.value)
    assert other.plan_hash in str(refusal.value)
    assert run_folder.read_plan() == PLAN


def test_half_a_plan_is_refused(run_folder: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(PLAN.to_json()[:-30])
    for call in [run_folder.read_plan, run_folder.read_commits, lambda: run_folder.register_plan(PLAN)]:
        with pytest.raises(InputError, match=r"plan\.json is not a complete plan"):
            call()


# Attempts and commits


def test_attempt_commit_read(run_folder: RunFolder) -> None:
    commits = [attempt(run_folder, shard) for shard in PLAN.shards]
    assert run_folder.read_commits() == {}
    assert all(run_folder.commit(commit) for commit in commits)
    assert run_folder.read_commits() == {0: commits[0], 1: commits[1], 42: commits[2]}
    assert run_folder.read_attempt(commits[2]).equals(TABLE)
    assert run_folder.root.list() == [
        "attempts/00000-1.parquet",
        "attempts/00001-1.parquet",
        "attempts/00042-1.parquet",
        "commits/00000.json",
        "commits/00001.json",
        "commits/00042.json",
        "plan.json",
    ]


def test_commit_describes_the_attempt_file(run_folder: RunFolder, tmp_path: Path) -> None:
    commit = attempt(run_folder, PLAN.shards[2], 3)
    data = (tmp_path / "attempts" / "00042-3.parquet").read_bytes()
    assert commit == Commit(
        PLAN.plan_hash, 42, "attempts/00042-3.parquet", len(data), hashlib.sha256(data).hexdigest(), TABLE.num_rows
    )


def test_first_commit_of_a_shard_stays(run_folder: RunFolder) -> None:
    first, second = attempt(run_folder, PLAN.shards[0], 1), attempt(run_folder, PLAN.shards[0], 2, TABLE.slice(1))
    assert run_folder.commit(first)
    assert not run_folder.commit(second)
    assert not run_folder.commit(first)
    assert run_folder.read_commits() == {0: first}


def test_of_writers_of_one_commit_exactly_one_wins(run_folder: RunFolder) -> None:
    commits = [attempt(run_folder, PLAN.shards[0], number) for number in range(8)]
    barrier = threading.Barrier(8)

    def write(commit: Commit) -> bool:
        barrier.wait()
        return run_folder.commit(commit)

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(write, commits))
    assert sum(won) == 1
    assert run_folder.read_commits() == {0: commits[won.index(True)]}


def test_attempt_is_never_written_over(run_folder: RunFolder) -> None:
    commit = attempt(run_folder, PLAN.shards[0])
    assert attempt(run_folder, PLAN.shards[0]) == commit  # the same bytes are no conflict
    with pytest.raises(FileExistsError, match="holds another result"):
        attempt(run_folder, PLAN.shards[0], table=TABLE.slice(1))
    assert run_folder.read_attempt(commit).equals(TABLE)


def test_last_attempts(run_folder: RunFolder) -> None:
    assert run_folder.last_attempts() == {}
    for shard, number in [(PLAN.shards[0], 9), (PLAN.shards[0], 10), (PLAN.shards[2], 1)]:
        attempt(run_folder, shard, number)
    run_folder.root.write_bytes("attempts/notes.txt", b"")
    assert run_folder.last_attempts() == {0: 10, 42: 1}


def test_commit_of_an_attempt_that_is_not_there_is_refused(run_folder: RunFolder, tmp_path: Path) -> None:
    commit = attempt(run_folder, PLAN.shards[0])
    elsewhere = RunFolder(Root(str(tmp_path / "another machine")))
    with pytest.raises(InputError, match=r"00000-1\.parquet .* not there; choose a run folder that all machines share"):
        elsewhere.commit(commit)
    (tmp_path / commit.path).write_bytes(b"half")
    with pytest.raises(InputError, match="not there"):
        run_folder.commit(commit)
    assert run_folder.read_commits() == {}


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_half_written_commit_is_refused(run_folder: RunFolder, tmp_path: Path, keep: int) -> None:
    run_folder.commit(attempt(run_folder, PLAN.shards[0]))
    path = tmp_path / "commits" / "00000.json"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"commits/00000\.json is not a complete commit"):
        run_folder.read_commits()


def test_commit_of_another_form_is_refused(run_folder: RunFolder, tmp_path: Path) -> None:
    run_folder.commit(attempt(run_folder, PLAN.shards[0]))
    path = tmp_path / "commits" / "00000.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_rows": "2"}))
    with pytest.raises(InputError, match=r"commits/00000\.json is not a complete commit \(num_rows is missing"):
        run_folder.read_commits()


def test_commit_of_another_plan_is_refused(run_folder: RunFolder) -> None:
    commit = run_folder.write_attempt("0" * 64, PLAN.shards[0], 1, TABLE)
    run_folder.commit(commit)
    with pytest.raises(InputError, match=r"commits/00000\.json belongs to plan 0000") as refusal:
        run_folder.read_commits()
    assert PLAN.plan_hash in str(refusal.value)


@pytest.mark.parametrize("name", ["00001.json", "0.json", "copy/00000.json", "00000.json.bak"])
def test_second_commit_of_a_shard_is_refused(run_folder: RunFolder, name: str) -> None:
    run_folder.commit(attempt(run_folder, PLAN.shards[0]))
    run_folder.root.copy("commits/00000.json", run_folder.root, f"commits/{name}")
    with pytest.raises(InputError, match=rf"commits/{name} commits shard 0, which only commits/00000\.json may"):
        run_folder.read_commits()


def test_commit_of_a_shard_outside_the_plan_is_refused(run_folder: RunFolder) -> None:
    run_folder.commit(attempt(run_folder, Shard(7, 0, (1,), 1)))
    with pytest.raises(InputError, match=r"commits/00007\.json commits shard 7, which the plan does not have"):
        run_folder.read_commits()


def test_stray_file_among_the_commits_is_refused(run_folder: RunFolder) -> None:
    run_folder.root.write_bytes("commits/notes.txt", b"hello")
    with pytest.raises(InputError, match=r"commits/notes\.txt is not a complete commit"):
        run_folder.read_commits()


def test_tampered_attempt_is_refused(run_folder: RunFolder, tmp_path: Path) -> None:
    commit = attempt(run_folder, PLAN.shards[0])
    run_folder.commit(commit)
    path = tmp_path / commit.path
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-1])
    with pytest.raises(
        InputError, match=rf"00000-1\.parquet has {len(data) - 1} bytes, but {len(data)} were committed"
    ):
        run_folder.read_attempt(commit)
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"00000-1\.parquet has SHA-256"):
        run_folder.read_attempt(commit)
    path.unlink()
    with pytest.raises(
        InputError, match=r"00000-1\.parquet was committed but is missing; restore it, or delete it and commits"
    ):
        run_folder.read_attempt(commit)


def test_commit_with_the_wrong_number_of_rows_is_refused(run_folder: RunFolder) -> None:
    commit = dataclasses.replace(attempt(run_folder, PLAN.shards[0]), num_rows=3)
    with pytest.raises(InputError, match="has 2 rows, but 3 were committed"):
        run_folder.read_attempt(commit)


def test_commit_that_points_outside_the_run_folder_is_refused(run_folder: RunFolder) -> None:
    commit = dataclasses.replace(attempt(run_folder, PLAN.shards[0]), path="../secret")
    with pytest.raises(InputError, match="names nothing inside"):
        run_folder.commit(commit)


def test_run_folder_pickles(run_folder: RunFolder) -> None:
    assert pickle.loads(pickle.dumps(run_folder)).read_plan() == PLAN


def test_equal_tables_are_equal_bytes() -> None:
    assert encode_table(TABLE, compression="zstd") == encode_table(TABLE.slice(0), compression="zstd")
