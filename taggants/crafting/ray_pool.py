"""A pool of Ray actors, each around one plain worker; lives through the loss of processes and nodes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from taggants.crafting.events import Event, Failed, Finished, Lost, Worker, reason_of
from taggants.errors import InputError
from taggants.manifest import Commit, Shard

_MAX_FAILED_BUILDS = 3

_log = logging.getLogger(__name__)


class _WorkerActor:
    """Builds its worker in `prepare`, not in `__init__`: an exception there comes back whole and kills no actor."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker = make_worker
        self._worker: Worker | None = None

    def prepare(self) -> None:
        if self._worker is None:
            self._worker = self._make_worker()

    def craft(self, shard: Shard, attempt: int) -> Commit:
        self.prepare()
        assert self._worker is not None
        return self._worker.craft(shard, attempt)


class RayPool:
    """Runs `worker.craft` in `num_workers` actors, one shard in flight in each.

    Each actor is probed before its first shard and after every loss: it gets work again when it has answered. Ray
    restarts an actor where it can; one that is dead for good is replaced. The other actors go on meanwhile. Needs a
    connected Ray.

    Args:
        make_worker: builds the plain worker inside the actor; goes there by value, so for instance a functools.partial
            of a class. It runs again after each restart.
        num_workers: the number of actors; those that the cluster has no room for yet join when it has.
        num_cpus: that Ray reserves for each.
        num_gpus: that Ray reserves for each.
    """

    def __init__(
        self, make_worker: Callable[[], Worker], *, num_workers: int, num_cpus: float = 1.0, num_gpus: float = 0.0
    ) -> None:
        assert num_workers >= 1
        self.num_slots = num_workers
        self._make_worker = make_worker
        # max_task_retries=0: whether a shard is tried again is the scheduler's decision.
        self._actor_class = ray.remote(max_restarts=-1, max_task_retries=0, num_cpus=num_cpus, num_gpus=num_gpus)(
            _WorkerActor
        )
        self._queue: deque[tuple[Shard, int]] = deque()
        self._idle: list[Any] = []
        self._busy: dict[ray.ObjectRef, tuple[Any, Shard]] = {}
        self._probes: dict[ray.ObjectRef, Any] = {}
        self._num_failed_builds = 0
        for _ in range(num_workers):
            self._probe(self._new_actor())

    def submit(self, shard: Shard, attempt: int) -> None:
        self._queue.append((shard, attempt))
        self._assign()

    def wait(self, timeout_s: float) -> list[Event]:
        """Returns: the next event; [] after `timeout_s`, or when an actor has become ready in its stead.

        Raises:
            InputError: a worker raised it, at work or while it was built.
            RuntimeError: no worker can be built, for another reason.
        """
        refs = [*self._busy, *self._probes]
        ready, _ = ray.wait(refs, num_returns=1, timeout=timeout_s) if refs else ([], [])
        events: list[Event] = []
        for ref in ready:
            if ref in self._probes:
                self._end_probe(ref)
            else:
                events.append(self._end_shard(ref))
        self._assign()
        return events

    def close(self) -> None:
        for actor in [*self._idle, *self._probes.values(), *(actor for actor, _ in self._busy.values())]:
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
            self._busy[actor.craft.remote(shard, attempt)] = (actor, shard)

    def _end_shard(self, ref: ray.ObjectRef) -> Event:
        actor, shard = self._busy.pop(ref)
        try:
            commit = ray.get(ref)
        except RayTaskError as error:
            self._idle.append(actor)
            if isinstance(error.cause, InputError):
                raise error.cause from None
            return Failed(shard.index, reason_of(error.cause))
        except (
            RayError
        ) as error:  # whatever else Ray reports is the loss of an actor, its process, its node or its answer
            _log.warning("shard %d was lost: %s", shard.index, reason_of(error))
            self._probe(actor)
            return Lost(shard.index, reason_of(error))
        self._idle.append(actor)
        return Finished(shard.index, commit)

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
