"""An honest claim passes; a changed one is refused by a line that names what is wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taggants.claims.check import ClaimFiles, Finding, check_claim
from taggants.cli import main
from taggants.detection import Certificate, Evidence, certify
from taggants.detection.outcome import LabelMap
from taggants.run import Run
from taggants.stages.verify import verify
from taggants.suspects import Answers, CheckpointSuspect
from taggants.suspects.recorded_answers import decode_answers, encode_answers
from tests.claims.claims import words
from tests.claims.tampering import changed_a_little, encoded, leaves, rehashed, with_value
from tests.jobs.running import settings_in


@pytest.fixture(scope="module")
def honest(files: dict[str, Any]) -> ClaimFiles:
    return ClaimFiles(
        certificate=files["certificate"].read_bytes(),
        registration=files["registration"].read_bytes(),
        disclosure=files["secret"].read_bytes(),
        answers=tuple((path.name, path.read_bytes()) for path in files["answers"]),
    )


def refusals(claim: ClaimFiles) -> list[Finding]:
    return [finding for finding in check_claim(claim) if finding.holds is False]


def words_of(files: dict[str, Any], disclosure: str) -> list[str]:
    answers = [str(path) for path in files["answers"]]
    given = [
        "--registration",
        str(files["registration"]),
        "--disclosure",
        str(files[disclosure]),
        "--answers",
        *answers,
    ]
    return ["check", str(files["certificate"]), *given]


@pytest.mark.parametrize("disclosure", ["secret", "all", "some"])
def test_an_honest_claim_passes(files: dict[str, Any], signed: Run, disclosure: str, capsys: Any) -> None:
    numbers = [signed.registration.registration_sha256]
    record = json.loads(Path(signed.uri, "signing.json").read_text())
    certificate = Certificate.from_text(files["certificate"].read_bytes())
    assert certificate.signing is not None
    assert certificate.signing.to_json() == record
    assert signed.registration.randomness is not None
    numbers += [certificate.signing.sha256, signed.registration.randomness.commitment_sha256]
    published = [word for number in numbers for word in ("--published", number)]
    covers = ["--covers", str(Path(signed.uri).parent / "datasets" / "digits")]
    assert main([*words_of(files, disclosure), *published, *covers]) == 0
    said = capsys.readouterr().out
    assert "NO" not in said
    lines = (
        "published     ",
        "evidence      ",
        "covers        10 of 10 plain covers",
        "covers        the registered ones are the",
    )
    for line in lines:
        assert f"yes   {line}" in said
    assert ("yes   labels" in said) == (disclosure == "secret")
    assert ("all 3 keys that were asked" in said) == (disclosure != "some")


def test_without_files_it_says_what_stays_open(files: dict[str, Any], capsys: Any) -> None:
    assert main(["check", str(files["certificate"]), "--registration", str(files["registration"])]) == 0
    said = capsys.readouterr().out
    for subject in ("certificate", "registration", "keys", "answers", "published", "time", "references", "suspect"):
        assert f"open  {subject:<14}" in said
    assert main(["check", "missing.json", "--registration", str(files["registration"])]) == 2
    assert main([*words_of(files, "all"), "--published", "abc"]) == 2


def test_a_stranger_needs_neither_torch_nor_ray(files: dict[str, Any]) -> None:
    program = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "ray", "timm", "torchvision", "boto3"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
from taggants.cli import main
sys.exit(main(sys.argv[1:]))
"""
    done = subprocess.run([sys.executable, "-c", program, *words_of(files, "secret")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "yes   evidence" in done.stdout


@pytest.mark.parametrize("file", ["certificate", "registration", "disclosure"])
def test_one_bit_of_any_field_is_refused(honest: ClaimFiles, files: dict[str, Any], file: str) -> None:
    num_changes = 0
    for disclosure in ("secret", "all") if file == "disclosure" else ("secret",):
        claim = replace(honest, disclosure=files[disclosure].read_bytes())
        assert refusals(claim) == []
        content = json.loads(getattr(claim, file))
        for path, value in leaves(content):
            changed = with_value(content, path, changed_a_little(value))
            found = refusals(replace(claim, **{file: encoded(changed)}))
            assert found, path
            assert all(len(finding.text) > 20 for finding in found)
            num_changes += 1
    assert num_changes >= {"certificate": 100, "registration": 35, "disclosure": 30}[file]


@pytest.mark.parametrize("file", [0, 1, 2])
def test_any_bit_of_recorded_answers_is_refused(honest: ClaimFiles, file: int) -> None:
    name, data = honest.answers[file]
    for place in range(0, len(data), max(1, len(data) // 40)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        answers = (*honest.answers[:file], (name, changed), *honest.answers[file + 1 :])
        (found,) = refusals(replace(honest, answers=answers))
        assert f"{name} is not what the certificate names" in found.text


def test_missing_and_repeated_fields_are_refused(honest: ClaimFiles) -> None:
    for file in ("certificate", "registration", "disclosure"):
        text = getattr(honest, file)
        content = json.loads(text)
        for name in content:
            short = {key: value for key, value in content.items() if key != name}
            assert refusals(replace(honest, **{file: encoded(short)})), (file, name)
        twice = text.replace(b'"format"', b'"format": "x", "format"', 1)
        (found,) = refusals(replace(honest, **{file: twice}))
        assert "names a field twice" in found.text


def _set(**changes: Any) -> Callable[[Any], None]:
    def change(registration: Any) -> None:
        for name, value in changes.items():
            outer, _, inner = name.partition("__")
            if inner:
                registration[outer][inner] = value
            else:
                registration[outer] = value

    return change


REHASHED: dict[str, Callable[[Any], None]] = {
    "alpha": _set(alpha=0.5),
    "statistic": _set(statistic="hits"),
    "top_k": _set(top_k=5),
    "num_looks": _set(num_looks=1),
    "num_suspects": _set(num_suspects=7),
    "number": _set(number=2),
    "demonstration": _set(demonstration=True),
    "dataset_fingerprint": _set(dataset_fingerprint="another"),
    "keys_commitment": _set(keys_commitment="0" * 64),
    "keys_root": _set(keys_root="0" * 64),
    "image_shape": _set(image_shape=[1, 16, 4]),
    "class_names": _set(class_names=None),
    "references": _set(references=["surrogate-0-0123456789abcdef", "reference-0-fedcba9876543210"]),
    "covers_fingerprint": _set(question__covers_fingerprint="another"),
    "cover_ids": _set(question__cover_ids=list(range(10))),
    "amplitudes": _set(question__amplitudes=[128]),
    "overlay_weights": _set(question__overlay_weights=[3]),
    "bare_weight": _set(question__bare_weight=1),
    "bare_shift": _set(question__bare_shift=1),
    "top_m": _set(question__top_m=3),
    "score": _set(question__score="rank"),
    "comparison": _set(question__comparison="none"),
    "randomness value": _set(randomness__value="00" * 32),
    "randomness round": _set(randomness__round="4000001"),
    "randomness source": _set(randomness__source="NIST beacon"),
    "randomness commitment": _set(randomness__commitment_sha256="00" * 32),
}
# What no file contradicts: the published number alone tells.
ONLY_PUBLISHED = {
    *("alpha", "statistic", "num_looks", "num_suspects", "number", "dataset_fingerprint", "class_names", "references"),
    *("covers_fingerprint", "cover_ids", "amplitudes"),
}


@pytest.mark.parametrize("name", REHASHED)
def test_a_registration_that_was_changed_and_hashed_again_is_refused(honest: ClaimFiles, name: str) -> None:
    original = json.loads(honest.certificate)
    number = original["registration"]["registration_sha256"]
    forged = rehashed(original, REHASHED[name])
    assert forged["registration"]["registration_sha256"] != number
    # In the certificate alone: the published registration differs.
    inside = refusals(replace(honest, certificate=encoded(forged)))
    assert any(finding.subject in ("registration", "certificate") for finding in inside)
    # In all files: the published number differs, and the disclosure is of the other registration.
    everywhere = replace(honest, certificate=encoded(forged), registration=encoded(forged["registration"]))
    disclosed = {
        **json.loads(honest.disclosure or b""),
        "registration_sha256": forged["registration"]["registration_sha256"],
    }
    found = refusals(replace(everywhere, disclosure=encoded(disclosed), published=(number,)))
    assert any("is not the number of" in finding.text for finding in found)
    # Without the published number some changes still contradict the keys and the answers.
    alone = refusals(replace(everywhere, disclosure=encoded(disclosed)))
    assert bool(alone) == (name not in ONLY_PUBLISHED), alone


def test_other_answers_references_and_covers_do_not_give_the_evidence(honest: ClaimFiles, signed: Run) -> None:
    """A forger who changes answers and writes their new hash into the certificate."""
    original = json.loads(honest.certificate)
    names = [name.removesuffix(".parquet") for name, _ in honest.answers]
    for place, sha256 in enumerate(names):
        scores = decode_answers(honest.answers[0][1], 10).scores  # the suspect's: as a reference's they explain all
        assert scores is not None
        other = encode_answers(Answers(10, scores[:, ::-1] if place == 0 else 2 * scores, None))
        number = hashlib.sha256(other).hexdigest()
        changed = json.loads(honest.certificate.replace(sha256.encode(), number.encode()))
        forged = rehashed(changed, lambda registration: None)
        files = tuple((n, other if i == place else d) for i, (n, d) in enumerate(honest.answers))
        found = refusals(replace(honest, certificate=encoded(forged), answers=files))
        assert [finding.subject for finding in found] == ["evidence"]
    for field, value in (("num_refused", 3), ("covers", {"num": 10, "num_right": 9})):
        forged = rehashed({**original, field: value}, lambda registration: None)
        labels = signed.sources[1].labels()[original["registration"]["question"]["cover_ids"]]
        (finding,) = refusals(replace(honest, certificate=encoded(forged), cover_labels=labels))
        assert field in finding.text
    forged = rehashed(
        {**original, "signing": {**original["signing"], "signed_fingerprint": "x"}}, lambda registration: None
    )
    published = Certificate.from_text(honest.certificate).signing
    assert published is not None
    found = refusals(replace(honest, certificate=encoded(forged), published=(published.sha256,)))
    assert [finding.subject for finding in found] == ["published"]


def test_some_keys_show_a_changed_rank_of_theirs(honest: ClaimFiles, files: dict[str, Any]) -> None:
    """A forger who improves the evidence of one key, and computes every number anew."""
    certificate = Certificate.from_text(honest.certificate)
    evidence = certificate.evidence
    assert evidence.table is not None
    for key, is_seen in ((0, False), (1, True)):
        row = tuple(value - 50 * (place == 0) for place, value in enumerate(evidence.table[key]))
        table = tuple(row if k == key else r for k, r in enumerate(evidence.table))
        forged = _certified(certificate, replace(evidence, table=table))
        claim = replace(honest, certificate=encoded(forged), disclosure=files["some"].read_bytes())
        assert [finding.subject for finding in refusals(claim)] == ["evidence"]
        assert refusals(replace(honest, certificate=encoded(forged)))
        # The rank alone: that of a key which is not disclosed nobody can check, and the claim says so.
        ranks = tuple(rank + (k == key) for k, rank in enumerate(evidence.ranks))
        forged = _certified(certificate, replace(evidence, ranks=ranks))
        claim = replace(claim, certificate=encoded(forged))
        assert [finding.subject for finding in refusals(claim)] == ["evidence"] * is_seen
        assert any("ranks of the other 1 of 3 keys" in finding.text for finding in check_claim(claim))


@pytest.mark.parametrize(
    ("created_at", "said"),
    [
        ("2099-01-01T00:00:00Z", "yet to come"),
        ("2025-1-1T1:1:1Z", "must be a UTC time"),
        ("\uff12\uff10\uff12\uff15-01-01T00:00:00Z", "must be a UTC time"),
    ],
)
def test_a_time_that_is_none_is_refused(honest: ClaimFiles, created_at: str, said: str) -> None:
    forged = rehashed({**json.loads(honest.certificate), "created_at": created_at}, lambda registration: None)
    (found,) = refusals(replace(honest, certificate=encoded(forged)))
    assert said in found.text


@pytest.mark.parametrize("case", ["a label of 2^45", "classes beyond the scores", "covers that are left out"])
def test_a_label_map_and_answers_that_do_not_fit_are_refused(honest: ClaimFiles, signed: Run, case: str) -> None:
    original = json.loads(honest.certificate)
    scores = decode_answers(honest.answers[0][1], 10).scores
    assert scores is not None
    labels = np.zeros((len(scores), 1), dtype=np.int64)
    labels[0] = 2**45
    data = encode_answers(Answers(10, None, labels) if case == "a label of 2^45" else Answers(10, scores, None))
    classes = (*range(9), 5000 if case == "classes beyond the scores" else 9)
    if case == "covers that are left out":
        original["covers"] = None
    number = hashlib.sha256(data).hexdigest()
    changed = json.loads(json.dumps(original).replace(original["answers_sha256"], number))
    forged = rehashed({**changed, "label_map": LabelMap("file", classes).to_json()}, lambda registration: None)
    cover_labels = signed.sources[1].labels()[original["registration"]["question"]["cover_ids"]]
    answers = (("a", data), *honest.answers[1:])
    claim = replace(honest, certificate=encoded(forged), answers=answers, cover_labels=cover_labels)
    found = " ".join(finding.text for finding in refusals(claim))
    wanted = {
        "a label of 2^45": "number of classes",
        "classes beyond the scores": "the label map names class 5000",
        "covers that are left out": "covers is null",
    }
    assert wanted[case] in found


def _certified(certificate: Certificate, evidence: Evidence) -> Any:
    return certify(
        evidence,
        certificate.registration,
        suspect=certificate.suspect,
        suspect_sha256=certificate.suspect_sha256,
        created_at=datetime.now(UTC),
        software=dict(certificate.software),
        answers_sha256=certificate.answers_sha256,
        signing=certificate.signing,
        covers=certificate.covers,
        look=1,
    ).to_json()


def test_a_suspect_is_asked_again(signed: Run, files: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    """A clean model that the run trained: not detected, and so it stays."""
    (path,) = (Path(signed.uri).parent / "models").glob("reference-0-*/model.safetensors")
    certificate = verify(signed, CheckpointSuspect(str(path), "clean"))
    filed = Path(signed.uri) / "certificates" / "clean.json"
    answers = [str(p) for p in files["answers"][1:]]
    answers.append(str(Path(signed.uri) / "answers" / f"{certificate.answers_sha256}.parquet"))
    given = ["check", str(filed), "--registration", str(files["registration"]), "--disclosure", str(files["all"])]
    covers = ["--covers", str(Path(signed.uri).parent / "datasets" / "digits")]
    assert main([*given, "--answers", *set(answers), "--suspect", str(path), *covers]) == 0
    assert f"yes   suspect       asked again, it gives p = {certificate.p_value:.3g}" in capsys.readouterr().out
    few = [str(files["some"]) if word == str(files["all"]) else word for word in given]
    assert main([*few, "--answers", *set(answers), "--suspect", str(path), "--reference", str(path), *covers]) == 0
    said = capsys.readouterr().out
    assert "yes   suspect       asked again about 2 keys, it answers as was recorded" in said
    assert "yes   references    reference-0-" in said
    (other,) = (Path(signed.uri).parent / "models").glob("surrogate-0-*/model.safetensors")
    assert main([*given, "--answers", *set(answers), "--suspect", str(other), *covers]) == 1
    assert "it is another model" in capsys.readouterr().out
    assert main([*given, "--suspect", str(path)]) == 1
    assert "--covers" in capsys.readouterr().out
    assert main([*given, "--covers", str(tmp_path)]) == 2


def test_a_claim_without_a_question_is_checked_by_the_secret(tmp_path: Path, capsys: Any) -> None:
    config = words(*settings_in(tmp_path, "evaluation.num_controls=1"))
    assert main(["craft", *config]) == 0
    (filed,) = (tmp_path / "runs").glob("*/certificates/*.json")
    (model,) = (tmp_path / "runs" / "models").glob("control-0-*/model.safetensors")
    run = filed.parent.parent
    assert main(["disclose", str(run), "--keys", "all", "-o", str(tmp_path / "all.json")]) == 2
    assert main(["disclose", str(run), "--secret", "-o", str(tmp_path / "secret.json")]) == 0
    given = ["--registration", str(run / "registration.json"), "--disclosure", str(tmp_path / "secret.json")]
    assert main(["check", str(filed), *given, "--suspect", str(model)]) == 0
    assert "yes   suspect       asked again" in capsys.readouterr().out
    content = json.loads(filed.read_text())
    ranks = content["evidence"]["ranks"]
    content["evidence"]["ranks"] = np.minimum(10, np.array(ranks) + 1).tolist()
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(content))
    assert main(["check", str(changed), *given]) == 1
    assert "but its evidence gives" in capsys.readouterr().out
