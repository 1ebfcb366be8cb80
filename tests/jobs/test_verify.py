"""What `verify` refuses, and how certificates are filed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taggants.config import load_config
from taggants.detection import Certificate, Registration
from taggants.errors import InputError
from taggants.models import ModelSpec, build_model, checkpoint_bytes
from taggants.reporting import summaries
from taggants.run import Run
from taggants.stages.keys import prepare_keys
from taggants.stages.verify import certificate_path, verify, verify_all
from taggants.suspects import CallableSuspect
from tests.jobs.running import exit_code, settings_in

NUM_CLASSES = 10


def run_in(folder: Path, *settings: str) -> Run:
    run = Run(load_config(None, settings_in(folder, "detection.alpha=0.01", *settings)))
    prepare_keys(run)
    return run


def constant(label: int, name: str = "constant") -> CallableSuspect:
    return CallableSuspect(lambda images: np.full(len(images), label), name, NUM_CLASSES)


def knowing(run: Run, name: str = "knowing") -> CallableSuspect:
    """Gives every key its label."""
    return CallableSuspect(lambda images: run.keys.labels, name, NUM_CLASSES)


def test_scores_lists_and_labels_are_all_tested(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    one_hot = np.eye(NUM_CLASSES)[run.keys.labels]
    for answers in (one_hot, np.argsort(-one_hot, axis=1)[:, :3], run.keys.labels):
        certificate = verify(run, CallableSuspect(lambda images, given=answers: given, "given", NUM_CLASSES))
        assert certificate.p_value == pytest.approx(1e-3, rel=1e-9)
        assert certificate.is_detected
    certificate = verify(run, constant((int(run.keys.labels[0]) + 1) % NUM_CLASSES, "other"))
    assert not certificate.is_detected
    assert certificate.suspect_sha256 is None


def test_an_answer_that_fits_no_form_leaves_no_certificate(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    for answer in (np.zeros((3, 5)), np.zeros((3, 11)), np.full(3, 10), np.full((3, 10), np.nan)):
        with pytest.raises(InputError, match="suspect 'odd': "):
            verify(run, CallableSuspect(lambda images, given=answer: given, "odd", NUM_CLASSES))
    assert not run.root.list("certificates")


def test_nan_in_some_answers_is_said(tmp_path: Path, capsys: Any) -> None:
    run = run_in(tmp_path)
    scores = np.eye(NUM_CLASSES)[run.keys.labels]
    scores[1, 0] = np.nan
    certificate = verify(run, CallableSuspect(lambda images: scores, "odd", NUM_CLASSES))
    assert certificate.ranks == (1, NUM_CLASSES, 1)
    assert "1 of 3 answers of odd hold NaN" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("field", "value"), [("alpha", 0.2), ("statistic", "hits"), ("top_k", 2), ("dataset_fingerprint", "other")]
)
def test_a_registration_that_was_edited_and_hashed_anew_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    run = run_in(tmp_path)
    path = Path(run.root.uri) / "registration.json"
    original = Registration.from_text(path.read_text())
    path.write_text(json.dumps(replace(original, **{field: value}).to_json()))
    with pytest.raises(InputError, match=rf"registration.json has {field} = .*so it was changed"):
        verify(run, constant(0))
    assert not run.root.list("certificates")
    path.write_text(json.dumps(original.to_json()))
    assert verify(run, constant(0)).registration == original


@pytest.mark.parametrize("field", ["config_hash", "keys_commitment", "dataset_fingerprint"])
def test_a_plan_of_something_else_is_refused(tmp_path: Path, field: str) -> None:
    settings = settings_in(tmp_path)
    assert exit_code("craft", settings) == 0
    run = Run(load_config(None, settings))
    assert verify(run, constant(0)).p_value > 0
    plan = run.folder.read_plan()
    (Path(run.root.uri) / "plan.json").write_text(replace(plan, **{field: "other"}).to_json())
    with pytest.raises(InputError, match="is of another configuration, other keys or other data"):
        verify(run, constant(1))


def test_certificates_are_never_written_over(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    absent = next(label for label in range(NUM_CLASSES) if label not in run.keys.labels)
    first = verify(run, constant(absent))
    files = {name: run.root.read_bytes(name) for name in run.root.list("certificates")}
    assert list(files) == ["certificates/constant.json"]
    assert verify(run, constant(absent)) == first  # the same outcome again: the first stands
    second = verify(run, knowing(run, "constant"))
    labels = np.where(np.arange(3) == 1, run.keys.labels, (run.keys.labels + 1) % NUM_CLASSES)
    third = verify(run, CallableSuspect(lambda images: labels, "constant", NUM_CLASSES))
    fourth = verify(run, knowing(run, "constant"))
    assert fourth == second
    assert [certificate_path(run, c) for c in (first, second, third)] == [
        "certificates/constant.json",
        "certificates/constant-2.json",
        "certificates/constant-3.json",
    ]
    assert run.root.list("certificates") == [f"certificates/constant{end}.json" for end in ("-2", "-3", "")]
    for name, content in files.items():
        assert run.root.read_bytes(name) == content
    for certificate in (first, second, third):
        assert Certificate.from_text(run.root.read_bytes(certificate_path(run, certificate))) == certificate


def test_a_damaged_certificate_stays_and_the_next_is_filed_beside_it(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    verify(run, constant(0))
    path = Path(run.root.uri) / "certificates" / "constant.json"
    path.write_text(path.read_text()[:-10])
    damaged = path.read_text()
    assert certificate_path(run, verify(run, constant(0))) == "certificates/constant-2.json"
    assert path.read_text() == damaged


def test_the_table_of_several_suspects_keeps_names_and_numbers_apart(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    name = "victim-0-589c5ca80e9f-50278683-and-longer"
    absent = next(label for label in range(NUM_CLASSES) if label not in run.keys.labels)
    lines = summaries.several_suspects(verify_all(run, [constant(absent, "a"), knowing(run, name)])).split("\n")[1:]
    assert [line.split() for line in lines] == [
        ["suspect", "p", "adjusted", "e-value", "covers", "decision"],
        ["a", "1.0e+00", "1.0e+00", "not", "detected"],
        [name, "1.0e-03", "2.0e-03", "DETECTED"],
    ]
    assert {line.index(word) for line, word in zip(lines, ("decision", "not", "DETECTED"), strict=True)} == {85}


def test_suspects_beside_one_that_is_refused_are_tested(tmp_path, capsys):
    settings = settings_in(tmp_path)
    assert exit_code("craft", settings) == 0
    capsys.readouterr()
    [surrogate] = tmp_path.glob("runs/models/surrogate-0-*/model.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    spec = ModelSpec("cnn", num_classes=4, channels=1, image_size=8)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/model.safetensors").write_bytes(checkpoint_bytes(build_model(spec, 0), spec))
    named = [tmp_path / "junk.safetensors", tmp_path / "other/model.safetensors", surrogate]
    assert exit_code("verify", [*settings, f"verify.suspects=[{', '.join(map(str, named))}]"]) == 2
    captured = capsys.readouterr()
    first, second = captured.err.splitlines()
    assert first.startswith("error: ")
    assert "junk.safetensors is not a model written by taggants" in first
    assert "has 4 classes but the keys were drawn from 10" in second
    assert "Suspect    surrogate-0-" in captured.out
    assert len(list(tmp_path.glob("runs/*/certificates/surrogate-0-*.json"))) == 1
