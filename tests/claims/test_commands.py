"""`taggants keys commit`, `keys draw` and `disclose` from the command line."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from taggants.claims.disclosure import read_disclosure
from taggants.cli import main
from taggants.detection.registration import SigningRecord
from taggants.keys import KeysCommitment
from taggants.run import Run
from taggants.stages.verify import checked_registration
from tests.claims.claims import QUESTION, VALUE, words
from tests.jobs.running import settings_in


def test_labels_come_from_the_public_value_and_the_registration_says_so(signed: Run) -> None:
    commitment = KeysCommitment.from_text(Path(signed.uri, "commitment.json").read_bytes())
    randomness = signed.registration.randomness
    assert randomness == commitment.with_value(VALUE)
    assert signed.registration.to_json()["derivation"] == "taggants/v2"
    assert signed.registration.number == 1


def test_a_commitment_waits_and_another_value_is_refused(tmp_path: Path, capsys: Any) -> None:
    config = words(*settings_in(tmp_path, *QUESTION))
    assert main(["keys", "draw", *config, "ab"]) == 2
    assert "commit to keys first" in capsys.readouterr().err
    assert main(["keys", *config, "commit", "--source", "drand", "--round", "5"]) == 0
    said = capsys.readouterr().out
    (path,) = (tmp_path / "runs").glob("*/commitment.json")
    assert f"publish {path} before that round" in said
    assert KeysCommitment.from_text(path.read_bytes()).sha256 in said
    assert main(["keys", *config]) == 2
    assert "waits for the public value" in capsys.readouterr().err
    assert main(["keys", "draw", *config, "ab"]) == 0
    assert main(["keys", *config]) == 0
    assert main(["keys", "draw", *config, "cd"]) == 2
    assert "drawn once" in capsys.readouterr().err


def test_registrations_of_one_secret_are_numbered(tmp_path: Path) -> None:
    config = words(*settings_in(tmp_path, *QUESTION))
    assert main(["keys", *config]) == 0
    assert main(["keys", *config, "--set", "detection.alpha=0.05"]) == 0
    assert main(["keys", *config]) == 0
    (second,) = (
        path.parent
        for path in (tmp_path / "runs").glob("*/registration.json")
        if json.loads(path.read_text())["number"] == 2
    )
    shutil.rmtree(tmp_path / "secrets" / "digits.registrations")  # a backup of the key file alone
    assert checked_registration(Run.open(str(second))).number == 2
    found = {
        content["alpha"]: content["number"]
        for path in (tmp_path / "runs").glob("*/registration.json")
        for content in [json.loads(path.read_text())]
    }
    assert found == {0.04: 1, 0.05: 2}


def test_disclosures_are_private_and_never_written_over(signed: Run, files: dict[str, Any], capsys: Any) -> None:
    for name, number in (("all", 3), ("some", 2), ("secret", 3)):
        assert files[name].stat().st_mode & 0o777 == 0o600
        assert len(read_disclosure(files[name].read_bytes(), signed.registration).labels) == number
    assert main(["disclose", signed.uri, "--keys", "all", "-o", str(files["all"])]) == 2
    assert "is never overwritten" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["disclose", signed.uri])


def test_requests_of_timestamps_are_of_the_published_numbers(signed: Run) -> None:
    assert main(["timestamp", signed.uri]) == 0
    folder = Path(signed.uri) / "timestamps"
    numbers = {
        "registration": signed.registration.registration_sha256,
        "commitment": KeysCommitment.from_text(Path(signed.uri, "commitment.json").read_bytes()).sha256,
        "signing": SigningRecord.from_text(Path(signed.uri, "signing.json").read_bytes()).sha256,
    }
    for name, number in numbers.items():
        assert hashlib.sha256((folder / f"{name}.canonical.json").read_bytes()).hexdigest() == number
        assert bytes.fromhex(number) in (folder / f"{name}.tsq").read_bytes()
