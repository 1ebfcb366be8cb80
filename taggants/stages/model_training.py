"""What the stages that train models share: the job of one model, and training it with progress."""

from __future__ import annotations

from collections.abc import Sequence

from taggants.config import TrainingConfig
from taggants.data.source import ImageSource
from taggants.reporting.progress import say, stage
from taggants.reporting.quantities import counted
from taggants.run import Run, model_spec
from taggants.seeds import hash_seed
from taggants.training.given import GivenModel, adopt
from taggants.training.job import TrainedModel, TrainingJob, find_initial_weights
from taggants.training.loop import EpochReport, Optimiser
from taggants.training.ray_trainer import run_trainings
from taggants.training.recipes import Recipe
from taggants.training.worker import run_training


def training_job(
    run: Run,
    name: str,
    training: TrainingConfig,
    source: ImageSource,
    fingerprint: str,
    seed: int,
    keep_epochs: tuple[int, ...] = (),
) -> TrainingJob:
    """Returns the training of a model of that name.

    Raises:
        InputError: there is no checkpoint at `training.init_from`.
    """
    recipe = Recipe(training.recipe, training.crop_padding, training.flip, run.index.num_classes)
    return TrainingJob(
        name=name,
        spec=model_spec(run, training),
        recipe=recipe,
        optimiser=Optimiser(
            training.num_epochs,
            training.batch_size,
            training.learning_rate,
            training.weight_decay,
            training.optimiser or recipe.parts.optimiser,
            training.gradient_clip or recipe.parts.clip_norm,
            recipe.parts.warm_up_epochs,
        ),
        seed=seed,
        train_source=source,
        test_source=run.sources[1],
        train_fingerprint=fingerprint,
        test_fingerprint=run.sources[1].index().fingerprint,
        num_threads=training.num_threads,
        num_workers=training.num_workers,
        precision=training.precision,
        channels_last=training.channels_last,
        device=training.device,
        keep_epochs=keep_epochs,
        image_size=run.config.data.image_size,
        initial=None if training.init_from is None else find_initial_weights(training.init_from),
        ema_decay=training.ema_decay,
        compile=training.compile,
        loader=training.loader,
        num_readers=training.num_readers,
    )


def surrogate_jobs(run: Run, signed_run: Run | None = None) -> list[TrainingJob | GivenModel]:
    """Returns the trainings of the configured surrogates, none where none is needed, of other seeds than every victim; and those
    that exist already.

    signed_run: an exported run whose signed data they learn from; None: the clean data.
    """
    if signed_run is None:
        source, fingerprint = run.sources[0], run.index.fingerprint
    else:
        source, fingerprint = run.sources[0].at(signed_run.root.child("signed")), signed_run.signed_manifest.fingerprint
    return [
        run.given_surrogates.get(index)
        or training_job(
            run,
            f"surrogate-{index}",
            training,
            source,
            fingerprint,
            hash_seed(run.config.seed, 0, index),
            tuple(sorted({max(1, round(p * training.num_epochs)) for p in run.config.surrogate.checkpoints[:-1]})),
        )
        for index, training in enumerate(run.config.surrogate_trainings)
    ]


def train_model(run: Run, job: TrainingJob | GivenModel) -> TrainedModel:
    """Trains, resumes or finds the model; see `run_training` and, for one that exists already, `adopt`."""
    if isinstance(job, GivenModel):
        adopted = adopt(job, run.models, run.sources[1], run.config.data.image_size, run.config.surrogate.device)
        say(f"{job.name}: accuracy {adopted.accuracy:.4f}, from {job.named}")
        return adopted
    epochs: list[int] = []
    with stage(f"train {job.name}", job.optimiser.num_epochs, "epochs") as advance:

        def show(report: EpochReport) -> None:
            epochs.append(report.epoch)
            advance(report.epoch + 1, f"loss {report.loss:.3f}")

        trained = run_training(job, run.models, show)
    say_trained(run, trained, is_found=not epochs and job.num_workers == 0)
    return trained


def train_models(run: Run, jobs: Sequence[TrainingJob], role: str) -> list[TrainedModel]:
    """Trains, resumes or finds models and returns them in the order of `jobs`: side by side where Ray crafts, too.

    One after the other where one takes several workers, or leaves the other CPUs to Ray Data, which reads for it.

    role: what they are, in the plural, for the progress.
    """
    if run.config.execution.pool == "inline" or any(job.num_workers > 0 or job.loader == "ray" for job in jobs):
        return [train_model(run, job) for job in jobs]
    with stage(f"train {role}", len(jobs), "models") as advance:
        trained = run_trainings(
            jobs, run.models, num_gpus=run.config.evaluation.gpus_per_model, on_trained=lambda done: advance(done, "")
        )
    for model in trained:
        say_trained(run, model)
    return trained


def say_trained(run: Run, trained: TrainedModel, *, is_found: bool = False) -> None:
    """Prints what a training came to; is_found: it was done before."""
    effort = "found done" if is_found else f"{counted(trained.num_epochs, 'epoch')} in {trained.seconds:.0f} s"
    measured = "accuracy" if run.config.data.test is not None else "accuracy on its training images"
    say(f"train {trained.name}: {measured} {trained.accuracy:.4f}, {effort}")


def all_checkpoints(surrogates: Sequence[TrainedModel]) -> tuple[tuple[str, str], ...]:
    """Path and SHA-256 of everything that is crafted on."""
    return tuple(checkpoint for surrogate in surrogates for checkpoint in surrogate.checkpoints)
