"""Crafted shards of earlier runs under the same output root, found again by all that decides their bytes.

    output root/  crafted/<address>.json   one small record: which committed attempt of which run holds the shard

A record is a hint, never a proof: the bytes are hashed and copied into the run that wants them before they count there.
Neither its name nor its content tells a key, a label or a signed row.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from taggants.crafting.plan import Commit, Plan, RunFolder, Shard
from taggants.crafting.shard import CraftingJob
from taggants.errors import InputError
from taggants.identity import canonical_json
from taggants.storage import Root, encode_json
from taggants.text import logger_of

CRAFTING_VERSION: Final = 5
"""Version of the algorithm, raised with every change of the code after which the same job gives other bytes."""

_RECORDS = "crafted"
_NUM_THREADS = 16  # each holds one shard's file at a time; the rest is waiting for S3

_log = logger_of(__name__)


def shard_addresses(job: CraftingJob, dataset_fingerprint: str, shards: Sequence[Shard]) -> dict[int, str]:
    """Returns, by shard index, the SHA-256 (64 hex digits) over all that decides the signed bytes of each shard.

    That is its sample ids, its seed, the id of its key, `CRAFTING_VERSION`, and of the job all but where things lie: how
    the dataset's content is read, the content of the surrogates in their order and of the LPIPS weights, and every field
    of the optimisation, the hardware and the companions. So a field that is added to them is part of the address at once.
    Versions of libraries are none of it: a run that goes on after an upgrade keeps its shards as well. An id hides its key, so
    that nobody can try out sample ids on an address.

    Raises:
        InputError: the file of the LPIPS weights is missing.
    """
    perception: dict[str, Any] | None = None
    if job.perception is not None:
        weights_sha256 = None
        if job.perception.name == "lpips":
            root, name = Root.of_file(job.perception.weights_uri)
            weights_sha256 = root.sha256(name)
        perception = {**described(job.perception), "weights_uri": weights_sha256}
    shared = {
        "version": CRAFTING_VERSION,
        "dataset": dataset_fingerprint,
        "how_read": described(job.source.how_read),
        "image_size": job.image_size,
        "surrogates": [sha256 for _, sha256 in job.surrogates],
        "optimisation": described(job.optimisation),
        "hardware": described(job.hardware),
        "perception": perception,
        "companions": described(job.companions),
    }
    if job.method != "matching":  # whose shards were crafted before there were others
        shared["method"] = [job.method, described(job.imprint)]
    prefix = hashlib.sha256(canonical_json(shared))
    addresses = {}
    for shard in shards:
        digest = prefix.copy()
        digest.update(canonical_json([job.key_ids[shard.key_index], shard.seed, *shard.sample_ids]))
        addresses[shard.index] = digest.hexdigest()
    return addresses


def described(value: object) -> Any:
    """Returns a setting as JSON-ready values: of a dataclass its name and fields, of a function its name.

    Equal settings give equal values in every process, other than with `repr`, which shows addresses of functions.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: described(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"is": type(value).__qualname__, **fields}
    if isinstance(value, functools.partial):
        return {"is": described(value.func), "args": described(value.args), "keywords": described(value.keywords)}
    if isinstance(value, Mapping):
        return {str(name): described(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [described(item) for item in value]
    if isinstance(value, FunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    assert value is None or isinstance(value, str | int | float | bool), f"{type(value)} has no canonical form"
    return value


@dataclass(frozen=True)
class CraftedRecord:
    """Where a crafted shard lies.

    Attributes:
        address: of the shard, as the record's own name says.
        run: name of the run folder, from the output root.
        path: of the attempt file, from the run folder.
        size_bytes, sha256, num_rows: of that file, as in its commit.
    """

    address: str
    run: str
    path: str
    size_bytes: int
    sha256: str
    num_rows: int


_RECORD = TypeAdapter(CraftedRecord)


class CraftedShards:
    """The records under an output root, as one run reads and writes them.

    Which of its shards have one is asked with a single listing of the folder: a request for each thousand records, where a
    look-up for each shard is a request of its own, most of them for nothing. At 16 at a time, and a page as slow as five
    look-ups, the listing is the faster one up to 12 records in the folder for each shard of the plan, and harmless beyond.

    Args:
        output_root: under which the run folders lie.
        run: name of this run's folder there.
        addresses: by shard index.
    """

    def __init__(self, output_root: Root, run: str, addresses: Mapping[int, str]) -> None:
        self._root = output_root
        self._run = run
        self._addresses = addresses
        self._misleading: set[int] = set()

    def take_over(self, plan: Plan, run_folder: RunFolder, committed: Mapping[int, Commit]) -> dict[int, bool]:
        """Copies into the run folder, and commits, every shard without a commit that an earlier run has crafted.

        Shards with a commit but no record, of a driver that was killed in between or of an older version, get one.

        Args:
            committed: the commits of the run folder.

        Returns: the index of each shard that is committed now; True if this call did it, False if another driver was
            faster. A record whose file is gone, damaged or no match is passed over, and replaced by `publish`.
        """
        recorded = set(self._root.list(_RECORDS))
        wanted, unrecorded = [], []
        for shard in plan.shards:
            is_recorded = self._path(shard.index) in recorded
            if shard.index in committed and not is_recorded:
                unrecorded.append(committed[shard.index])
            elif shard.index not in committed and is_recorded:
                wanted.append(shard)
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            list(threads.map(self.publish, unrecorded))
            outcomes = list(threads.map(lambda shard: self._take_over_one(plan, run_folder, shard), wanted))
        taken = {}
        for shard, outcome in zip(wanted, outcomes, strict=True):
            if outcome is None:
                self._misleading.add(shard.index)
            else:
                taken[shard.index] = outcome
        return taken

    def publish(self, commit: Commit) -> None:
        """Writes the record of a shard that this run has committed; one that leads somewhere stays as it is."""
        record = CraftedRecord(
            address=self._addresses[commit.shard_index],
            run=self._run,
            path=commit.path,
            size_bytes=commit.size_bytes,
            sha256=commit.sha256,
            num_rows=commit.num_rows,
        )
        path, content = self._path(commit.shard_index), encode_json(dataclasses.asdict(record))
        if commit.shard_index in self._misleading:
            self._root.write_bytes(path, content)
        else:
            self._root.create_bytes(path, content)

    def _take_over_one(self, plan: Plan, run_folder: RunFolder, shard: Shard) -> bool | None:
        """None: the record is of no use."""
        path = self._path(shard.index)
        try:
            record = _RECORD.validate_json(self._root.read_bytes(path), strict=True)
            data = self._root.read_bytes(f"{record.run}/{record.path}")
        except InputError as error:
            _log.warning("%s leads nowhere, so its shard is crafted anew: %s", self._root.uri_of(path), error)
            return None
        except ValidationError:
            _log.warning("%s is no whole record, so its shard is crafted anew", self._root.uri_of(path))
            return None
        is_right = (
            record.address == self._addresses[shard.index]
            and record.num_rows == len(shard.sample_ids)
            and record.size_bytes == len(data)
            and record.sha256 == hashlib.sha256(data).hexdigest()
        )
        if not is_right:
            _log.warning("%s does not match its file, so its shard is crafted anew", self._root.uri_of(path))
            return None
        return run_folder.commit(run_folder.copy_attempt(plan.plan_hash, shard, data, record.num_rows))

    def _path(self, shard_index: int) -> str:
        return f"{_RECORDS}/{self._addresses[shard_index]}.json"
