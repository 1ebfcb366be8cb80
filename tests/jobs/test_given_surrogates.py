"""Crafting on a model that exists: `surrogate.weights`, from a plain torch script to a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from taggants.config import load_config
from taggants.detection import Certificate
from taggants.errors import InputError
from taggants.run import Run
from taggants.stages.model_training import surrogate_jobs
from taggants.stages.questions import read_signing
from tests.jobs.running import exit_code, settings_in


def trained_elsewhere(num_epochs: int = 3, num_threads: int = 1) -> nn.Sequential:
    """What somebody's own script leaves: digits of scikit-learn, a plain network, plain torch, pixels from -2 to 2."""
    torch.manual_seed(11)
    layers = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 10))
    digits = load_digits()
    pixels = (torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16 - 0.5) / 0.25
    labels = torch.tensor(digits.target)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(num_epochs):
        for rows in torch.randperm(len(labels)).split(16):
            optimiser.zero_grad()
            cross_entropy(network(pixels[rows]), labels[rows]).backward()
            optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("elsewhere") / "theirs.pth"
    torch.save({"state_dict": trained_elsewhere().state_dict(), "epoch": 3}, path)
    return path


def test_a_state_dict_from_elsewhere_is_crafted_on_and_suspects_are_verified(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_in(
        tmp_path, f"surrogate.weights={weights}", "evaluation.num_victims=1", "signing.selection=loss"
    )
    assert exit_code("craft", settings) == 0
    shown = capsys.readouterr().out
    assert "surrogate-0: accuracy 0.9" in shown
    assert str(weights) in shown
    assert "train surrogate" not in shown
    run = Run(load_config(None, settings))
    assert run.signed_manifest.num_rows == 1297
    (certificate,) = [Certificate.from_text(run.root.read_bytes(path)) for path in run.root.list("certificates")]
    assert certificate.suspect.startswith("victim-0")
    assert exit_code("craft", settings) == 0
    assert "found done" in capsys.readouterr().out


def test_a_question_compares_with_it_as_a_reference(weights: Path, tmp_path: Path) -> None:
    question = (
        "detection.statistic=question",
        "detection.question={num_covers: 10, amplitudes: [1/2], num_references: 0}",
    )
    settings = settings_in(tmp_path, f"surrogate.weights={weights}", *question)
    assert exit_code("craft", settings) == 0
    run = Run(load_config(None, settings))
    (job,) = surrogate_jobs(run)
    assert run.registration.references == (f"surrogate-0-{job.identity}",)
    assert exit_code("verify", [*settings, f"verify.suspects=cnn@{weights}"]) == 0
    (path,) = run.root.list("certificates")
    certificate = Certificate.from_text(run.root.read_bytes(path))
    assert certificate.p_value > 0.01


def test_a_question_compares_with_a_public_model_that_is_named(weights: Path, tmp_path: Path, capsys: Any) -> None:
    question = "{num_covers: 10, amplitudes: [1/2], num_references: 1, references: '%s'}"
    settings = settings_in(tmp_path, "detection.statistic=question", f"detection.question={question % weights}")
    assert exit_code("craft", settings) == 0
    run = Run(load_config(None, settings))
    assert [name.rsplit("-", 1)[0] for name in run.registration.references] == [
        "surrogate-0",
        "public-0",
        "reference-0",
    ]
    record, _ = read_signing(run, run.registration)
    assert len(record.reference_answers) == 3
    assert exit_code("verify", [*settings, f"verify.suspects=cnn@{weights}"]) == 0
    capsys.readouterr()
    (tmp_path / "none.pth").write_bytes(b"nothing")
    other = f"detection.question={question % (tmp_path / 'none.pth')}"
    assert exit_code("craft", settings_in(tmp_path / "other", "detection.statistic=question", other)) == 2
    assert "detection.question.references: " in capsys.readouterr().err


def test_a_relative_path_is_found_again_from_elsewhere(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(weights.parent)
    settings = settings_in(tmp_path, f"surrogate.weights={weights.name}")
    assert exit_code("craft", settings) == 0
    before = surrogate_jobs(Run(load_config(None, settings)))[0].identity
    uri = Run(load_config(None, settings)).uri
    monkeypatch.chdir(tmp_path)
    assert surrogate_jobs(Run.open(uri))[0].identity == before


def test_other_weights_are_another_surrogate_and_are_noticed(weights: Path, tmp_path: Path, capsys: Any) -> None:
    own = tmp_path / "own.pth"
    own.write_bytes(weights.read_bytes())
    settings = settings_in(tmp_path, f"surrogate.weights={own}")
    assert exit_code("craft", settings) == 0
    before = surrogate_jobs(Run(load_config(None, settings)))[0]
    state = torch.load(own, weights_only=True)["state_dict"]
    state["7.bias"] += 1e-3
    torch.save(state, own)
    after = surrogate_jobs(Run(load_config(None, settings)))[0]
    assert before.identity != after.identity
    capsys.readouterr()
    assert exit_code("craft", settings) == 2
    assert "plan" in capsys.readouterr().err


def test_one_is_given_and_another_trained(weights: Path, tmp_path: Path, capsys: Any) -> None:
    settings = settings_in(tmp_path, "surrogate.num_models=2", f"surrogate.weights=[null, {weights}]")
    assert exit_code("plan", settings) == 0
    shown = capsys.readouterr().out
    assert "1 surrogate" in shown or "surrogate" in shown
    assert exit_code("craft", settings) == 0
    shown = capsys.readouterr().out
    assert "train surrogate-0" in shown
    assert "surrogate-1: accuracy" in shown


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (
            lambda state: {**state, "7.weight": state["7.weight"].roll(3, 0), "7.bias": state["7.bias"].roll(3)},
            "no better than chance",
        ),
        (
            lambda state: {**state, "7.weight": state["7.weight"][:9], "7.bias": state["7.bias"][:9]},
            "knows 9 classes but the dataset has 10",
        ),
        (lambda state: {"a": torch.ones(3)}, "does not fit 'cnn'"),
        (lambda state: {**state, "7.bias": state["7.bias"] * torch.inf}, "are not finite"),
        (None, "does not exist"),
    ],
)
def test_what_cannot_be_crafted_on_is_one_sentence(
    edit: Any, sentence: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "edited.pth"
    if edit is not None:
        torch.save(edit(torch.load(weights, weights_only=True)["state_dict"]), path)
    assert exit_code("craft", settings_in(tmp_path, f"surrogate.weights={path}")) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "surrogate.weights" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["surrogate.weights=[a.pth, b.pth]"], "names 2 models but surrogate.num_models is 1"),
        (["surrogate.weights=a.pth", "surrogate.retrainings=1"], "are not trained"),
        (["surrogate.weights=a.pth", "surrogate.checkpoints=[0.3, 1]"], "are not trained"),
    ],
)
def test_settings_that_contradict_each_other_are_named(settings: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_config(None, settings)


def test_kinds_without_gradients_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.onnx").write_bytes(b"")
    assert exit_code("craft", settings_in(tmp_path, f"surrogate.weights={tmp_path / 'a.onnx'}")) == 2
    error = capsys.readouterr().err
    assert "surrogate.weights" in error
