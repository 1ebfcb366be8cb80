"""Suspects that are files of whole models: ONNX, TorchScript and torch.export; a toy of each answers as the module itself."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from taggants.errors import InputError
from taggants.suspects import CallableSuspect, Owner, open_suspect

OWNER = Owner(10, (1, 8, 8))
QUERIES = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)


def by_hand(module: nn.Module) -> CallableSuspect:
    return CallableSuspect(lambda images: module((torch.from_numpy(images) / 255 - 0.5) / 0.25), "by-hand", 10)


def onnx_of(module: nn.Sequential, batch: int | str = "n", size: int | str = 8, **changes: Any) -> onnx.ModelProto:
    """The same network, node by node."""
    nodes, tensors, last = [], [], "images"
    for index, layer in enumerate(module):
        names = [f"{index}.{name}" for name in ("weight", "bias") if hasattr(layer, name)]
        tensors += [numpy_helper.from_array(getattr(layer, n.split(".")[1]).detach().numpy(), n) for n in names]
        kind, options = (
            type(layer).__name__.replace("Conv2d", "Conv").replace("Linear", "Gemm").replace("ReLU", "Relu"),
            {},
        )
        if isinstance(layer, nn.Conv2d):
            options = {"strides": list(layer.stride), "pads": list(layer.padding) * 2}
        if isinstance(layer, nn.Linear):
            options = {"transB": 1}
        nodes.append(helper.make_node(kind, [last, *names], [f"out-{index}"], **options))
        last = f"out-{index}"
    image = helper.make_tensor_value_info("images", changes.get("type", TensorProto.FLOAT), [batch, 1, size, size])
    output = helper.make_tensor_value_info(last, TensorProto.FLOAT, [batch, 10])
    graph = helper.make_graph(nodes, "it", [image], [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def described(path: Path, kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "path": str(path), "mean": 0.5, "std": 0.25, **fields}


@pytest.mark.parametrize("batch", ["n", 2, 7])
def test_onnx_answers_as_the_module(batch: Any, trained: nn.Sequential, tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    onnx.save(onnx_of(trained, batch), path)
    expected = by_hand(trained).answers(QUERIES)
    suspect = open_suspect(described(path, "onnx"), OWNER)
    np.testing.assert_allclose(suspect.answers(QUERIES), expected, atol=1e-4)
    assert suspect.num_classes == 10
    assert suspect.name.startswith("theirs-")
    larger = Owner(10, (3, 20, 20))  # its own size and channels are read off the file
    assert open_suspect(str(path), larger).answers(np.zeros((3, 3, 20, 20), np.uint8)).shape == (3, 10)


def test_programs_of_torch_answer_as_the_module_once_they_are_trusted(trained: nn.Sequential, tmp_path: Path) -> None:
    expected = by_hand(trained).answers(QUERIES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(trained, torch.zeros(2, 1, 8, 8)), tmp_path / "script.pt")
        batch = torch.export.Dim("batch")
        program = torch.export.export(trained, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
        torch.export.save(program, tmp_path / "export.pt2")
    for name, kind in (("script.pt", "torchscript"), ("export.pt2", "torch-export")):
        path = tmp_path / name
        with pytest.raises(InputError, match="is a program, and opening it runs code of whoever made it"):
            open_suspect(described(path, kind), OWNER)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            suspect = open_suspect(described(path, kind, trust_code=True), OWNER)
        np.testing.assert_allclose(suspect.answers(QUERIES), expected, atol=1e-4)
        with pytest.raises(InputError, match="holds a program"):
            open_suspect({"kind": "state-dict", "path": str(path), "architecture": "cnn"}, OWNER)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(InputError, match=r"is no TorchScript file|is no exported program"):
            open_suspect(described(path, kind, trust_code=True), OWNER)


def flattening(size: int) -> onnx.ModelProto:
    """As many classes as pixels."""
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, size, size])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", size**2])
    graph = helper.make_graph([helper.make_node("Flatten", ["images"], ["y"])], "it", [image], [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def hostile(model: onnx.ModelProto, tmp_path: Path) -> dict[str, tuple[onnx.ModelProto, str]]:
    def changed(edit: Any) -> onnx.ModelProto:
        other = onnx.ModelProto.FromString(model.SerializeToString())
        edit(other)
        return other

    def outside(other: onnx.ModelProto) -> None:
        tensor = other.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")

    def outside_of_a_branch(other: onnx.ModelProto) -> None:
        inner = onnx.ModelProto.FromString(other.SerializeToString())
        outside(inner)
        node = other.graph.node.add(op_type="If", input=["x"], output=["y"])
        node.attribute.append(helper.make_attribute("then_branch", inner.graph))

    def with_input(*shape: Any, kind: int = TensorProto.FLOAT) -> Any:
        value = helper.make_tensor_value_info("images", kind, shape)
        return lambda other: other.graph.input[0].CopyFrom(value)

    return {
        "outside": (changed(outside), "keeps tensors in other files"),
        "inside": (changed(outside_of_a_branch), "keeps tensors in other files"),
        "operators": (changed(lambda m: m.opset_import.add(domain="evil", version=1)), "uses operators of evil"),
        "unknown": (changed(lambda m: setattr(m.graph.node[0], "op_type", "Run")), "cannot be run by onnxruntime"),
        "rank": (changed(with_input("n", 64)), "must have one input of float images|cannot be run"),
        "type": (changed(with_input("n", 1, 8, 8, kind=TensorProto.DOUBLE)), "must have one input|cannot be run"),
        "oblong": (changed(with_input("n", 1, 8, 16)), "8 x 16 px|cannot be run"),
        "huge": (changed(with_input("n", 1, 10**7, 10**7)), "10000000 px|cannot be run"),
        "channels": (changed(with_input("n", 7, 8, 8)), "takes 7 channels|cannot be run"),
        "batch": (changed(with_input(2**23, 1, 8, 8)), "more than 268435456|cannot be run"),
        "classes": (flattening(1024), "answers with .* 1048576. float32, not with"),
    }


def test_hostile_onnx_files_are_one_sentence(trained: nn.Sequential, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    for what, (model, sentence) in hostile(onnx_of(trained), tmp_path).items():
        path.write_bytes(model.SerializeToString())
        with pytest.raises(InputError, match=sentence):
            print(what, open_suspect(str(path), OWNER))
    for data in (b"", b"\x08\x07garbage" * 9, b"PK\x03\x04"):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"is no ONNX file|must have one input|cannot be run"):
            open_suspect(str(path), OWNER)


def test_scores_that_are_none_are_named(trained: nn.Sequential, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    model = onnx_of(trained)
    model.graph.output.append(helper.make_tensor_value_info("out-0", TensorProto.FLOAT, ["n", 32, 8, 8]))
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"answers with \[2, 32, 8, 8\] float32, not with float scores"):
        open_suspect(described(path, "onnx", output="out-0"), OWNER)
    with pytest.raises(InputError, match="has no output 'none'; use one of out-7, out-0"):
        open_suspect(described(path, "onnx", output="none"), OWNER)
    with pytest.raises(InputError, match=r"does not take images \[3, 16, 16\]"):
        open_suspect(described(path, "onnx", image_size=16, channels=3), OWNER)


@pytest.mark.parametrize(("module", "kind"), [("onnxruntime", "onnx"), ("transformers", "huggingface")])
def test_a_library_that_is_not_installed_is_named(
    module: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match=rf"pip install 'taggants\[{kind}\]'"):
        open_suspect({"kind": kind, "path": str(tmp_path / "a")}, OWNER)


class TestHuggingFace:
    OWNER = Owner(3, (3, 16, 16))
    QUERIES = np.random.default_rng(1).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        import transformers

        folder = tmp_path_factory.mktemp("hub") / "tiny-vit"
        torch.manual_seed(0)
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8,
            num_labels=3, id2label={0: "cat", 1: "dog", 2: "emu"}, label2id={"cat": 0, "dog": 1, "emu": 2},
        )  # fmt: skip
        transformers.ViTForImageClassification(config).eval().save_pretrained(folder)
        options = {"size": {"height": 16, "width": 16}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
        transformers.ViTImageProcessor(**options).save_pretrained(folder)
        return folder

    def test_a_folder_answers_as_the_pipeline(self, folder: Path) -> None:
        import transformers
        from PIL import Image

        suspect = open_suspect(f"huggingface:{folder}", self.OWNER)
        assert suspect.class_names == ("cat", "dog", "emu")
        pipe = transformers.pipeline("image-classification", model=str(folder), device="cpu")
        scores = suspect.answers(self.QUERIES)
        shares = torch.tensor(scores).softmax(1).numpy()
        for image, share in zip(self.QUERIES, shares, strict=True):
            found = {a["label"]: a["score"] for a in pipe(Image.fromarray(image.transpose(1, 2, 0)))}
            np.testing.assert_allclose([found[name] for name in ("cat", "dog", "emu")], share, atol=1e-5)

    def test_a_pipeline_in_python(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import transformers

        from taggants.suspects.hugging_face import suspect_of

        pipe = transformers.pipeline("image-classification", model=str(folder), device="cpu")
        found = suspect_of(pipe.model, pipe.image_processor, "pipe", self.OWNER)
        expected = open_suspect(f"huggingface:{folder}", self.OWNER)
        np.testing.assert_array_equal(found.answers(self.QUERIES), expected.answers(self.QUERIES))

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"size": {"height": 16, "width": 8}}, "name image_size"),
            ({"rescale_factor": 1.0}, "does not scale pixels"),
            ({"do_rescale": False}, "does not scale pixels"),
            ({"image_std": [0.0, 1.0, 1.0]}, "must be above 0"),
        ],
    )
    def test_a_processor_of_another_kind_is_named(
        self, changes: dict[str, Any], sentence: str, folder: Path, tmp_path: Path
    ) -> None:
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        content = json.loads((folder / "preprocessor_config.json").read_text())
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(content | changes))
        with pytest.raises(InputError, match=sentence):
            open_suspect({"kind": "huggingface", "path": str(tmp_path)}, self.OWNER)

    def test_code_and_pickles_of_others_are_not_run(self, folder: Path, tmp_path: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        files = {"configuration_evil.py": f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: pass\n"}
        content |= {"auto_map": {"AutoConfig": "configuration_evil.C"}, "model_type": "evil"}
        (tmp_path / "config.json").write_text(json.dumps(content))
        (tmp_path / "configuration_evil.py").write_text(files["configuration_evil.py"])
        with pytest.raises(InputError, match="cannot be opened as an image classifier of transformers"):
            open_suspect({"kind": "huggingface", "path": str(tmp_path)}, self.OWNER)
        assert not (tmp_path / "ran").exists()
        with pytest.raises(InputError, match="cannot be opened as an image classifier"):
            open_suspect("huggingface:nobody/nothing", self.OWNER)
        with pytest.raises(InputError, match="named by either model or path"):
            open_suspect({"kind": "huggingface"}, self.OWNER)
