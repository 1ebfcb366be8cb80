"""Every kind of suspect gives the certificate of the same model as a Python function."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import safetensors.torch
import torch
from torch import nn

import taggants
from taggants.config import load_config
from taggants.run import Run
from taggants.stages.keys import prepare_keys
from tests.jobs.running import exit_code, settings_in
from tests.jobs.test_given_surrogates import trained_elsewhere
from tests.suspects.test_programs import onnx_of


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    return trained_elsewhere(1)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    settings = settings_in(tmp_path_factory.mktemp("run"), "keys.num_keys=20", "detection.alpha=0.01")
    prepare_keys(Run(load_config(None, settings)))
    return settings


def files(network: nn.Sequential, folder: Path) -> dict[str, str]:
    """What is written on the command line for each kind."""
    state = network.state_dict()
    torch.save({"model_state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, folder / "a.pth")
    safetensors.torch.save_file(state, folder / "b.safetensors")
    onnx.save(onnx_of(network), folder / "c.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.trace(network, torch.zeros(2, 1, 8, 8)), folder / "d.ts")
        program = torch.export.export(network, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},))
        torch.export.save(program, folder / "e.pt2")
    normalised = "mean: 0.5, std: 0.25"
    (folder / "c.yaml").write_text(f"{{kind: onnx, path: c.onnx, {normalised}}}")
    (folder / "d.yaml").write_text(f"{{kind: torchscript, path: d.ts, trust_code: true, {normalised}}}")
    (folder / "e.yaml").write_text(f"{{kind: torch-export, path: e.pt2, trust_code: true, {normalised}}}")
    (folder / "f.json").write_text(
        '{"kind": "state-dict", "path": "a.pth", "architecture": "cnn", "name": "described"}'
    )
    named = {"state dict": f"cnn@{folder / 'a.pth'}", "safetensors": f"cnn@{folder / 'b.safetensors'}"}
    descriptions = {"onnx": "c.yaml", "torchscript": "d.yaml", "torch-export": "e.yaml", "description": "f.json"}
    return named | {kind: str(folder / file) for kind, file in descriptions.items()}


def test_every_kind_gives_the_p_value_of_the_function(
    network: nn.Sequential, settings: list[str], tmp_path: Path
) -> None:
    run = Run(load_config(None, settings))
    expected = taggants.verify(run, lambda images: network((torch.from_numpy(images) / 255 - 0.5) / 0.25))
    normalised = nn.Sequential(Normalisation(), network)
    found = {"module": taggants.verify(run, normalised)}
    for kind, named in files(network, tmp_path).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[kind] = taggants.verify(run, named)
    for kind, certificate in found.items():
        assert certificate.p_value == expected.p_value, kind
        assert certificate.suspect_sha256 is not None
    assert 0.001 < expected.p_value < 1


class Normalisation(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - 0.5) / 0.25


def test_the_command_tests_several_kinds_at_once(
    network: nn.Sequential, settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = files(network, tmp_path)
    listed = f"verify.suspects=['{named['state dict']}', '{named['onnx']}']"
    assert exit_code("verify", [*settings, listed]) == 0
    shown = capsys.readouterr().out
    assert shown.count("not detected") >= 2
    assert exit_code("verify", [*settings, f"verify.suspects=['{tmp_path / 'a.pth'}']"]) == 2
    assert "state-dict field 'architecture' is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda state: {**state, "7.weight": state["7.weight"][:5], "7.bias": state["7.bias"][:5]}, "5 classes"),
        (lambda state: {**state, "7.bias": state["7.bias"] * torch.nan}, "not finite"),
    ],
)
def test_fewer_classes_and_nan_are_never_a_yes(
    edit: Any, sentence: str, network: nn.Sequential, settings: list[str], tmp_path: Path
) -> None:
    torch.save(edit(network.state_dict()), tmp_path / "a.pth")
    with pytest.raises(taggants.InputError, match=sentence):
        taggants.verify(Run(load_config(None, settings)), f"cnn@{tmp_path / 'a.pth'}")
