"""Files of models that a suspect may be."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from taggants.suspects import Owner, open_suspect
from tests.fuzz.kind import Kind

OWNER = Owner(10, (1, 8, 8))


def _weights() -> list[bytes]:
    import safetensors.torch
    import torch

    from taggants.models import ModelSpec, build_model

    state = build_model(ModelSpec("cnn", 10, 1, 8), seed=0)[1].state_dict()  # type: ignore[index]
    files = [safetensors.torch.save(state)]
    for content in (state, {"model": state, "epoch": 3}):
        file = io.BytesIO()
        torch.save(content, file)
        files.append(file.getvalue())
    return files


def _onnx() -> list[bytes]:
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((10, 64), dtype=np.float32), "weight")
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["scores"], transB=1),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "it", [image], [scores], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return [bytes(model.SerializeToString())]


def _description() -> list[bytes]:
    fields = {
        "kind": "onnx",
        "path": "a.onnx",
        "mean": [0.5],
        "std": 0.25,
        "class_names": list("abcdefghij"),
        "top_m": 3,
    }
    other = {"kind": "state-dict", "path": "a.pth", "architecture": "cnn", "image_size": 8, "use_average": True}
    return [json.dumps(fields).encode(), json.dumps(other).encode(), b"kind: onnx\npath: a.onnx\nmean: 1e-1\n"]


def _opened(name: str, named: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, folder: Path) -> object:
        (folder / name).write_bytes(data)
        return open_suspect(named.format(folder / name), OWNER)

    return read


def _described(data: bytes, folder: Path) -> object:
    (folder / "a.onnx").write_bytes(_onnx()[0])
    (folder / "a.pth").write_bytes(_weights()[1])
    return _opened("suspect.yaml", "{}")(data, folder)


MODEL_FILES = {
    "weights": Kind(_weights, _opened("a.pth", "cnn@{}")),
    "onnx": Kind(_onnx, _opened("a.onnx", "{}")),
    "suspect": Kind(_description, _described, is_text=True),
}
