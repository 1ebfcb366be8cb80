"""A registered question from the configuration to the certificate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taggants import pipeline
from taggants.cli import main
from taggants.config import load_config
from taggants.detection import Certificate, Registration, describe
from taggants.detection.power import effect_of_table
from taggants.errors import InputError
from taggants.run import Run
from taggants.stages.keys import prepare_keys
from taggants.stages.questions import read_answers, read_signing
from taggants.stages.verify import verify
from taggants.suspects import CallableSuspect, question_evidence
from tests.detection.registrations import registered
from tests.jobs.running import settings_in

QUESTION = (
    "detection.statistic=question",
    "detection.question={num_covers: 20, amplitudes: [1/4, 1/2]}",
    "detection.alpha=0.01",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(load_config(None, settings_in(tmp_path_factory.mktemp("question"), *QUESTION)))
    run.write_config()
    prepare_keys(run)
    assert pipeline.sign(run).export is not None
    return run


def knowing(run: Run, form: str, share: float = 1.0) -> CallableSuspect:
    """Favours the label of the key that an image shows; plain covers come first and show none."""
    left = [-1] * 20 + np.repeat(run.keys.labels, 41).tolist()

    def predict(images: np.ndarray) -> np.ndarray:
        labels = [left.pop(0) for _ in images]
        scores = np.random.default_rng(len(left)).random((len(images), 10))
        scores[range(len(images)), labels] += share
        order = np.argsort(-scores, axis=1)
        return {"scores": scores, "top 5": order[:, :5], "top 1": order[:, 0]}[form]

    return CallableSuspect(predict, "knowing-" + form.replace(" ", ""), 10)


def test_the_registration_holds_the_question_and_the_record_what_came_of_it(run: Run) -> None:
    registration = run.registration
    assert registration.to_json()["format"] == "taggants-registration/2"
    question = registration.question
    assert question is not None
    assert (len(question.cover_ids), question.amplitudes, question.bare_weight) == (20, (64, 128), 20)
    labels = run.sources[1].labels()[list(question.cover_ids)]
    assert np.bincount(labels).tolist() == [2] * 10
    assert registration.image_shape == (1, 8, 8)
    assert (registration.keys_root, registration.number) == (run.keys.root, 1)
    assert (registration.demonstration, registration.randomness, registration.level) == (False, None, 0.01)
    assert [name.rsplit("-", 1)[0] for name in registration.references] == ["surrogate-0", "reference-0"]
    record, answers = read_signing(run, registration)
    assert record.registration_sha256 == registration.registration_sha256
    assert record.signed_fingerprint == run.signed_manifest.fingerprint
    assert [a.num_images for a in answers] == [20 + 3 * 41] * 2
    assert answers[0].best[:20].tolist() != answers[1].best.tolist()[20:40]


@pytest.mark.parametrize("form", ["scores", "top 5", "top 1"])
def test_a_suspect_that_favours_the_labels_is_detected_by_any_kind_of_answer(run: Run, form: str) -> None:
    certificate = verify(run, knowing(run, form))
    assert certificate.is_detected
    assert 5e-4 < certificate.p_value < 5e-3  # 10 classes and 3 keys, less what references answer by themselves
    # From the recorded answers alone, the labels apart:
    registration = certificate.registration
    assert certificate.answers_sha256 is not None
    answers = read_answers(run, registration, certificate.answers_sha256)
    record, references = read_signing(run, registration)
    assert certificate.signing == record
    assert registration.question is not None
    assert question_evidence(registration.question, answers, references, run.keys.labels) == certificate.evidence
    assert Certificate.from_json(json.loads(json.dumps(certificate.to_json()))) == certificate
    assert "Asked      41 images for each key: itself, laid over 20 covers at 2 amplitudes" in describe(certificate)


def test_power_is_measured_on_the_answers_of_victims(run: Run, capsys: Any) -> None:
    strong, weak = knowing(run, "scores"), knowing(run, "top 5", share=0.2)
    strong.name, weak.name = "victim-0-strong", "victim-1-weak"
    tables, positions = [], []
    for suspect in (strong, weak):
        evidence = verify(run, suspect).evidence
        assert evidence.table is not None
        tables += evidence.table
        positions += evidence.positions.tolist()
    assert main(["plan", run.root.uri, "--effect", "1", "--json"]) == 0
    power = json.loads(capsys.readouterr().out.splitlines()[-1])["power"]
    assert (power["statistic"], power["level"], power["num_victims"]) == ("question", 0.01, 2)
    assumed, whole, *smaller = power["rows"]
    assert (assumed["effect"], assumed["error"]) == (1.0, None)
    assert whole["asked"] == "20 covers, 2 references, all labels"
    assert (whole["effect"], whole["error"]) == pytest.approx(effect_of_table(tables, positions))
    assert [row["asked"].split(", ")[0] for row in smaller[:3]] == ["0 covers", "4 covers", "16 covers"]
    assert [row["asked"].partition(", ")[2] for row in smaller[3:]] == [
        "0 references, all labels",
        "1 reference, all labels",
        "2 references, best 5 labels",
        "2 references, best label",
    ]


def test_others_are_not_and_silence_counts_for_nothing(run: Run, capsys: Any) -> None:
    constant = verify(run, CallableSuspect(lambda images: np.full((len(images), 10), 0.5), "constant", 10))
    assert constant.p_value == 1.0
    assert constant.verdict == "cannot be judged"
    refusing = knowing(run, "top 1")
    refusing.name = "refusing"
    inner = refusing.answers

    def mostly_refuses(images: np.ndarray) -> np.ndarray:
        answers = inner(images)
        answers[1:] = -1
        return answers

    refusing.answers = mostly_refuses  # type: ignore[method-assign]
    # By the bare keys, which it answered; both references may answer one of three keys with its label, which then says nothing.
    assert verify(run, refusing).p_value < 0.011
    assert "139 of 143 answers of refusing hold NaN or are refusals" in capsys.readouterr().out


def test_what_was_changed_afterwards_is_refused(run: Run, tmp_path: Path) -> None:
    folder = Path(run.root.uri)
    suspect = knowing(run, "scores")

    def refused(name: str, content: bytes | None, sentence: str) -> None:
        path = folder / name
        original = path.read_bytes()
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        try:
            with pytest.raises(InputError, match=sentence):
                verify(run, suspect)
        finally:
            path.write_bytes(original)

    registration = run.registration
    assert registration.question is not None
    other = replace(registration.question, cover_ids=registration.question.cover_ids[::-1])
    edits: dict[str, Any] = {
        "question": other,
        "references": registration.references[:1],
        "alpha": 0.2,
        "statistic": "hits",
        "keys_root": "0" * 64,
        "number": 2,
        "num_suspects": 2,
        "num_looks": 2,
        "demonstration": True,
    }
    for field, value in edits.items():
        changed = replace(registration, **{field: value})
        refused("registration.json", json.dumps(changed.to_json()).encode(), f"has {field} = .*so it was changed")
    record, _ = read_signing(run, registration)
    refused("signing.json", None, "signing.json is missing")
    refused("signing.json", b"{}", "signing record must be")
    changed_record = replace(record, registration_sha256="0" * 64)
    refused("signing.json", json.dumps(changed_record.to_json()).encode(), "completes another registration")
    short = replace(
        record, reference_weights=record.reference_weights[:1], reference_answers=record.reference_answers[:1]
    )
    refused("signing.json", json.dumps(short.to_json()).encode(), "does not name the registered references")
    for change, sentence in (
        ({"signed_fingerprint": "0" * 64}, "another signed_fingerprint than .*manifest.json"),
        ({"reference_weights": ("0" * 64, "1" * 64)}, "other reference_weights than those of .*surrogate-0"),
        ({"reference_answers": ("0" * 64,) * 2}, "does not exist"),
    ):
        refused("signing.json", json.dumps(replace(record, **change).to_json()).encode(), sentence)
    refused(f"answers/{record.reference_answers[0]}.parquet", b"other", "was changed after it was recorded")
    certificate = verify(run, suspect)
    content = certificate.to_json()
    for name in ("answers_sha256", "signing"):
        with pytest.raises(InputError, match=name.replace("signing", "signing record")):
            Certificate.from_json({**content, name: None})
        with pytest.raises(InputError, match="only the fields"):
            Certificate.from_json({key: value for key, value in content.items() if key != name})


def test_a_registration_of_format_1_is_what_it_was(tmp_path: Path) -> None:
    """Its hash was published: that of a run without a question does not change."""
    content = registered().to_json()
    assert content["registration_sha256"] == "502c89573ecd46129c73e458198f919f021c3e94182ac7247f11ee664d48ade1"
    assert content["format"] == "taggants-registration/1"
    assert Registration.from_json(content).to_json() == content


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("detection.question=null", "needs a question"),
        ("detection.question={num_covers: 0, bare_key: false}", "nothing is asked"),
        ("detection.question={amplitudes: [0.3]}", "whole 256ths"),
        ("detection.question={amplitudes: []}", "must not be empty"),
    ],
)
def test_a_question_that_cannot_be_asked_is_named(setting: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        load_config(None, [setting])
