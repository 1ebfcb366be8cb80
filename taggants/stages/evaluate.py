"""Stage: the owner's own victims and controls."""

from __future__ import annotations

from taggants.run import Run
from taggants.seeds import hash_seed
from taggants.stages.model_training import train_model, train_models, training_job
from taggants.training.job import TrainedModel, TrainingJob


def suspect_job(run: Run, role: str, index: int) -> TrainingJob:
    """Returns the training of victim or control number `index`: same recipe and seed, signed or clean data.

    Raises:
        InputError: a victim's signed data are not exported yet.
    """
    seed = hash_seed(run.config.seed, 3, index)
    training = run.config.evaluation.training
    if role == "control":
        return training_job(run, f"control-{index}", training, run.sources[0], run.index.fingerprint, seed)
    fingerprint = run.signed_manifest.fingerprint
    source = run.sources[0].at(run.root.child("signed"))
    return training_job(run, f"victim-{index}", training, source, fingerprint, seed)


def train_suspect(run: Run, role: str, index: int) -> TrainedModel:
    """Trains victim or control number `index` of the owner's own evaluation."""
    return train_model(run, suspect_job(run, role, index))


def train_suspects(run: Run) -> dict[str, list[TrainedModel]]:
    """Trains, resumes or finds the configured "victim"s and "control"s; see `train_models`."""
    evaluation = run.config.evaluation
    counts = {"victim": evaluation.num_victims, "control": evaluation.num_controls}
    jobs = [suspect_job(run, role, index) for role, count in counts.items() for index in range(count)]
    trained = train_models(run, jobs, "victims and controls")
    return {"victim": trained[: counts["victim"]], "control": trained[counts["victim"] :]}
