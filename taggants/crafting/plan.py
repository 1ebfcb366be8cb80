"""What is to do and what is done: the plan of a run, its shards, and the commits that prove them finished.

    run folder/  plan.json  attempts/00042-1.parquet  commits/00042.json

A file under attempts/ proves nothing. A shard is done when its commit is there, and the commit names the one attempt
that counts, by size and hash. None of these files is ever written over.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, TypeAdapter, ValidationError

from taggants.errors import InputError
from taggants.identity import canonical_json
from taggants.storage import Root, encode_table

_PLAN = "plan.json"
_ATTEMPTS = "attempts"
_COMMITS = "commits"
_ATTEMPT_PATH = re.compile(rf"{_ATTEMPTS}/(\d+)-(\d+)\.parquet")
_NUM_READERS = 16  # commits are small: reading them is waiting for S3

_STRICT = ConfigDict(strict=True, extra="forbid")
# To build one takes a hundred times as long as to read a commit with it.
_adapter: Any = functools.cache(TypeAdapter)


@dataclass(frozen=True)
class _Record:
    """What is stored as canonical JSON (sorted keys, no spaces); equal records give equal text."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def to_json(self) -> str:
        return canonical_json(dataclasses.asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str | bytes, name: str | None = None) -> Self:
        """Returns: the record that `to_json` wrote; name: of its file, for the error.

        Raises:
            InputError: the text is not whole, or is another record.
        """
        kind = cls.__name__.lower()
        try:
            record: Self = _adapter(cls).validate_json(text)
            return record
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            reason = f"{field} is missing, unknown or of another type" if field else first["msg"]
            raise InputError(
                f"{name or f'The {kind}'} is not a complete {kind} ({reason}); restore it, or delete it and run the command "
                "again."
            ) from None


@dataclass(frozen=True)
class Shard:
    """A piece of the work: sign these samples for this key. With its plan it determines the result, whoever does it.

    Attributes:
        index: its name within the plan.
        key_index: which key the samples carry.
        sample_ids: ordinals of dataset rows.
        seed: of all random draws of the shard.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    index: int
    key_index: int
    sample_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Plan(_Record):
    """All that a run is to do, fixed before it starts.

    Attributes:
        config_hash: of the config the plan was made from.
        dataset_fingerprint: of the data that is signed.
        keys_commitment: of the keys; the keys themselves are secret and no part of the plan.
        surrogate_sha256: of the surrogate's weights.
        shards: the work, each index once.
    """

    config_hash: str
    dataset_fingerprint: str
    keys_commitment: str
    surrogate_sha256: str
    shards: tuple[Shard, ...]

    def __post_init__(self) -> None:
        if len({shard.index for shard in self.shards}) != len(self.shards):
            raise ValueError("two shards of the plan share an index")

    @functools.cached_property
    def plan_hash(self) -> str:
        """SHA-256, as 64 hex digits, of `to_json()`, so of the bytes of plan.json."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


@dataclass(frozen=True)
class Commit(_Record):
    """The only proof that a shard is done: which attempt file holds its result.

    Attributes:
        plan_hash: of the plan the shard belongs to.
        shard_index: its index there.
        path: of the attempt file, from the run folder.
        size_bytes: of that file.
        sha256: of its content, 64 hex digits.
        num_rows: of its table.
    """

    plan_hash: str
    shard_index: int
    path: str
    size_bytes: int
    sha256: str
    num_rows: int


class RunFolder:
    """The plan, the attempts and the commits of one run, under a storage root. It pickles: workers write with it."""

    def __init__(self, root: Root) -> None:
        self.root = root

    def register_plan(self, plan: Plan) -> None:
        """Writes the plan unless it is there already; of several drivers at once, all with one plan, all succeed.

        Raises:
            InputError: the folder holds another plan.
        """
        if self.root.create_bytes(_PLAN, plan.to_json().encode(), private=True):  # names the signed rows
            return
        present = self.read_plan()
        if present != plan:
            raise InputError(
                f"{self.root.uri_of(_PLAN)} has plan hash {present.plan_hash}, but this job has {plan.plan_hash}; "
                "give it another run folder, or start it with the config, data, keys and surrogate of the first."
            )

    def read_plan(self) -> Plan:
        """Returns: the plan of the run.

        Raises:
            InputError: there is none, or it is damaged.
        """
        return Plan.from_json(self.root.read_bytes(_PLAN), self.root.uri_of(_PLAN))

    def write_attempt(self, plan_hash: str, shard: Shard, attempt: int, table: pa.Table) -> Commit:
        """Writes the result of one attempt at a shard; only `commit` makes it count.

        Returns: the commit record to hand to the driver.

        Raises:
            FileExistsError: another driver's worker wrote another result under this attempt number, which stays as it
                is: its commit may name it.
        """
        path = f"{_ATTEMPTS}/{shard.index:05d}-{attempt}.parquet"
        data = encode_table(table, compression="zstd")
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.root.create_bytes(path, data, private=True) and self.root.sha256(path) != sha256:
            raise FileExistsError(f"{self.root.uri_of(path)} holds another result of this attempt")
        return Commit(plan_hash, shard.index, path, len(data), sha256, table.num_rows)

    def copy_attempt(self, plan_hash: str, shard: Shard, data: bytes, num_rows: int) -> Commit:
        """Writes the bytes of a finished shard that another run has crafted as an attempt of this one.

        Its name holds their hash instead of an attempt number: whoever writes it at the same time writes the same.

        Returns: the commit record to hand to `commit`.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        path = f"{_ATTEMPTS}/{shard.index:05d}-from-{sha256[:16]}.parquet"
        self.root.write_bytes(path, data, private=True)
        return Commit(plan_hash, shard.index, path, len(data), sha256, num_rows)

    def commit(self, commit: Commit) -> bool:
        """Makes an attempt the result of its shard, permanently; of several at once exactly one wins.

        Returns: True if this call did it, False if the shard was committed before (with this attempt or another).

        Raises:
            InputError: the attempt file is not there, or not whole: its writer does not share this run folder.
        """
        if not self._is_there(commit):
            raise InputError(
                f"{self.root.uri_of(commit.path)} with {commit.size_bytes} bytes was written by a worker but is not "
                "there; choose a run folder that all machines share, such as s3://bucket/prefix."
            )
        return self.root.create_bytes(_commit_path(commit.shard_index), commit.to_json().encode())

    def _is_there(self, commit: Commit) -> bool:
        """Returns: whether the attempt file has the right size; one request, since drivers of many workers call it."""
        try:
            return self.root.size_bytes(commit.path) == commit.size_bytes
        except InputError:
            if self.root.exists(commit.path):  # raises itself if access is denied
                raise
            return False

    def read_commits(self) -> dict[int, Commit]:
        """Returns: the commits of the run by shard index, from one listing, each checked against the plan.

        Raises:
            InputError: a file under commits/ is damaged, of another plan, of a shard the plan has not, or a second
                commit of a shard. Attempt files are not read: `read_attempt` checks them.
        """
        plan = self.read_plan()
        indices = {shard.index for shard in plan.shards}
        paths = self.root.list(_COMMITS)
        with ThreadPoolExecutor(_NUM_READERS) as readers:
            contents = list(readers.map(self.root.read_bytes, paths))
        commits: dict[int, Commit] = {}
        for path, content in zip(paths, contents, strict=True):
            uri = self.root.uri_of(path)
            commit = Commit.from_json(content, uri)
            if commit.plan_hash != plan.plan_hash:
                raise InputError(
                    f"{uri} belongs to plan {commit.plan_hash}, but this run has {plan.plan_hash}; delete it, or move "
                    "it to its own run folder."
                )
            if commit.shard_index not in indices:
                raise InputError(f"{uri} commits shard {commit.shard_index}, which the plan does not have; delete it.")
            if path != _commit_path(commit.shard_index):
                own_path = _commit_path(commit.shard_index)
                raise InputError(f"{uri} commits shard {commit.shard_index}, which only {own_path} may; delete it.")
            commits[commit.shard_index] = commit
        return commits

    def last_attempts(self) -> dict[int, int]:
        """Returns: for each shard with an attempt file, committed or not, its highest attempt number."""
        last: dict[int, int] = {}
        for path in self.root.list(_ATTEMPTS):
            if found := _ATTEMPT_PATH.fullmatch(path):
                index, attempt = int(found[1]), int(found[2])
                last[index] = max(attempt, last.get(index, 0))
        return last

    def read_attempt(self, commit: Commit) -> pa.Table:
        """Returns: the table of a committed attempt, after its size and hash were found right.

        Raises:
            InputError: the file is missing, or is not the one that was committed.
        """
        uri = self.root.uri_of(commit.path)
        fix = f"restore it, or delete it and {_commit_path(commit.shard_index)} and run the job again"
        if not self.root.exists(commit.path):
            raise InputError(f"{uri} was committed but is missing; {fix}.")
        data = self.root.read_bytes(commit.path)
        if len(data) != commit.size_bytes:
            raise InputError(f"{uri} has {len(data)} bytes, but {commit.size_bytes} were committed; {fix}.")
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != commit.sha256:
            raise InputError(f"{uri} has SHA-256 {sha256}, but {commit.sha256} was committed; {fix}.")
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        if table.num_rows != commit.num_rows:
            raise InputError(f"{uri} has {table.num_rows} rows, but {commit.num_rows} were committed; {fix}.")
        return table


def _commit_path(shard_index: int) -> str:
    return f"{_COMMITS}/{shard_index:05d}.json"
