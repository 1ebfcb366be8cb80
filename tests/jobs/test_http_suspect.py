"""A model behind an unreliable interface, asked by the command, which is killed on the way; and one of ImageNet's classes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from taggants.config import load_config
from taggants.data.image_codec import encode_png
from taggants.detection import Certificate
from taggants.errors import InputError
from taggants.run import Run
from taggants.stages.query_export import query_batches
from taggants.stages.verify import verify
from taggants.suspects import CallableSuspect
from tests.jobs.running import exit_code, settings_in
from tests.jobs.test_asking import NUM_COVERS, NUM_IMAGES, NUM_QUERIES, run_in
from tests.suspects.http_interface import Answer, answer, interface, pixels_of, png_in_json

TOKEN = "secret-token-4711"
MOST_A_SECOND = 12


def onnx_model(images: np.ndarray, labels: np.ndarray) -> bytes:
    """A linear model of the digits that was trained on these, too."""
    helper = pytest.importorskip("onnx.helper")
    from onnx import TensorProto
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=200).fit(images.reshape(len(images), -1) / 255, labels)
    weights = [
        helper.make_tensor("w", TensorProto.FLOAT, fitted.coef_.T.shape, fitted.coef_.T.ravel()),
        helper.make_tensor("b", TensorProto.FLOAT, fitted.intercept_.shape, fitted.intercept_),
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["scores"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 64])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 10])]
    graph = helper.make_graph(nodes, "digits", inputs, outputs, weights)
    opset = [helper.make_opsetid("", 13)]
    content: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return content


@pytest.mark.slow
def test_an_unreliable_interface_is_asked_within_its_budget_although_the_command_is_killed(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run = run_in(tmp_path, "question")
    images = np.concatenate(list(query_batches(run, run.registration)))
    rows = range(300)
    natural, labels = run.sources[0].read_images(rows), run.sources[0].index().labels[list(rows)]
    of_keys = np.repeat(run.keys.labels, NUM_QUERIES)
    content = onnx_model(np.concatenate([natural, images[NUM_COVERS:]]), np.concatenate([labels, of_keys]))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def best(shown: np.ndarray) -> np.ndarray:
        (scores,) = session.run(None, {"x": shown.reshape(len(shown), -1).astype(np.float32) / 255})
        return np.argsort(-scores, axis=1, kind="stable")[:, :5]

    statuses: Counter[int] = Counter()
    kill_now = threading.Event()

    def respond(number: int, content: bytes) -> Answer:
        if number == 120:
            kill_now.set()
        responded = reply(number, content)
        with arrived.lock:
            statuses[responded[0]] += 1
        return responded

    def reply(number: int, content: bytes) -> Answer:
        if arrived.headers[number].get("Authorization") != f"Bearer {TOKEN}":
            return answer({}, 401)
        if number >= MOST_A_SECOND and arrived.times_s[number] - arrived.times_s[number - MOST_A_SECOND] < 1:
            return answer({}, 429, Retry_After="1")
        if number % 10 == 7:
            return answer({"error": "overloaded"}, 500 if number % 20 == 7 else 503)
        labels = best(pixels_of(png_in_json(content, "image"))[None])[0]
        return answer({"predictions": [{"label": f"digit {label}", "rank": rank} for rank, label in enumerate(labels)]})

    described = {
        "kind": "http",
        "name": "shop",
        "headers": {"Authorization": "Bearer $SHOP_TOKEN"},
        "send": "json",
        "field": "image",
        "labels": "predictions.*.label",
        "class_names": [f"digit {label}" for label in range(10)],
        "max_requests": 700,
        "requests_per_second": 80,
        "concurrency": 4,
    }
    with interface(respond) as arrived:
        path = tmp_path / "shop.yaml"
        path.write_text(json.dumps({**described, "url": arrived.url}))
        words = [sys.executable, "-m", "taggants", "verify", run.uri, str(path)]
        started: dict[str, Any] = {"env": {**os.environ, "SHOP_TOKEN": TOKEN}, "text": True}
        killed = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **started)
        assert kill_now.wait(120)
        killed.kill()
        said = killed.communicate()[0]
        assert killed.returncode == -9
        assert not run.root.list("certificates")
        done = subprocess.run(words, capture_output=True, check=True, **started)
    said += done.stdout + done.stderr
    assert "answers are there from before" in done.stdout
    assert len(arrived.bodies) <= 700
    assert NUM_IMAGES <= statuses[200] <= NUM_IMAGES + 4  # it went on: only answers under way were lost
    assert min(statuses[status] for status in (429, 500, 503)) > 0
    certificate = Certificate.from_text(run.root.read_bytes("certificates/shop.json"))
    assert certificate.verdict == "detected"
    assert certificate.suspect_sha256 is None
    direct = verify(run, CallableSuspect(best, "direct", 10))
    assert certificate.p_values == direct.p_values
    assert certificate.answers_sha256 == direct.answers_sha256
    assert TOKEN not in said
    assert all(TOKEN.encode() not in run.root.read_bytes(file) for file in run.root.list())


def test_a_model_of_imagenets_classes_is_asked_for_those_of_a_smaller_dataset(tmp_path: Path, capsys: Any) -> None:
    """Of random weights: it cannot be judged, and never is it detected."""
    import timm
    from timm.data import ImageNetInfo

    names = ImageNetInfo().label_names()
    assert len(names) == 1000
    own = [*names[5:900:50], "not in imagenet", "nor this"]
    rng = np.random.default_rng(0)
    for split, num in (("train", 10), ("test", 2)):
        for name in own:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(num):
                image = rng.integers(0, 256, (3, 16, 16), dtype=np.uint8)
                (tmp_path / "data" / split / name / f"{index}.png").write_bytes(encode_png(image))
    settings = settings_in(
        tmp_path,
        *(
            "data.source=imagefolder",
            f"data.root={tmp_path / 'data'}",
            "data.train=train",
            "data.test=test",
            "data.channels=3",
        ),
        *("detection.statistic=question", "detection.question={num_covers: 40, amplitudes: [1/4]}", "keys.num_keys=8"),
        "signing.images_per_key=1",
    )
    assert exit_code("craft", settings) == 0
    run = Run(load_config(None, settings))
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", pretrained=False, num_classes=1000).eval()

    def predict(images: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(images) / 127.5 - 1
        return model(torch.nn.functional.interpolate(pixels, size=64))

    suspect = CallableSuspect(predict, "imagenet", 1000, class_names=tuple(names))
    with pytest.raises(InputError, match="has 1000 classes but the keys were drawn from 20"):
        verify(run, suspect)
    certificate = verify(run, suspect, label_map="names")
    assert certificate.label_map is not None
    assert certificate.label_map.kind == "names"
    by_class = dict(zip(run.index.class_names or (), certificate.label_map.classes, strict=True))
    assert by_class == {name: names.index(name) if name in names else None for name in own}
    num_unknown = sum((run.index.class_names or ())[label] not in names for label in run.keys.labels)
    assert certificate.num_left_out == num_unknown
    assert certificate.evidence.num_classes == len(own) - 2
    assert certificate.verdict == "cannot be judged"
    assert certificate.covers is not None
    assert certificate.covers.num == 36
    assert "it knows 18 of the 20 classes (label map names)" in capsys.readouterr().out
    fitted = verify(run, suspect, label_map="fitted")  # agrees with what it was fitted on, and not with the other half
    assert fitted.verdict == "cannot be judged"
