"""Files of weights: what is read from them, and what is refused."""

from __future__ import annotations

import io
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from taggants.errors import InputError
from taggants.models.weights import network_of
from taggants.suspects import CallableSuspect, Owner, load_weights, open_suspect

OWNER = Owner(10, (1, 8, 8))
QUERIES = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def by_hand(module: nn.Module, mean: float = 0.5, std: float = 0.25) -> CallableSuspect:
    return CallableSuspect(lambda images: module((torch.from_numpy(images) / 255 - mean) / std), "by-hand", 10)


def wrappings(state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    def under(prefix: str) -> dict[str, torch.Tensor]:
        return {prefix + name: tensor for name, tensor in state.items()}

    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    return {
        "alone": saved(state),
        "safetensors": safetensors.torch.save(state),
        "under model": saved({"model": state, "epoch": 3, "optimizer": {"lr": 0.1}}),
        "under state_dict, of DataParallel": saved({"state_dict": under("module.")}),
        "model_state_dict, compiled": saved({"model_state_dict": under("_orig_mod.module.")}),
        "the average": saved({"state_dict": zeros, "state_dict_ema": under("module.")}),
        "averaged by torch": saved(under("module.") | {"n_averaged": torch.tensor(3)}),
        "parameters": saved({name: nn.Parameter(tensor) for name, tensor in state.items()}),
        "half": saved({name: tensor.double() for name, tensor in state.items()}),
    }


def test_a_state_dict_answers_as_the_same_model_by_hand(trained: nn.Sequential, tmp_path: Path) -> None:
    expected = by_hand(trained).answers(QUERIES)
    for what, data in wrappings(trained.state_dict()).items():
        path = tmp_path / ("a.safetensors" if what == "safetensors" else "a.pth")
        path.write_bytes(data)
        suspect = open_suspect(f"cnn@{path}", OWNER)
        np.testing.assert_array_equal(suspect.answers(QUERIES), expected, err_msg=what)
        assert suspect.num_classes == 10
        assert suspect.name == f"a-{suspect.sha256[:8]}"  # type: ignore[index]
        described = open_suspect({"kind": "state-dict", "path": str(path), "architecture": "cnn", "mean": 0.1}, OWNER)
        np.testing.assert_array_equal(described.answers(QUERIES), by_hand(trained, mean=0.1).answers(QUERIES))


def test_the_weights_themselves_where_a_file_holds_an_average_too(trained: nn.Sequential, tmp_path: Path) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in trained.state_dict().items()}
    (tmp_path / "a.pth").write_bytes(saved({"state_dict": trained.state_dict(), "state_dict_ema": zeros}))
    fields = {"kind": "state-dict", "path": str(tmp_path / "a.pth"), "architecture": "cnn"}
    assert not open_suspect(fields, OWNER).answers(QUERIES).any()
    assert open_suspect({**fields, "use_average": False}, OWNER).answers(QUERIES).any()


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "vit_tiny_patch16_224"])
def test_channels_and_classes_are_read_off_the_file(name: str) -> None:
    for channels, num_classes in ((1, 7), (3, 2)):
        options = {"img_size": 32} if name.startswith("vit") else {}
        model = timm.create_model(name, num_classes=num_classes, in_chans=channels, **options).eval()
        state = {n: t for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
        network = network_of(f"timm/{name}", state, "it", channels=3, image_size=32)
        assert (network.spec.channels, network.spec.num_classes) == (channels, num_classes)
        images = torch.rand(2, channels, 32, 32)
        assert torch.equal(network.model[1](images), model(images))


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("payload-ran"),))


def rewritten(data: bytes, edit: Any, compression: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, edit(name, old.read(name)))
    return target.getvalue()


def hostile_files(state: dict[str, torch.Tensor]) -> dict[str, tuple[bytes, str]]:
    whole = saved(state)
    huge = {**state, "0.weight": torch.zeros(1).expand(100_000, 100_000)}
    longer = rewritten(whole, lambda name, data: data.replace(b"M\x20\x01", b"M\xff\xff") if "pkl" in name else data)
    assert longer != whole
    return {
        "payload": (saved({"state_dict": Payload()}), "holds more than tensors"),
        "module": (saved(nn.Linear(2, 2)), "holds more than tensors"),
        "plain pickle": (pickle.dumps(Payload()), "is no file of weights"),
        "old form": (saved(state, _use_new_zipfile_serialization=False), "is no file of weights"),
        "stretched": (saved(huge), "in a form that is not supported"),
        "compressed": (rewritten(whole, lambda name, data: data, zipfile.ZIP_DEFLATED), "parts are compressed"),
        "storage cut": (rewritten(whole, lambda name, data: data[:9] if "/data/" in name else data), "is damaged"),
        "cut": (whole[:-300], "is damaged"),
        "empty": (b"", "is no file of weights"),
        "no tensors": (saved({"epoch": 3}), "holds no tensors by name"),
        "a list": (saved([torch.ones(3)]), "holds no tensors by name"),
        "nested": (saved({"model": {"model": {"model": {"model": {"model": state}}}}}), "holds no tensors by name"),
        "sparse": (saved({**state, "0.bias": state["0.bias"].to_sparse()}), "is not supported"),
        "nan": (saved({**state, "0.bias": state["0.bias"] * torch.nan}), "numbers in '0.bias' that are not finite"),
        "names": (saved({"a": torch.ones(3)}), "does not fit 'cnn': it holds no '0.weight' but 'a'"),
        "shape": (saved({**state, "0.bias": torch.zeros(3)}), r"its '0.bias' is \[3\] but must be \[32\]"),
        "more": (saved({**state, "9.bias": torch.zeros(3)}), "its '9.bias' has no place there"),
        "less": (saved({n: t for n, t in state.items() if n != "2.bias"}), "it holds no '2.bias'"),
        "header": (b"\xff" * 8 + b"{}", "is a damaged safetensors file"),
        "longer than its storage": (longer, "is damaged"),
    }


def test_hostile_files_are_one_sentence_and_run_nothing(
    trained: nn.Sequential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for what, (data, sentence) in hostile_files(trained.state_dict()).items():
        (tmp_path / "a.pth").write_bytes(data)
        with pytest.raises(InputError, match=sentence):
            print(what, open_suspect("cnn@a.pth", OWNER))
    assert not (tmp_path / "payload-ran").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


def test_a_small_file_takes_no_memory_for_a_huge_architecture(trained: nn.Sequential, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(saved(trained.state_dict()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="does not fit"):
        open_suspect(f"timm/eva02_enormous_patch14_clip_224@{tmp_path / 'a.pth'}", OWNER)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.pth", "wb") as file:
        file.truncate(33 * 2**30)  # takes no room on the disk
    with pytest.raises(InputError, match="give a file of up to"):
        open_suspect(f"cnn@{tmp_path / 'a.pth'}", OWNER)


def test_an_architecture_that_is_not_named_or_unknown_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(saved({"a": torch.ones(1)}))
    with pytest.raises(InputError, match="state-dict field 'architecture' is missing"):
        open_suspect(str(tmp_path / "a.pth"), OWNER)
    with pytest.raises(InputError, match="model 'resnet' does not exist"):
        open_suspect(f"resnet@{tmp_path / 'a.pth'}", OWNER)


class TestSurrogates:
    def test_scores_of_the_dataset_in_its_own_size_are_those_of_the_network(
        self, trained: nn.Sequential, tmp_path: Path
    ) -> None:
        (tmp_path / "a.pth").write_bytes(saved(trained.state_dict()))
        model, spec = load_weights(str(tmp_path / "a.pth"), "cnn", None, OWNER).surrogate(OWNER)
        expected = by_hand(trained).answers(QUERIES)
        assert torch.allclose(model(torch.from_numpy(QUERIES) / 255), torch.tensor(expected).float(), atol=1e-5)
        assert (spec.name, spec.num_classes, spec.image_size) == ("cnn", 10, 8)

    def test_other_sizes_channels_and_classes_are_adapted_and_gradients_pass(self, tmp_path: Path) -> None:
        network = timm.create_model("resnet10t", num_classes=4).eval()
        (tmp_path / "a.safetensors").write_bytes(safetensors.torch.save(network.state_dict()))
        (tmp_path / "a.yaml").write_text(
            "{kind: state-dict, path: a.safetensors, architecture: timm/resnet10t, image_size: 32, mean: [0.4, 0.5, 0.6], "
            "std: 0.2, class_names: [a, b, c, d]}"
        )
        owner = Owner(2, (1, 8, 8), ("c", "a"))
        weights = load_weights(str(tmp_path / "a.yaml"), "cnn", None, owner)
        model, spec = weights.surrogate(owner)
        suspect = open_suspect(str(tmp_path / "a.yaml"), owner)
        smooth = torch.linspace(0, 255, 64).reshape(1, 1, 8, 8).to(torch.uint8)
        expected = torch.from_numpy(suspect.answers(smooth.numpy()))[:, [2, 0]].float()
        found = model(smooth / 255)
        assert (found - expected).abs().max() < 0.02 * expected.abs().max() + 0.01  # Pillow rounds to bytes
        images = (smooth / 255).double().requires_grad_(True)
        assert torch.autograd.gradgradcheck(lambda x: (model[0].double()(x) ** 2).sum(), images, atol=1e-4)
        assert (spec.num_classes, spec.channels, spec.image_size) == (2, 1, 8)

    def test_a_checkpoint_of_ours_and_a_folder_of_timm_are_taken_too(self, tmp_path: Path) -> None:
        from taggants.models import ModelSpec, build_model, checkpoint_bytes

        spec = ModelSpec("cnn", 10, 1, 8)
        (tmp_path / "model.safetensors").write_bytes(checkpoint_bytes(build_model(spec, 1), spec))
        model, found = load_weights(str(tmp_path / "model.safetensors"), "other", None, OWNER).surrogate(OWNER)
        images = torch.rand(2, 1, 8, 8)
        assert torch.allclose(model(images), build_model(spec, 1).eval()(images), atol=1e-5)
        assert found.name == "cnn"

    @pytest.mark.parametrize(
        ("owner", "names", "sentence"),
        [
            (Owner(9, (1, 8, 8)), None, "knows 10 classes but the dataset has 9"),
            (Owner(2, (1, 8, 8), ("a", "z")), list("abcdefghij"), "knows 10 classes but the dataset has 2"),
            (Owner(2, (1, 8, 8), ("a", "b")), list("aacdefghib"), "gives two classes one name"),
            (Owner(2, (1, 8, 8), ("a", "b")), list("ab"), "class_names names 2 classes but .* has 10"),
        ],
    )
    def test_classes_that_it_does_not_know_are_refused(
        self, owner: Owner, names: Any, sentence: str, trained: nn.Sequential, tmp_path: Path
    ) -> None:
        (tmp_path / "a.pth").write_bytes(saved(trained.state_dict()))
        fields = "" if names is None else f", class_names: [{', '.join(names)}]"
        (tmp_path / "a.yaml").write_text(f"{{kind: state-dict, path: a.pth, architecture: cnn{fields}}}")
        with pytest.raises(InputError, match=sentence):
            load_weights(str(tmp_path / "a.yaml"), "cnn", None, owner).surrogate(owner)
