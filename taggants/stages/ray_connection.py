"""The connection to Ray of a run that needs it; Ray is imported for no other."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from taggants.config import Config
from taggants.errors import InputError


@contextmanager
def ray_cluster(config: Config) -> Iterator[None]:
    """Connects to the cluster that RAY_ADDRESS names (set within `ray job submit`), else starts Ray here; then disconnects.

    Does nothing when the configuration needs no Ray, or when the caller is connected already.
    """
    trainings = (config.surrogate, config.evaluation.training)
    needs_ray = config.execution.pool == "ray" or any(training.num_workers for training in trainings)
    quiet_local_training()
    if not needs_ray:
        yield
        return
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**options)
    else:
        # "local", not a cluster that happens to run on this machine; loopback only, so no token file is made for it.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about accelerators that this machine may not have
            ray.init(address="local", include_dashboard=False, **options)
    try:
        if not os.environ.get("RAY_ADDRESS"):
            _check_resources(config, ray.cluster_resources())
        yield
    finally:
        ray.shutdown()


def _check_resources(config: Config, available: dict[str, float]) -> None:
    """Raises InputError for more than this machine has: it does not grow, so the actors would be waited for forever."""
    asked = [
        ("execution.num_cpus", config.execution.num_cpus, "CPU"),
        ("execution.num_gpus", config.execution.num_gpus, "GPU"),
    ]
    beside = config.reference_trainings if len(config.reference_trainings) > 1 else ()
    if any(training.device == "cuda" for training in (*beside, config.evaluation.training)):
        asked.append(("evaluation.gpus_per_model", config.evaluation.gpus_per_model, "GPU"))
    for field, wanted, name in asked:
        if wanted > available.get(name, 0):
            raise InputError(
                f"{field} = {wanted:g} but this machine has {available.get(name, 0):g} {name}; "
                "lower it, or submit the job to a cluster that has more"
            )


def quiet_local_training() -> None:
    """Sets, before Ray is imported, what keeps usage reports off and Ray Train's own helpers small."""
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}.items():
        os.environ.setdefault(name, value)
