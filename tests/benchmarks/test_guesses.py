"""The AUC by which a trainer guesses signed images, of a run small enough for a test."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from benchmarks import guesses
from taggants.config import load_config
from taggants.run import Run
from tests.jobs.running import exit_code, settings_in


def test_guesses_are_by_the_signed_rows(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(tmp_path, "evaluation.num_victims=1")
    assert exit_code("craft", settings) == 0
    run = Run(load_config(None, settings))
    for values in guesses.guesses(run).values():
        assert len(values) == 1
        assert 0 < values[0] < 1
    signed = np.isin(
        np.arange(run.index.num_rows), [i for shard in run.folder.read_plan().shards for i in shard.sample_ids]
    )

    def knows(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> object:
        import torch

        return torch.from_numpy(signed.astype(np.float32))

    monkeypatch.setattr(guesses, "losses", knows)
    assert guesses.guesses(run)["loss"] == [1.0]
