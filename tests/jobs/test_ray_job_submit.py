"""The same job on a running cluster, submitted as a user submits it."""

from __future__ import annotations

import pytest

from taggants.export import verify_export
from taggants.storage import Root
from tests.jobs.running import settings_in


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_submitted_job_stores_on_s3_and_tells_no_secret_and_a_failing_one_returns_non_zero(
    cluster, cluster_storage, tmp_path
):
    runs = f"{cluster_storage}/submitted"
    more = (f"output.root={runs}", "execution.pool=ray", "evaluation.num_victims=1", "keys.num_keys=10")
    done = cluster.head.submit(settings_in(tmp_path, *more))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 shards crafted" in done.stdout
    [run] = {path.split("/")[0] for path in Root(runs).list() if path.endswith("/plan.json")}
    assert verify_export(Root(runs).child(f"{run}/signed")).num_rows == 1297
    assert len([path for path in Root(runs).list() if path.startswith(f"{run}/certificates/")]) == 1

    names = Root(runs).list()
    for stage in ("config", "registration", "plan", "status", "manifest", "attempts/", "commits/", "models/", ".png"):
        assert any(stage in name for name in names), f"nothing to search: {stage}"
    terminal = {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    of_ray = cluster.head.written()
    assert b"ray_taggants_sample_steps" in of_ray["metrics"]  # a counter: gauges go with their driver
    assert b"jobs/craft.py" in of_ray["jobs"]
    for place in (Root(runs), cluster.head.folder, of_ray | terminal):
        assert cluster.find_secrets(place, tmp_path / "secrets", "digits") == []
    assert any(b"shards crafted" in log.read_bytes() for log in cluster.head.folder.rglob("job-driver-*.log"))
    Root(runs).write_bytes(f"{run}/copy", (tmp_path / "secrets" / "digits.json").read_bytes())
    assert cluster.find_secrets(Root(runs), tmp_path / "secrets", "digits") == [f"{runs}/{run}/copy: the secret"]

    failed = cluster.head.submit(settings_in(tmp_path, "signing.images_per_key=400", "keys.name=other"))
    assert failed.returncode != 0
    assert "images but a key needs 400" in failed.stdout + failed.stderr
