"""Stage: the owner's models that are crafted on."""

from __future__ import annotations

from taggants.run import Run
from taggants.stages.model_training import surrogate_jobs, train_model
from taggants.training.job import TrainedModel


def train_surrogates(run: Run, signed_run: Run | None = None) -> list[TrainedModel]:
    """Trains the surrogates that the run needs, of other seeds than every victim, or finds them.

    signed_run: an exported run whose signed data they learn from (Sleeper Agent, Souri et al., NeurIPS 2022, section 3);
    None: the clean data.
    """
    return [train_model(run, job) for job in surrogate_jobs(run, signed_run)]
