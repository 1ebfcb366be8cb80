"""Training by Ray: one model by several workers of Ray Train, or several models side by side as Ray tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from taggants.errors import InputError
from taggants.storage import Root
from taggants.training.job import TrainedModel, TrainingJob
from taggants.training.loop import EpochReport
from taggants.training.worker import run_training, train_one


def train_distributed(job: TrainingJob, models: Root, save_every_s: float) -> None:
    """Trains on every worker of a Ray `TorchTrainer`; see `run_training`."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    def guarded(_: dict[str, Any]) -> str | None:
        # Returned, not raised: bad input must reach the job as one sentence, and Ray would try it again.
        try:
            _train_in_worker(job, models, save_every_s)
        except InputError as error:
            return str(error)
        return None

    trainer = TorchTrainer(
        guarded,
        train_loop_config={},
        scaling_config=ScalingConfig(num_workers=job.num_workers, use_gpu=job.device == "cuda"),
        run_config=RunConfig(
            name=job.identity,
            storage_path=models.child(".ray_train").uri,
            failure_config=FailureConfig(max_failures=2),
        ),
    )
    problem = trainer.fit().return_value
    if problem is not None:
        raise InputError(problem)


def _train_in_worker(job: TrainingJob, models: Root, save_every_s: float) -> None:
    import ray.train.torch

    context = ray.train.get_context()
    world_size = context.get_world_size()
    torch.set_num_threads(job.num_threads)

    def report(epoch: EpochReport) -> None:
        ray.train.report({"epoch": epoch.epoch, "loss": epoch.loss})

    def distribute(model: nn.Module) -> nn.Module:
        return ray.train.torch.prepare_model(model, move_to_device=False) if world_size > 1 else model

    train_one(
        job,
        models,
        report,
        save_every_s,
        rank=context.get_world_rank(),
        world_size=world_size,
        distribute=distribute,
    )


def run_trainings(
    jobs: Sequence[TrainingJob],
    models: Root,
    *,
    num_gpus: float = 0.0,
    save_every_s: float = 10.0,
    on_trained: Callable[[int], None] = lambda num_done: None,
) -> list[TrainedModel]:
    """Trains several models side by side, as many as the cluster has room for, and returns them in the order of `jobs`.

    Each is one Ray task, which takes `num_threads` CPUs and trains as `run_training` does in one process: the bytes are the
    same. A task whose process is killed is started again by Ray and resumes. Needs a connected Ray.

    num_gpus: of each task, for jobs with device "cuda"; a fraction packs several on one GPU.
    on_trained: gets the number of models done so far.

    Raises:
        InputError: as `run_training`, of the first job that raised it; the others are stopped.
    """
    import ray
    from ray.exceptions import RayTaskError

    assert all(job.num_workers == 0 for job in jobs), "a distributed training has tasks of its own"
    # A node that is smaller than num_threads trains all the same, with more threads than CPUs.
    largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    train_one = ray.remote(max_retries=2)(_train_in_task)
    tasks = {
        folder: train_one.options(
            name=job.name,
            num_cpus=min(job.num_threads, largest) or job.num_threads,
            num_gpus=num_gpus if job.device == "cuda" else 0,
        ).remote(job, models, save_every_s)
        for folder, job in {job.folder: job for job in jobs}.items()
    }
    pending = list(tasks.values())
    try:
        while pending:
            done, pending = ray.wait(pending)
            ray.get(done)
            on_trained(len(tasks) - len(pending))
        trained = dict(zip(tasks, ray.get(list(tasks.values())), strict=True))
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    finally:
        for task in pending:
            ray.cancel(task, force=True)
    return [trained[job.folder] for job in jobs]


def _train_in_task(job: TrainingJob, models: Root, save_every_s: float) -> TrainedModel:
    return run_training(job, models, lambda report: None, save_every_s=save_every_s)
