"""Trains one victim (on the signed export) or control (on the clean source) of a crafted run.

For example: python jobs/train.py --set train.role=control --set train.index=7
"""

from __future__ import annotations

from dataclasses import dataclass

from taggants.cli import ray_cluster, run_job
from taggants.config import Config
from taggants.reporting.progress import say
from taggants.run import Run
from taggants.stages.evaluate import train_suspect
from taggants.training.ray_trainer import TrainedModel


@dataclass(frozen=True)
class TrainResult:
    """checkpoint: uri of the model.safetensors file, to give to jobs/verify.py."""

    model: TrainedModel
    checkpoint: str
    exit_code: int = 0


def main(config: Config) -> TrainResult:
    """Trains, resumes or finds the model."""
    run = Run(config)
    with ray_cluster(config):
        model = train_suspect(run, config.train.role, config.train.index)
    checkpoint = run.models.uri_of(model.path)
    if model.metrics is not None:
        say(
            f"worst class {model.metrics.worst_class_accuracy:.4f}, calibration error {model.metrics.calibration_error:.4f}, "
            f"loss {model.metrics.mean_loss:.4f}"
        )
    say(f"checkpoint {checkpoint}")
    return TrainResult(model, checkpoint)


if __name__ == "__main__":
    run_job(main, __doc__)
