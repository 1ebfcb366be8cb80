"""Files of every public format as they were first written: they stay readable for ever. Add to them, never change them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taggants.claims.check import ClaimFiles, Finding, check_claim
from taggants.claims.disclosure import read_disclosure
from taggants.claims.timestamps import Timestamp, timestamp_request
from taggants.cli import main
from taggants.detection import Certificate, Registration
from taggants.detection.registration import SigningRecord
from taggants.keys import KeysCommitment, load_key_set, load_secret
from taggants.storage import Root

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


CLAIM = ClaimFiles(
    certificate=golden("certificate-3.json"),
    registration=golden("registration-2.json"),
    disclosure=golden("disclosure-1-secret.json"),
    answers=tuple((path.name, path.read_bytes()) for path in sorted((GOLDEN / "answers").iterdir())),
    timestamps=(Timestamp("registration.tsr", golden("registration.tsr"), (golden("tsa-root.pem"),)),),
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("registration-1.json", Registration),
        ("registration-2.json", Registration),
        ("certificate-2.json", Certificate),
        ("certificate-3.json", Certificate),
        ("signing-1.json", SigningRecord),
        ("keys-commitment-1.json", KeysCommitment),
    ],
)
def test_a_public_file_is_read_and_written_as_it_was(name: str, kind: Any) -> None:
    assert kind.from_text(golden(name)).to_json() == json.loads(golden(name))


def test_numbers_that_were_published_stay_what_they_are() -> None:
    registration = Registration.from_text(golden("registration-2.json"))
    assert registration.registration_sha256 == json.loads(golden("registration-2.json"))["registration_sha256"]
    certificate = Certificate.from_text(golden("certificate-3.json"))
    assert certificate.signing == SigningRecord.from_text(golden("signing-1.json"))
    assert registration.randomness is not None
    commitment = KeysCommitment.from_text(golden("keys-commitment-1.json"))
    assert registration.randomness.commitment_sha256 == commitment.sha256


@pytest.mark.parametrize(("number", "num_keys"), [(1, 4), (2, 3)])
def test_key_files_give_the_same_keys(number: int, num_keys: int) -> None:
    root = Root(str(GOLDEN))
    keys = load_key_set(root, f"key-file-{number}.json")
    assert keys.spec.num_keys == num_keys
    if number == 2:
        registration = Registration.from_text(golden("registration-2.json"))
        assert (keys.commitment, keys.root) == (registration.keys_commitment, registration.keys_root)
        secret = json.loads(golden("disclosure-1-secret.json"))["secret"]
        assert load_secret(root, "key-file-2.json").hex() == secret


def test_disclosures_give_the_same_keys() -> None:
    registration = Registration.from_text(golden("registration-2.json"))
    keys = load_key_set(Root(str(GOLDEN)), "key-file-2.json")
    for name in ("disclosure-1-keys.json", "disclosure-1-secret.json"):
        found = read_disclosure(golden(name), registration)
        assert found.labels.tolist() == keys.labels.tolist()
        assert (found.images == keys.images).all()


def times(claim: ClaimFiles) -> list[Finding]:
    names = tuple(f"{timestamp.name}: " for timestamp in claim.timestamps)
    return [finding for finding in check_claim(claim) if finding.subject == "time" and finding.text.startswith(names)]


def test_the_whole_claim_holds_with_its_timestamp() -> None:
    findings = check_claim(CLAIM)
    assert [finding for finding in findings if finding.holds is False] == []
    assert {finding.subject for finding in findings if finding.holds} == {
        *("certificate", "registration", "time", "keys", "labels", "answers", "evidence")
    }
    (time,) = times(CLAIM)
    assert "the registration was there at 2026-11-28" in time.text


def test_a_timestamp_that_does_not_hold_is_refused() -> None:
    token, root = golden("registration.tsr"), golden("tsa-root.pem")

    def said(data: bytes, *roots: bytes, **changes: Any) -> Finding:
        (found,) = times(replace(CLAIM, timestamps=(Timestamp("a.tsr", data, roots),), **changes))
        return found

    assert said(token).holds is None
    assert "--tsa-root" in said(token).text
    other = Path(__file__).parent / "another-root.pem"
    assert said(token, other.read_bytes()).holds is False
    assert "no certificate in PEM form" in said(token, b"x").text
    assert "no RFC 3161 response" in said(b"x", root).text
    assert "longer than" in said(b"x" * 2**21, root).text
    assert all(
        said(token[:place] + bytes([token[place] ^ 1]) + token[place + 1 :], root).holds is False
        for place in range(len(token) - 8, len(token))  # of the signature
    )
    certificate = Certificate.from_text(CLAIM.certificate)
    early = replace(certificate, created_at="2026-01-01T00:00:00Z").to_json()
    assert "after the test" in said(token, root, certificate=json.dumps(early).encode()).text
    plain = {"certificate": golden("certificate-2.json"), "registration": golden("registration-1.json")}
    found = said(token, root, **plain, disclosure=None, answers=())
    assert "is not the number of the registration" in found.text


def test_what_no_timestamp_dates_stays_open() -> None:
    """Else references forged after the test would pass with a timestamp of the registration."""
    said = [finding.text for finding in check_claim(CLAIM) if finding.subject == "time" and finding.holds is None]
    assert any("no timestamp of the signing record" in text for text in said)
    assert not any("no timestamp of the registration" in text for text in said)
    assert any("that the test was at" in text for text in said)


def test_a_request_asks_for_the_published_number() -> None:
    registration = Registration.from_text(CLAIM.registration)
    request = timestamp_request(registration.canonical)
    assert bytes.fromhex(registration.registration_sha256) in request


def test_a_proof_of_opentimestamps_is_read_by_its_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the program, which knows one digest."""
    number = Registration.from_text(CLAIM.registration).registration_sha256
    proof = replace(CLAIM, timestamps=(Timestamp("a.ots", b"proof"),))
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = times(proof)
    assert found.holds is None
    assert "ots is not installed" in found.text
    program = tmp_path / "ots"
    program.write_text(
        f'#!/bin/sh\n[ "$1 $2 $3" = "verify -d {number}" ] || {{ echo "File does not match" >&2; exit 1; }}\n'
        'echo "Success! Bitcoin block 1 attests existence as of 2026-01-01 UTC" >&2\n'
    )
    program.chmod(0o755)
    (found,) = times(proof)
    assert found.holds is True
    assert "block 1 attests" in found.text
    said = program.read_text()
    program.write_text(said.replace("2026-01-01", "2100-01-01"))
    (found,) = times(proof)
    assert found.holds is False
    assert "after the test" in found.text
    program.write_text(said.replace("as of 2026-01-01 UTC", ""))
    (found,) = times(proof)
    assert found.holds is None
    program.write_text("#!/bin/sh\necho no proof >&2\nexit 1\n")
    (found,) = times(proof)
    assert found.holds is False


def test_the_commands_make_and_read_timestamps(tmp_path: Path, capsys: Any) -> None:
    words = ["check", str(GOLDEN / "certificate-3.json"), "--registration", str(GOLDEN / "registration-2.json")]
    words += ["--timestamp", str(GOLDEN / "registration.tsr"), "--tsa-root", str(GOLDEN / "tsa-root.pem")]
    assert main(words) == 0
    assert "yes   time          " in capsys.readouterr().out
