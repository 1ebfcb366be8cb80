"""What all jobs share: `--config FILE --set section.field=value`, the connection to Ray, and exit codes.

Exit code 0: done. 2: bad input, one sentence on stderr. 1: a shard failed for good, or a bug (with its traceback).
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from taggants.config import Config, load_config
from taggants.errors import FailedShards, InputError
from taggants.reporting.progress import console, json_line, write_json_lines


class Result(Protocol):
    """What a job's `main` returns."""

    @property
    def exit_code(self) -> int: ...


def run_job(main: Callable[[Config], Result], description: str) -> None:
    """Parses the command line, runs `main` and exits with its code. `description` is the job's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file, see jobs/configs/; without it: the embedded digits"
    )
    parser.add_argument(
        "--set",
        metavar="SECTION.FIELD=VALUE",
        action="append",
        default=[],
        help="overrides one field, for example --set crafting.epsilon=16/255; may be repeated",
    )
    given = parser.parse_args()
    as_json = False
    try:
        config = load_config(given.config, given.set)
        as_json = config.output.log == "json"
        write_json_lines(as_json)
        _warn_of_temporary_folder(config)
        code = main(config).exit_code
    except (InputError, FailedShards) as error:
        console.file.flush()
        print(json_line(str(error), "error") if as_json else f"error: {error}", file=sys.stderr)
        code = 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        code = 130
    sys.exit(code)


def _warn_of_temporary_folder(config: Config) -> None:
    """A submitted job runs in Ray's copy of the working directory, which Ray deletes in its own time."""
    for field, root in (("output.root", config.output.root), ("keys.root", config.keys.root)):
        if "_ray_pkg_" in os.getcwd() and "://" not in root and not os.path.isabs(root):
            print(
                f"WARNING {field} = {root} lies in Ray's temporary copy of the working directory and goes with it; give an "
                "absolute path or s3:// prefix that every node reaches",
                file=sys.stderr,
            )


@contextmanager
def ray_cluster(config: Config) -> Iterator[None]:
    """Connects to the cluster that RAY_ADDRESS names (set within `ray job submit`), else starts Ray here; then disconnects.

    Does nothing when the configuration needs no Ray, or when the caller is connected already.
    """
    trainings = (config.surrogate, config.evaluation.training)
    needs_ray = config.execution.pool == "ray" or any(training.num_workers for training in trainings)
    quiet_local_training()
    import ray

    if not needs_ray or ray.is_initialized():
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
    """One machine grows no more: what an actor asks for and it does not have would be waited for for ever."""
    asked = [
        ("execution.num_cpus", config.execution.num_cpus, "CPU"),
        ("execution.num_gpus", config.execution.num_gpus, "GPU"),
    ]
    if config.evaluation.training.device == "cuda":
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
