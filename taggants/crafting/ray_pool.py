"""A pool of Ray actors, each around one plain worker; lives through the loss of processes and nodes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from taggants.crafting.events import Crafted, Event, Failed, Lost, Worker, broken_off, finished, reason_of
from taggants.crafting.plan import Commit, Shard
from taggants.data.source import SampleError
from taggants.errors import InputError
from taggants.text import logger_of

_MAX_FAILED_BUILDS = 3

_log = logger_of(__name__)


class _WorkerActor:
    """Builds its worker in `prepare`, not in `__init__`: an exception there comes back whole and kills no actor."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker = make_worker
        self._worker: Worker | None = None

    def prepare(self) -> None:
        if self._worker is None:
            self._worker = self._make_worker()

    def craft(self, shard: Shard, attempt: int) -> Commit | Crafted:
        self.prepare()
        assert self._worker is not None
        return self._worker.craft(shard, attempt)


@dataclass(frozen=True)
class _Task:
    """A shard at work: by which actor, and from when (seconds of a monotonic clock)."""

    actor: Any
    shard: Shard
    started_s: float


class RayPool:
    """Runs `worker.craft` in `num_workers` actors, one shard in flight in each.

    Each actor is probed before its first shard and after every loss: it gets work again when it has answered. Ray
    restarts an actor where it can; one that is dead for good is replaced. The other actors go on meanwhile. Needs a
    connected Ray.

    A node that goes after a drain notice loses its shard as a preemption; one that goes without is a plain loss, since
    nobody can tell whether the shard brought it down.

    Args:
        make_worker: builds the plain worker inside the actor; goes there by value, so for instance a functools.partial
            of a class. It runs again after each restart.
        num_workers: the number of actors; those that the cluster has no room for yet join when it has.
        num_cpus: that Ray reserves for each.
        num_gpus: that Ray reserves for each.
        max_shard_seconds: a shard at work for longer fails and its actor's process is killed; None: no limit. The build
            of the worker does not count, except after a restart that the pool has not noticed yet.
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        *,
        num_workers: int,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        max_shard_seconds: float | None = None,
    ) -> None:
        assert num_workers >= 1
        self.num_slots = num_workers
        self._max_shard_seconds = max_shard_seconds
        self._make_worker = make_worker
        # max_task_retries=0: whether a shard is tried again is the scheduler's decision.
        self._actor_class = ray.remote(max_restarts=-1, max_task_retries=0, num_cpus=num_cpus, num_gpus=num_gpus)(
            _WorkerActor
        )
        self._queue: deque[tuple[Shard, int]] = deque()
        self._idle: list[Any] = []
        self._busy: dict[ray.ObjectRef, _Task] = {}
        self._probes: dict[ray.ObjectRef, Any] = {}
        self._num_failed_builds = 0
        for _ in range(num_workers):
            self._probe(self._new_actor())

    def submit(self, shard: Shard, attempt: int) -> None:
        self._queue.append((shard, attempt))
        self._assign()

    def wait(self, timeout_s: float) -> list[Event]:
        """Returns: the next event, or a few at once; [] after `timeout_s`, or when an actor has become ready in its stead.

        Raises:
            InputError: a worker raised it, at work or while it was built.
            RuntimeError: no worker can be built, for another reason.
        """
        refs = [*self._busy, *self._probes]
        ready, _ = ray.wait(refs, num_returns=1, timeout=self._until_overdue(timeout_s)) if refs else ([], [])
        events: list[Event] = []
        for ref in ready:
            if ref in self._probes:
                self._end_probe(ref)
            else:
                events.append(self._end_shard(ref))
        events += self._stop_overdue()
        self._assign()
        return events

    def close(self) -> None:
        for actor in [*self._idle, *self._probes.values(), *(task.actor for task in self._busy.values())]:
            if ray.is_initialized():  # a call on an actor of a closed session would start a new Ray
                ray.kill(actor)
        self._queue.clear()
        self._idle.clear()
        self._probes.clear()
        self._busy.clear()

    def _new_actor(self) -> Any:
        return self._actor_class.remote(self._make_worker)

    def _probe(self, actor: Any) -> None:
        self._probes[actor.prepare.remote()] = actor

    def _assign(self) -> None:
        while self._queue and self._idle:
            actor = self._idle.pop()
            shard, attempt = self._queue.popleft()
            self._busy[actor.craft.remote(shard, attempt)] = _Task(actor, shard, time.monotonic())

    def _until_overdue(self, timeout_s: float) -> float:
        if self._max_shard_seconds is None or not self._busy:
            return timeout_s
        oldest_s = time.monotonic() - min(task.started_s for task in self._busy.values())
        return min(timeout_s, max(0.0, self._max_shard_seconds - oldest_s))

    def _stop_overdue(self) -> list[Event]:
        if self._max_shard_seconds is None:
            return []
        events: list[Event] = []
        latest_start_s = time.monotonic() - self._max_shard_seconds
        for ref, task in list(self._busy.items()):
            if task.started_s > latest_start_s or ray.wait([ref], timeout=0)[0]:  # in time, or done after all
                continue
            del self._busy[ref]
            ray.kill(
                task.actor, no_restart=False
            )  # a call that runs cannot be cancelled; the probe waits for the restart
            self._probe(task.actor)
            reason = f"it ran longer than max_shard_seconds = {self._max_shard_seconds:g}"
            _log.warning("shard %d was stopped: %s", task.shard.index, reason)
            events.append(Failed(task.shard.index, reason))
        return events

    def _end_shard(self, ref: ray.ObjectRef) -> Event:
        task = self._busy.pop(ref)
        actor, shard = task.actor, task.shard
        try:
            result = ray.get(ref)
        except RayTaskError as error:
            self._idle.append(actor)
            if isinstance(error.cause, InputError) and not isinstance(error.cause, SampleError):
                raise error.cause from None
            return broken_off(shard, error.cause)
        except (
            RayError
        ) as error:  # whatever else Ray reports is the loss of an actor, its process, its node or its answer
            _log.warning("shard %d was lost: %s", shard.index, reason_of(error))
            self._probe(actor)
            return Lost(
                shard.index, reason_of(error), is_preemption=isinstance(error, ActorDiedError) and error.preempted
            )
        self._idle.append(actor)
        return finished(shard, result)

    def _end_probe(self, ref: ray.ObjectRef) -> None:
        actor = self._probes.pop(ref)
        try:
            ray.get(ref)
        except RayTaskError as error:
            self._probe(actor)
            if isinstance(error.cause, InputError):
                raise error.cause from None
            self._count_failed_build(error.cause)
        except ActorDiedError as error:
            _log.warning("a worker died for good and is replaced: %s", reason_of(error))
            self._probe(self._new_actor())
            if error.actor_init_failed:  # the factory did not arrive: the node lacks a module that it needs
                self._count_failed_build(error)
        except RayError:
            self._probe(actor)  # it is still on its way back
        else:
            self._num_failed_builds = 0
            self._idle.append(actor)

    def _count_failed_build(self, error: Exception) -> None:
        self._num_failed_builds += 1
        if self._num_failed_builds >= _MAX_FAILED_BUILDS:
            raise RuntimeError(f"no worker could be built: {reason_of(error)}") from error
