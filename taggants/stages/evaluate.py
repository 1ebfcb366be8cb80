"""Stage: the owner's own victims and controls."""

from __future__ import annotations

from taggants.reporting.progress import stage
from taggants.run import Run
from taggants.seeds import hash_seed
from taggants.stages.model_training import say_trained, train_model, training_job
from taggants.training.job import TrainedModel, TrainingJob
from taggants.training.ray_trainer import run_trainings


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
    """Trains, resumes or finds the configured "victim"s and "control"s; side by side where Ray crafts, too.

    One after the other where one takes several workers, or leaves the other CPUs to Ray Data, which reads for it.
    """
    evaluation = run.config.evaluation
    counts = {"victim": evaluation.num_victims, "control": evaluation.num_controls}
    jobs = [suspect_job(run, role, index) for role, count in counts.items() for index in range(count)]
    training = evaluation.training
    if run.config.execution.pool == "inline" or training.num_workers > 0 or training.loader == "ray":
        trained = [train_model(run, job) for job in jobs]
    else:
        with stage("train victims and controls", len(jobs), "models") as advance:
            trained = run_trainings(
                jobs, run.models, num_gpus=evaluation.gpus_per_model, on_trained=lambda done: advance(done, "")
            )
        for model in trained:
            say_trained(run, model)
    return {"victim": trained[: counts["victim"]], "control": trained[counts["victim"] :]}
