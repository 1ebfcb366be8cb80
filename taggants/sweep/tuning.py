"""Ray Tune over the cells of a sweep: one trial for each, in a process of its own.

Tune decides when and where; what a trial found lies in the sweep's folder, not with Tune, so that a trial that is started
again finds it. Tune's own files hold names and settings of cells and how their victims did: no key, no secret.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any

import ray
from ray import tune
from ray.tune.logger import JsonLoggerCallback, LoggerCallback, TBXLoggerCallback

from taggants.config import Config
from taggants.errors import FailedShards, InputError
from taggants.reporting.progress import say
from taggants.storage import Root
from taggants.sweep.cells import CellSpec
from taggants.sweep.stages import Standing, Sweep, run_cell
from taggants.text import logger_of

_PACKAGE_OF_LOGGER = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}

_log = logger_of(__name__)


def check_loggers(config: Config) -> None:
    """Checks that the configured loggers are installed.

    Raises:
        InputError: a package is missing.
    """
    for logger in config.sweep.loggers:
        package = _PACKAGE_OF_LOGGER[logger]
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"sweep.loggers names {logger} but the package {package} is not installed; pip install {package}, or leave it out"
            )


def run_trials(sweep: Sweep) -> None:
    """Brings every missing cell to its record, several at a time; goes on where a killed job stopped.

    Needs a connected Ray.

    A trial that raises, or whose process dies, is started again twice; one that finds bad input, or a shard that failed for
    good, is not.

    Raises:
        InputError: a cell's trial found bad input; the others were done first.
        FailedShards: likewise, a shard of a cell failed for good.
        RuntimeError: likewise, a trial ended with another error, which is the cause, with its traceback.
    """
    if not sweep.missing():
        return
    # Trials resolve relative paths where the job does.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # ours are named below
    trial = tune.with_resources(_trainable(_with_absolute_paths(sweep.config)), _resources(sweep))
    num_experiments = 0
    while tune.Tuner.can_restore(_experiment(sweep, num_experiments)):
        num_experiments += 1
    if num_experiments > 0 and (tuner := _restored(_experiment(sweep, num_experiments - 1), trial)) is not None:
        _fit(sweep, tuner, {result.path for result in tuner.get_results() if _final_error(result.metrics)})
    if (
        missing := sweep.missing()
    ):  # all of a new sweep; some if Tune took a cell for done: its record was deleted, or its error was final
        tuner = tune.Tuner(
            trial,
            param_space={"cell": tune.grid_search([_shown(cell) for cell in missing])},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=_most_concurrent(sweep),
                reuse_actors=True,  # saves the imports of each process
                trial_dirname_creator=_folder_of_trial,
            ),
            run_config=tune.RunConfig(
                name=f"tune-{num_experiments}",
                storage_path=sweep.root.uri,
                failure_config=tune.FailureConfig(max_failures=2),
                callbacks=[_Lines(), JsonLoggerCallback(), *_loggers(sweep)],
                verbose=0,
            ),
        )
        _fit(sweep, tuner)
    assert not sweep.missing(), "a trial ended without error and without record"


def _restored(experiment: str, trial: Callable[[dict[str, Any]], None]) -> tune.Tuner | None:
    try:
        return tune.Tuner.restore(experiment, trainable=trial, restart_errored=True)
    except Exception as error:  # killed before Tune had written all that it needs, or its file is damaged
        _log.warning("%s cannot be restored (%s); its cells are started anew", experiment, error)
        return None


_FINAL_ERRORS: dict[str, type[InputError] | type[FailedShards]] = {
    error.__name__: error for error in (InputError, FailedShards)
}
"""By name: the errors that no retry changes. A trial reports them as its last result, for Tune retries what is raised."""


def _fit(sweep: Sweep, tuner: tune.Tuner, known: Collection[str] = ()) -> None:
    """known: folders of trials that had found their final error before."""
    grid = tuner.fit()
    names = {cell.name for cell in sweep.missing()}
    for result in grid:
        if result.config and result.config["cell"]["name"] in names and result.path not in known:
            _raise_error_of(result)


def _raise_error_of(result: tune.Result) -> None:
    name = result.config["cell"]["name"]
    if result.error is not None:
        raise RuntimeError(f"the trial of cell {name} ended with an error") from result.error
    final = _final_error(result.metrics)
    if final is not None:
        kind, sentence = final
        raise _FINAL_ERRORS[kind](f"cell {name}: {sentence}")


def _final_error(last_result: dict[str, Any] | None) -> tuple[str, str] | None:
    return (last_result or {}).get("final_error")


def _trainable(config: Config) -> Callable[[dict[str, Any]], None]:
    """Returns the trial as a function of its parameters; goes to its process by value, config and all."""

    def cell(parameters: dict[str, Any]) -> None:
        reported: list[Standing] = []

        def report(standing: Standing) -> None:
            reported.append(standing)
            tune.report(asdict(standing))

        try:
            sweep = Sweep(config)
            spec = next(spec for spec in sweep.cells if spec.name == parameters["cell"]["name"])
            run_cell(sweep, spec, report)
        except (InputError, FailedShards) as error:
            kind = InputError if isinstance(error, InputError) else FailedShards
            tune.report({"num_victims": 0, "final_error": [kind.__name__, str(error)]})
            return
        if not reported:  # killed between its record and its end
            tune.report({"num_victims": 0})

    return cell


def _shown(cell: CellSpec) -> dict[str, Any]:
    """What Tune and its loggers see of a cell: the axes of the sweep."""
    config = cell.config
    return {
        "name": cell.name,
        "num_keys": config.keys.num_keys,
        "images_per_key": config.signing.images_per_key or 0,
        "epsilon": config.crafting.epsilon,
        "engine": config.crafting.engine,
        "surrogate": config.surrogate.model,
        "victim": config.evaluation.training.model,
        "recipe": config.evaluation.training.recipe,
    }


def _with_absolute_paths(config: Config) -> Config:
    """None of these is part of a run's hash."""

    def absolute(uri: str | None) -> str | None:
        return None if uri is None else Root(uri).uri

    return config.model_copy(
        update={
            "output": config.output.model_copy(update={"root": absolute(config.output.root)}),
            "keys": config.keys.model_copy(update={"root": absolute(config.keys.root)}),
            "data": config.data.model_copy(update={"root": absolute(config.data.root)}),
        }
    )


def _resources(sweep: Sweep) -> dict[str, float]:
    """Returns the CPUs and GPUs of one trial. A node that is smaller than its threads runs it all the same."""
    config = sweep.config
    largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    threads = max(config.evaluation.training.num_threads, config.crafting.num_threads)
    on_gpu = "cuda" in (config.evaluation.training.device, config.crafting.device)
    return {"CPU": min(threads, largest) or threads, "GPU": config.evaluation.gpus_per_model if on_gpu else 0}


def _most_concurrent(sweep: Sweep) -> int:
    if sweep.config.sweep.max_concurrent_trials is not None:
        return sweep.config.sweep.max_concurrent_trials
    available = ray.cluster_resources()
    wanted = _resources(sweep)
    return max(1, int(min(available.get(name, 0) // amount for name, amount in wanted.items() if amount)))


def _experiment(sweep: Sweep, number: int) -> str:
    return sweep.root.uri_of(f"tune-{number}")


def _folder_of_trial(trial: Any) -> str:
    return f"{trial.config['cell']['name'][:80]}-{trial.trial_id}"


def _loggers(sweep: Sweep) -> list[LoggerCallback]:
    callbacks: list[LoggerCallback] = []
    for logger in sweep.config.sweep.loggers:
        if logger == "tensorboard":
            callbacks.append(TBXLoggerCallback())
        elif logger == "mlflow":
            from ray.air.integrations.mlflow import MLflowLoggerCallback

            callbacks.append(MLflowLoggerCallback(experiment_name=f"taggants-sweep-{sweep.hash}"))
        else:
            from ray.air.integrations.wandb import WandbLoggerCallback

            callbacks.append(WandbLoggerCallback(project="taggants", group=f"sweep-{sweep.hash}"))
    return callbacks


class _Lines(tune.Callback):
    """A line for people after each victim."""

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result["num_victims"]:
            say(
                f"sweep: {trial.config['cell']['name']}: victims {result['num_victims']}, detected {result['power']:.0%}, "
                f"median p {10 ** result['median_log10_p']:.1e}, accuracy {result['accuracy']:.4f}"
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        final = _final_error(trial.last_result)
        say(f"sweep: {trial.config['cell']['name']}: {'done' if final is None else final[1]}")
