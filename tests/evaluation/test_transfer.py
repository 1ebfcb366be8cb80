from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from taggants import pipeline
from taggants.config import load_config
from taggants.evaluation import transfer
from taggants.evaluation.rehearsal import rehearse
from taggants.evaluation.transfer import Transfer, measure_transfer, transfer_to_control
from taggants.reporting import summaries
from taggants.run import Run
from taggants.stages.craft import craft
from taggants.stages.evaluate import train_suspect
from taggants.stages.export import export
from taggants.stages.keys import prepare_keys
from taggants.training.job import load_trained
from tests.jobs.running import settings_in


def flat_gradient(model: torch.nn.Module, images: np.ndarray, labels: list[int]) -> torch.Tensor:
    loss = cross_entropy(model(torch.tensor(images / 255, dtype=torch.float64)), torch.tensor(labels))
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def test_cosines_are_those_of_whole_sets_in_double_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_MICROBATCH", 2)
    run = Run(load_config(None, settings_in(tmp_path)))
    prepare_keys(run)
    surrogates, plan = pipeline.prepare(run)
    craft(run, plan, surrogates)
    exported = export(run, plan)
    on_surrogate = measure_transfer(run, plan, load_trained(run.models, surrogates[0]))
    assert np.mean(on_surrogate.after) == pytest.approx(exported.alignment, abs=1e-4)
    assert np.mean(on_surrogate.before) == pytest.approx(exported.alignment_before, abs=1e-4)

    control = load_trained(run.models, train_suspect(run, "control", 0))
    measured = measure_transfer(run, plan, control)
    assert transfer_to_control(run, plan) is None  # of a run without controls
    with_control = Run(load_config(None, settings_in(tmp_path, "evaluation.num_controls=1")))
    assert transfer_to_control(with_control, plan) == measured
    assert f"{np.mean(measured.before):.3f} -> {np.mean(measured.after):.3f}" in summaries.rehearsed(
        with_control, rehearse(with_control), measured
    )
    signed = run.sources[0].at(run.root.child("signed"))
    control = control.double()
    for shard, before, after in zip(plan.shards, measured.before, measured.after, strict=True):
        label = int(run.keys.labels[shard.key_index])
        key = flat_gradient(control, run.keys.images[shard.key_index][None], [label])
        for source, cosine in ((run.sources[0], before), (signed, after)):
            own = flat_gradient(control, source.read_images(shard.sample_ids), [label] * len(shard.sample_ids))
            assert float(cosine_similarity(key, own, dim=0)) == pytest.approx(cosine, abs=1e-5)


def test_gain_is_the_difference_of_the_means() -> None:
    assert Transfer((0.1, -0.1), (0.5, 0.3)).gain == pytest.approx(0.4)
