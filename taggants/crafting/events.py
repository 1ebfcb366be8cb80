"""What passes between driver, scheduler, pool and worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from taggants.crafting.plan import Commit, Shard
from taggants.text import one_line


@dataclass(frozen=True)
class Crafted:
    """What a worker returns for a shard.

    Attributes:
        commit: the record of the attempt file it wrote whole.
        alignment: the cosine it reached, in [-1, 1], for those who watch; None if the worker cannot tell.
    """

    commit: Commit
    alignment: float | None = None


@dataclass(frozen=True)
class Finished:
    """A worker wrote the whole result of a shard; `commit` is the record of it, not yet committed."""

    shard_index: int
    commit: Commit
    alignment: float | None = None


@dataclass(frozen=True)
class Failed:
    """The shard's own work raised an error: it may well do so again anywhere."""

    shard_index: int
    reason: str


@dataclass(frozen=True)
class Lost:
    """The machinery under the shard went away (process, node, network, storage): no fault of the shard.

    `is_preemption`: the node was taken back after a notice, as spot machines are, so nothing is wrong with it either.
    """

    shard_index: int
    reason: str
    is_preemption: bool = False


@dataclass(frozen=True)
class Submit:
    """Hand this attempt at a shard to the pool; no two attempts at a shard have one number."""

    shard_index: int
    attempt: int


@dataclass(frozen=True)
class GiveUp:
    """Stop trying this shard in this run."""

    shard_index: int
    reason: str


Event: TypeAlias = Finished | Failed | Lost
Decision: TypeAlias = Submit | GiveUp


class Worker(Protocol):
    """Does the work of one shard at a time; holds nothing that cannot be built again from storage."""

    def craft(self, shard: Shard, attempt: int) -> Commit | Crafted:
        """Returns: the record of the attempt file it wrote whole, alone or with what it can tell of it.

        Raises:
            InputError: the job cannot succeed for anybody, so it stops. Any other exception, and a SampleError (an image
                that cannot be decoded), ends this attempt only, an OSError (a full disk, a storage that does not answer)
                as a loss.
        """


class Pool(Protocol):
    """Runs attempts somewhere. Every submitted attempt comes back as exactly one event, in any order."""

    num_slots: int

    def submit(self, shard: Shard, attempt: int) -> None:
        """Takes an attempt without waiting for it; at most `num_slots` are open at a time."""

    def wait(self, timeout_s: float) -> list[Event]:
        """Returns: events since the last call; [] if none came within `timeout_s` or so."""

    def close(self) -> None:
        """Stops all work, and gives back what the pool holds; may be called twice."""


def finished(shard: Shard, result: Commit | Crafted) -> Finished:
    """Returns: the event of what a worker handed back."""
    crafted = result if isinstance(result, Crafted) else Crafted(result)
    return Finished(shard.index, crafted.commit, crafted.alignment)


def broken_off(shard: Shard, error: Exception) -> Failed | Lost:
    """Returns: the event of an exception that left a worker.

    An OSError is a loss: the disk, the network or the storage under the shard. Pixels that cannot be decoded are none.
    """
    return (Lost if isinstance(error, OSError) else Failed)(shard.index, reason_of(error))


def reason_of(error: BaseException) -> str:
    """Returns: an exception as one line, "type: message"."""
    return one_line(f"{type(error).__name__}: {' '.join(str(error).split())}")
