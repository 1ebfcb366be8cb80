"""Naming a suspect by a text, a description file or a mapping."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import Field

from taggants.errors import InputError
from taggants.suspects import (
    SUSPECT_KINDS,
    CallableSuspect,
    FileUri,
    Owner,
    SuspectDescription,
    SuspectKind,
    describe_suspect,
    open_suspect,
)

OWNER = Owner(4, (1, 2, 2))
SCORES = [0.1, 0.4, 0.4, 0.2]


class ToyDescription(SuspectDescription):
    path: FileUri
    factor: float = Field(1.0, gt=0)

    def open(self, owner: Owner) -> CallableSuspect:
        return CallableSuspect(lambda images: np.array([SCORES] * len(images)) * self.factor, "toy", owner.num_classes)


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    before = dict(SUSPECT_KINDS)
    SUSPECT_KINDS.register(
        "toy", SuspectKind(ToyDescription, "toy:PATH", lambda t: {"path": t[4:]} if t.startswith("toy:") else None)
    )
    yield
    SUSPECT_KINDS._entries = before


def test_a_text_a_file_and_a_mapping_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"kind": "toy", "path": "model", "factor": 1}
    (tmp_path / "a.yaml").write_text("kind: toy\npath: model\nfactor: 1e0\n")
    (tmp_path / "a.json").write_text(json.dumps(fields))
    inside = ToyDescription(path=f"{tmp_path}/model")
    assert describe_suspect(str(tmp_path / "a.yaml")) == describe_suspect(str(tmp_path / "a.json")) == inside
    assert describe_suspect("toy:model") == describe_suspect(fields) == ToyDescription(path="model")
    monkeypatch.setenv("PLACE", "s3://bucket")
    (tmp_path / "a.yaml").write_text("{kind: toy, path: $PLACE/model}")
    assert describe_suspect(str(tmp_path / "a.yaml")) == ToyDescription(path="s3://bucket/model")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kind: toy\npath: a\nfactro: 2", "toy field 'factro' does not exist; did you mean 'factor'?"),
        ("kind: toy\npath: a\nfactor: -1", "toy field 'factor' = -1 must be greater than 0"),
        ("kind: toy", "toy field 'path' is missing"),
        ("kind: toy\npath: $NOT_SET_ANYWHERE/a", "names an environment variable that is not set"),
        ("kind: toy\npath: a\nclass_names: x", "toy field 'class_names' = 'x'"),
        ("kind: oracle\npath: a", "suspect kind 'oracle' does not exist; use one of checkpoint"),
        ("path: a", "describes no suspect; write `kind: ` and one of checkpoint"),
        ("- a", "describes no suspect"),
        ("", "describes no suspect"),
        ("kind: [toy]", "describes no suspect"),
        ("kind: toy\nkind: toy", "is not YAML: .*'kind' is set twice"),
        ("{", "is not YAML"),
        ("!!python/object:os.system a", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        ("\u00e9".encode("latin-1"), "is not YAML"),
        (b"#" * 2**21, "is longer than"),
    ],
)
def test_bad_descriptions_are_one_sentence(text: str | bytes, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "suspect.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=sentence):
        describe_suspect(str(file))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match=r"suspect\.yaml does not exist"):
        describe_suspect("no/suspect.yaml")


def test_name_and_class_names_are_those_of_the_description() -> None:
    named = {"kind": "toy", "path": "a", "name": "b", "class_names": ["p", "q", "r", "s"]}
    suspect = open_suspect(named, OWNER)
    assert (suspect.name, suspect.class_names) == ("b", ("p", "q", "r", "s"))
    with pytest.raises(InputError, match="class_names names 2 classes but suspect 'toy' has 4"):
        open_suspect({"kind": "toy", "path": "a", "class_names": ["p", "q"]}, OWNER)


@pytest.mark.parametrize("top_m", [1, 3, 9])
def test_the_best_labels_alone(top_m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    suspect = open_suspect({"kind": "toy", "path": "a", "top_m": top_m}, OWNER)
    images: Any = np.zeros((2, 1, 2, 2), np.uint8)
    assert suspect.answers(images).tolist() == [[1, 2, 3, 0][:top_m]] * 2
    monkeypatch.setitem(globals(), "SCORES", [0.1, np.nan, 0.4, 0.2])
    assert suspect.answers(images).tolist() == [[-1] * min(top_m, 4)] * 2
