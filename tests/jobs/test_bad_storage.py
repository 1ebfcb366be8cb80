"""Buckets that are missing or closed, under the jobs themselves."""

from __future__ import annotations

import pytest

from taggants.data.digits import write_digits
from taggants.storage import Root
from tests.jobs.running import exit_code, settings_in

pytestmark = pytest.mark.s3


@pytest.fixture
def storage(s3_server, s3_environment, tmp_path, monkeypatch):
    """A prefix with a dataset in the bucket, and a function that makes this process another user of it."""
    uri = f"s3://{s3_server.bucket}/{tmp_path.parent.name}-{tmp_path.name}"
    write_digits(Root(uri).child("data"))

    def become(environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return uri, become


def refusal(capsys, job, settings, server):
    assert exit_code(job, settings) == 2
    captured = capsys.readouterr()
    known = (server.environment, server.read_only_environment)
    hidden = {value for user in known for name, value in user.items() if name.startswith("AWS_") and "KEY" in name}
    assert not [value for value in hidden | {"hush"} if value in captured.out + captured.err]
    assert "Traceback" not in captured.out + captured.err
    [sentence] = captured.err.strip().splitlines()
    return sentence


@pytest.mark.parametrize(
    "setting",
    [
        "data.root=s3://no-such-bucket/data",
        "output.root=s3://no-such-bucket/runs",
        "keys.root=s3://no-such-bucket/keys",
    ],
)
def test_missing_bucket(tmp_path, capsys, s3_server, storage, setting):
    uri, _ = storage
    settings = settings_in(tmp_path, "data.source=parquet", f"data.root={uri}/data", setting)
    sentence = refusal(capsys, "craft", settings, s3_server)
    assert "s3://no-such-bucket/" in sentence
    assert "exist" in sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("place", ["data.root", "output.root"])
def test_wrong_credentials(tmp_path, capsys, s3_server, storage, variable, place):
    uri, become = storage
    settings = settings_in(tmp_path)
    settings += (
        ["data.source=parquet", f"data.root={uri}/data"] if place == "data.root" else [f"output.root={uri}/runs"]
    )
    become({variable: "hush"})
    assert f"Access to {uri}/" in refusal(capsys, "craft", settings, s3_server)
    assert not list(tmp_path.iterdir())


def test_read_only_bucket_is_known_before_any_work_and_mended(tmp_path, capsys, s3_server, storage):
    uri, become = storage
    settings = settings_in(tmp_path, "data.source=parquet", f"data.root={uri}/data", f"output.root={uri}/runs")
    become(s3_server.read_only_environment)
    assert f"Access to {uri}/runs/" in refusal(capsys, "craft", settings, s3_server)
    assert not (tmp_path / "secrets").exists()
    assert Root(uri).list() == ["data/test.parquet", "data/train.parquet"]
    become(s3_server.environment)
    assert exit_code("craft", settings) == 0
    capsys.readouterr()

    settings.append(f"export.destination={uri}/signed")
    become(s3_server.read_only_environment)
    assert f"Access to {uri}/signed was denied" in refusal(capsys, "export", settings, s3_server)
    become(s3_server.environment)
    assert exit_code("export", settings) == 0
    assert Root(uri).exists("signed/manifest.json")
