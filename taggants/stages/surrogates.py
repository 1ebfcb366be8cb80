"""Stage: the owner's models that are crafted on."""

from __future__ import annotations

from taggants.run import Run
from taggants.seeds import hash_seed
from taggants.stages.model_training import train_model, training_job
from taggants.training.job import TrainedModel, TrainingJob


def train_surrogates(run: Run, signed_run: Run | None = None) -> list[TrainedModel]:
    """Trains the configured surrogates, of other seeds than every victim, or finds them.

    signed_run: an exported run whose signed data they learn from (Sleeper Agent, Souri et al., NeurIPS 2022, section 3);
    None: the clean data.
    """
    return [train_model(run, job) for job in surrogate_jobs(run, signed_run)]


def surrogate_jobs(run: Run, signed_run: Run | None = None) -> list[TrainingJob]:
    """Returns the trainings of the configured surrogates; arguments as of `train_surrogates`."""
    if signed_run is None:
        source, fingerprint = run.sources[0], run.index.fingerprint
    else:
        source, fingerprint = run.sources[0].at(signed_run.root.child("signed")), signed_run.signed_manifest.fingerprint
    return [
        training_job(
            run,
            f"surrogate-{index}",
            training,
            source,
            fingerprint,
            hash_seed(run.config.seed, 0, index),
            tuple(sorted({max(1, round(p * training.num_epochs)) for p in run.config.surrogate.checkpoints[:-1]})),
        )
        for index, training in enumerate(run.config.surrogate.trainings)
    ]
