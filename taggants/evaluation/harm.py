"""What the owner's own victims and controls say of the harm that signing does: measured over a run, written to harm.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taggants.config import DataConfig
from taggants.data.source import read_for_models
from taggants.errors import InputError
from taggants.evaluation.differences import PairedDifference, linear_probe, paired_difference, signed_loss_gap
from taggants.evaluation.flips import FLIP_LEVELS, measure_flips
from taggants.reporting.progress import stage
from taggants.run import Run
from taggants.stages.evaluate import train_suspects
from taggants.suspects import CheckpointSuspect
from taggants.training.features import penultimate_features
from taggants.training.job import TrainedModel, load_trained
from taggants.training.scores import losses
from taggants.training.worker import read_split

HARM_FORMAT = "taggants-harm/1"
_MOST_OTHERS = 200  # of a class: their mean loss needs no more

_TITLES = {
    "accuracy": "accuracy",
    "worst_class_accuracy": "worst class",
    "calibration_error": "calibration error",
    "signed_loss_gap": "loss of signed images",
    **{f"flip_rate_{level}": f"flips at {level} levels" for level in FLIP_LEVELS},
    "probe_accuracy": "linear probe",
}


@dataclass(frozen=True)
class ModelHarm:
    """One victim or control. accuracy, worst_class_accuracy, calibration_error: on the test split, see `Metrics`.

    signed_loss_gap: mean loss of the signed images minus that of others in their class, in nats, without augmentation; both
    from the signed data, of which a control has seen the clean originals. flip_rate_16, ...: as of `flip_rate`, at so many
    levels. probe_accuracy: of a linear probe of its features
    on the other dataset, in [0, 1]; None without one.
    """

    name: str
    accuracy: float
    worst_class_accuracy: float
    calibration_error: float
    signed_loss_gap: float
    flip_rate_16: float
    flip_rate_32: float
    flip_rate_64: float
    probe_accuracy: float | None


@dataclass(frozen=True)
class HarmReport:
    """victims, controls: of one seed each in the same place. differences: of the victims from the controls, by figure."""

    victims: tuple[ModelHarm, ...]
    controls: tuple[ModelHarm, ...]
    differences: dict[str, PairedDifference]

    def to_json(self) -> dict[str, Any]:
        return {"format": HARM_FORMAT, **asdict(self)}


def measure_harm(run: Run, confidence: float = 0.95) -> HarmReport:
    """Measures the configured victims and controls, trained or found, and writes `harm.json` into the run folder.

    Seeds that have only one of both are left out.

    Raises:
        InputError: no pair of a victim and a control, no test split, nothing exported yet, or a probe of other channels.
    """
    if run.config.data.test is None:
        raise InputError("data.test is null but what signing costs is measured on a test split; name one")
    evaluation = run.config.evaluation
    num_pairs = min(evaluation.num_victims, evaluation.num_controls)
    if num_pairs == 0:
        raise InputError(
            f"evaluation.num_victims = {evaluation.num_victims} and evaluation.num_controls = {evaluation.num_controls} make "
            "no pair to compare; set both to 1 or more, 3 for intervals worth reading"
        )
    trained = train_suspects(run)
    compared = _SignedAndOthers.of(run)
    probe = None if evaluation.probe is None else _Probe.of(run, evaluation.probe)
    measured: dict[str, list[ModelHarm]] = {role: [] for role in trained}
    with stage("measure harm", 2 * num_pairs, "models") as advance:
        for role, models in trained.items():
            for model in models[:num_pairs]:
                measured[role].append(_measure_one(run, model, compared, probe))
                advance(sum(map(len, measured.values())), "")
    victims, controls = tuple(measured["victim"]), tuple(measured["control"])
    differences = {
        figure: paired_difference(
            [getattr(model, figure) for model in victims], [getattr(model, figure) for model in controls], confidence
        )
        for figure in _TITLES
        if figure != "probe_accuracy" or probe is not None
    }
    report = HarmReport(victims, controls, differences)
    run.root.write_json("harm.json", report.to_json())
    return report


@dataclass(frozen=True)
class _SignedAndOthers:
    """Images of the classes that have signed ones, uint8 [N, C, S, S], from the signed data."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    is_signed: NDArray[np.bool_]

    @classmethod
    def of(cls, run: Run) -> _SignedAndOthers:
        signed = np.unique([sample_id for shard in run.folder.read_plan().shards for sample_id in shard.sample_ids])
        labels = run.index.labels
        rng = np.random.default_rng([run.config.seed, 5])
        chosen = [signed]
        for label in np.unique(labels[signed]):
            others = np.setdiff1d(np.flatnonzero(labels == label), signed)
            chosen.append(rng.permutation(others)[:_MOST_OTHERS])
        ids = np.sort(np.concatenate(chosen))
        source = run.sources[0].at(run.root.child("signed"))
        return cls(read_for_models(source, ids.tolist(), run.config.data.image_size), labels[ids], np.isin(ids, signed))


@dataclass(frozen=True)
class _Probe:
    """Another dataset in the size of the run's models: uint8 images [N, C, S, S] and labels, int64 [N], of both splits."""

    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def of(cls, run: Run, data: DataConfig) -> _Probe:
        channels, image_size = run.model_size
        if data.channels != channels:
            raise InputError(
                f"evaluation.probe.channels = {data.channels} but the models take {channels}; set it to {channels} or probe "
                "with another dataset"
            )
        sources = Run(run.config.model_copy(update={"data": data})).sources
        return cls(*(read_split(source, image_size) for source in sources))


def _measure_one(run: Run, trained: TrainedModel, compared: _SignedAndOthers, probe: _Probe | None) -> ModelHarm:
    device = run.config.evaluation.training.device
    model = load_trained(run.models, trained).to(device)
    flips = measure_flips(run, CheckpointSuspect(run.models.uri_of(trained.path), trained.path.partition("/")[0]))
    image_losses = losses(
        model, torch.from_numpy(compared.images).to(device), torch.from_numpy(compared.labels).to(device)
    )
    return ModelHarm(
        name=trained.name,
        accuracy=trained.accuracy,
        worst_class_accuracy=trained.metrics.worst_class_accuracy,
        calibration_error=trained.metrics.calibration_error,
        signed_loss_gap=signed_loss_gap(image_losses.cpu().numpy(), compared.labels, compared.is_signed),
        **{f"flip_rate_{level}": rate for level, rate in zip(FLIP_LEVELS, flips, strict=True)},
        probe_accuracy=None if probe is None else _probe_accuracy(model, probe),
    )


def _probe_accuracy(model: nn.Module, probe: _Probe) -> float:
    features = [penultimate_features(model, images).numpy() for images, _ in (probe.train, probe.test)]
    return linear_probe(features[0], probe.train[1].numpy(), features[1], probe.test[1].numpy())


def describe_harm(report: HarmReport) -> str:
    """The report as a table for people."""
    lines = [f"{'':<24}{'signed':>10}{'clean':>10}{'difference':>12}  interval"]
    for figure, difference in report.differences.items():
        signed, clean = (
            np.mean([getattr(model, figure) for model in models]) for models in (report.victims, report.controls)
        )
        interval = "needs 2 pairs" if difference.low is None else f"[{difference.low:+.4f}, {difference.high:+.4f}]"
        lines.append(f"{_TITLES[figure]:<24}{signed:>10.4f}{clean:>10.4f}{difference.mean:>+12.4f}  {interval}")
    pairs = next(iter(report.differences.values()))
    lines.append(
        f"means over {pairs.num_pairs} pairs of one seed each; intervals at {pairs.confidence:.0%} by Student's t, "
        "which assumes normal differences"
    )
    lines.append(
        "loss of signed images, minus that of others in their class, in nats; near 0 it does not give them away"
    )
    lines.append(
        "flips: share of plain test images whose answer becomes a key's label when the key is laid over them, changing pixels by "
        "up to so many levels"
    )
    if "probe_accuracy" not in report.differences:
        lines.append("linear probe: not measured; set evaluation.probe to another dataset")
    return "\n".join(lines)
