"""Models in timm's form, from a folder and from the hub, which is a folder here."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError
from torch import nn

from taggants.errors import InputError
from taggants.suspects import CallableSuspect, Owner, open_suspect

OWNER = Owner(5, (3, 32, 32), ("a", "b", "c", "d", "e"))
QUERIES = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return timm.create_model("resnet10t", num_classes=5).eval()


@pytest.fixture
def folder(model: nn.Module, tmp_path: Path) -> Path:
    """As timm.models.push_to_hf_hub leaves it, by timm's own function."""
    model.pretrained_cfg |= {"input_size": (3, 32, 32), "mean": MEAN, "std": STD}
    names = {"label_names": list("abcde")}
    timm.models.save_for_hf(model, str(tmp_path / "hub"), model_config=names, safe_serialization="both")
    return tmp_path / "hub"


def by_hand(model: nn.Module) -> CallableSuspect:
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    return CallableSuspect(lambda images: model((torch.from_numpy(images) / 255 - mean) / std), "by-hand", 5)


def test_a_folder_answers_as_the_same_model_by_hand(model: nn.Module, folder: Path) -> None:
    expected = by_hand(model).answers(QUERIES)
    suspect = open_suspect(f"local-dir:{folder}", OWNER)
    np.testing.assert_allclose(suspect.answers(QUERIES), expected, atol=1e-5)
    assert suspect.class_names == OWNER.class_names
    (folder / "model.safetensors").unlink()
    np.testing.assert_allclose(open_suspect(f"local-dir:{folder}", OWNER).answers(QUERIES), expected, atol=1e-5)
    (folder.parent / "a.yaml").write_text(f"{{kind: timm, path: hub, mean: {list(MEAN)}, name: mine}}")
    assert open_suspect(str(folder.parent / "a.yaml"), OWNER).name == "mine"


@pytest.mark.parametrize("has_safetensors", [True, False])
@pytest.mark.parametrize("name", ["hf-hub:somebody/model@main", "timm/resnet18.a1_in1k"])
def test_the_hub_is_asked_for_configuration_and_weights(
    name: str, has_safetensors: bool, model: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_safetensors:
        (folder / "model.safetensors").unlink()
    asked = []

    def download(repository: str, file: str, revision: str | None) -> str:
        asked.append((repository, revision))
        if not (folder / file).exists():
            raise EntryNotFoundError("not there")
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    suspect = open_suspect(name, OWNER)
    assert set(asked) == {("somebody/model", "main") if name.startswith("hf") else ("timm/resnet18.a1_in1k", None)}
    np.testing.assert_allclose(suspect.answers(QUERIES), by_hand(model).answers(QUERIES), atol=1e-5)


def test_a_hub_out_of_reach_is_one_sentence() -> None:
    for name in ("hf-hub:somebody/model", "timm/resnet18.a1_in1k"):
        with pytest.raises(InputError, match="cannot be fetched from the Hugging Face hub"):
            open_suspect(name, OWNER)
    with pytest.raises(InputError, match="no such model or weights"):
        open_suspect("timm/resnet1", OWNER)
    with pytest.raises(InputError, match="no such model or weights"):
        open_suspect("timm/resnet10t.none", OWNER)


def test_options_of_timm_are_read(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, patch_size=8).eval()
    timm.models.save_for_hf(model, str(tmp_path))
    images = torch.from_numpy(QUERIES)
    suspect = open_suspect({"kind": "timm", "path": str(tmp_path), "mean": 0.0, "std": 1.0}, OWNER)
    np.testing.assert_allclose(suspect.answers(QUERIES), model(images / 255).detach().numpy(), atol=1e-4)


def test_names_of_the_authors_are_translated_by_timm(tmp_path: Path) -> None:
    """Those of ConvNeXt's own repository."""
    model = timm.create_model("convnext_atto", num_classes=5).eval()
    rules = [
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    ]
    theirs = {}
    for name, tensor in model.state_dict().items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        theirs[name] = tensor.flatten(1) if name.endswith(("pwconv1.weight", "pwconv2.weight")) else tensor
    torch.save({"model": theirs}, tmp_path / "theirs.pth")
    fields = {
        "kind": "state-dict",
        "path": str(tmp_path / "theirs.pth"),
        "architecture": "timm/convnext_atto",
        "num_classes": 5,
    }
    found = open_suspect({**fields, "mean": 0.0, "std": 1.0}, OWNER).answers(QUERIES)
    np.testing.assert_allclose(found, model(torch.from_numpy(QUERIES) / 255).detach().numpy(), atol=1e-4)
    with pytest.raises(InputError, match=r"it holds no 'stem\.0\.weight' but 'downsample_layers\.0\.0\.weight'"):
        open_suspect({**fields, "architecture": "timm/convnext_femto"}, OWNER)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architecture": "resnet_of_mine"}, "names the architecture 'resnet_of_mine', which this timm does not know"),
        ({"architecture": None}, "names the architecture None"),
        ({"model_args": {"width": 10**9}}, "sets model_args = .*, of which only"),
        ({"model_args": {"img_size": 10**6}}, "give images of up to"),
        ({"model_args": {"patch_size": "small"}}, "is not a model"),
        ({"global_pool": "max"}, "was trained with global_pool = 'max' but its architecture has 'avg'"),
        ({"num_classes": 10**12}, "has num_classes = 1000000000000"),
        ({"num_classes": 7}, "does not fit"),
        ({"pretrained_cfg": {"input_size": [3, 10**9, 10**9]}}, "is not a model"),
        ({"pretrained_cfg": {"input_size": [4, 32, 32]}, "model_args": {}}, r"has input_size = \[4, 32, 32\]"),
        ({"pretrained_cfg": {"input_size": "large"}}, r"has input_size = \[3"),
        ({"pretrained_cfg": {"input_size": [3, 32, 32], "mean": "grey"}}, "mean = 'grey' must be a list of numbers"),
        ({"pretrained_cfg": {"input_size": [3, 32, 32], "std": [0, 0, 0]}}, "std = .* must be above 0"),
        ({"pretrained_cfg": 3}, "is not what timm writes"),
    ],
)
def test_a_hostile_configuration_is_one_sentence(change: dict[str, Any], sentence: str, folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=sentence):
        open_suspect(f"local-dir:{folder}", OWNER)


def test_a_folder_without_its_files_is_named(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "b", ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    with pytest.raises(InputError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        open_suspect(f"local-dir:{folder.parent / 'b'}", OWNER)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        open_suspect(f"local-dir:{folder}", OWNER)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json does not exist"):
        open_suspect(f"local-dir:{folder}", OWNER)


def test_weights_of_imagenet_know_their_classes(folder: Path, tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=1000)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "hub" / "model.safetensors")
    config = {
        "architecture": "resnet10t",
        "num_classes": 1000,
        "pretrained_cfg": {"tag": "c3_in1k", "input_size": [3, 64, 64]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    suspect = open_suspect(f"local-dir:{folder}", OWNER)
    assert suspect.class_names is not None
    assert (suspect.num_classes, suspect.class_names[0]) == (1000, "n01440764")
