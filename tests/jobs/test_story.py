from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from taggants.config import load_config
from taggants.crafting.plan import RunFolder
from taggants.detection import Certificate, Registration
from taggants.export import verify_export
from taggants.stages import keys as keys_stage
from taggants.storage import Root
from tests.jobs.running import JOBS, exit_code, load_job, settings_in


def craft(folder: Path, *settings: str):
    return load_job("craft").main(load_config(None, settings_in(folder, *settings)))


def fingerprint(result) -> str:
    assert result.export is not None
    return verify_export(result.export.signed).fingerprint


def test_craft_leaves_a_run_folder_that_tells_its_story(tmp_path):
    result = craft(tmp_path, "evaluation.num_victims=1", "evaluation.num_controls=1")
    run = Path(result.run)
    assert run.name == load_config(None, settings_in(tmp_path)).hash
    resolved = json.loads((run / "config.json").read_text())
    assert resolved["config"]["crafting"]["num_steps"] == 4
    assert resolved["versions"]["torch"]
    registration = Registration.from_json(json.loads((run / "registration.json").read_text()))
    for name, certificate in result.certificates.items():
        written = Certificate.from_json(json.loads((run / "certificates" / f"{certificate.suspect}.json").read_text()))
        assert written == certificate
        assert written.registration == registration
        assert written.suspect.startswith(name)
    assert len(list((run / "commits").iterdir())) == 3
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["num_done"], status["num_shards"]) == ("finished", 3, 3)
    assert status["sample_steps"] == 9 * 4 * 2  # images, steps, views
    assert (run / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "contact_sheet.png").stat().st_mode & 0o777 == 0o600  # shows signed images
    manifest = verify_export(Root(str(run / "signed")))
    assert manifest.num_rows == 1297
    assert manifest.signed_sample_ids is None


def test_signing_stays_in_the_ball_and_touches_the_signed_rows_only(tmp_path):
    result = craft(tmp_path, "crafting.epsilon=16/255", "output.private_manifest=true")
    signed = result.export.signed
    changed = set(verify_export(signed).signed_sample_ids)
    assert len(changed) == 9
    clean = Root(str(tmp_path / "runs" / "datasets" / "digits")).read_table("train.parquet").to_pylist()
    after = signed.read_table("train.parquet").to_pylist()
    assert {i for i in range(1297) if clean[i] != after[i]} == changed
    assert all(clean[i]["label"] == after[i]["label"] for i in changed)


def test_secrets_never_reach_the_run_folder_or_the_output(tmp_path, capsys):
    craft(tmp_path, "evaluation.num_victims=1")
    key_file = tmp_path / "secrets" / "digits.json"
    picture = tmp_path / "secrets" / "digits.png"
    for private in (key_file, picture):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
    secret = json.loads(key_file.read_text())["secret"]
    from taggants.keys import load_key_set

    keys = load_key_set(Root(str(tmp_path / "secrets")), "digits.json")
    needles = [secret.encode(), bytes.fromhex(secret), *(image.tobytes() for image in keys.images)]
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(written) > 10
    output = capsys.readouterr()
    for data in [*(path.read_bytes() for path in written), (output.out + output.err).encode()]:
        assert not any(needle in data for needle in needles)


def test_second_call_finds_everything_done_and_changes_nothing(tmp_path):
    first = craft(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in Path(first.run).rglob("*") if p.suffix in (".parquet", ".safetensors")}
    second = craft(tmp_path)
    assert second.drive.num_resumed == 3
    assert second.drive.num_crafted == 0
    assert before == {
        p: p.stat().st_mtime_ns for p in Path(first.run).rglob("*") if p.suffix in (".parquet", ".safetensors")
    }


def test_bytes_depend_on_the_microbatch_by_rounding_only(tmp_path):
    whole = craft(tmp_path, "crafting.num_steps=10")
    parts = craft(tmp_path, "crafting.num_steps=10", "crafting.microbatch=2")
    assert whole.export.alignment == pytest.approx(parts.export.alignment, abs=1e-3)


def test_budget_and_images_per_key_mean_the_same(tmp_path):
    by_count = craft(tmp_path / "a", "signing.images_per_key=3")
    assert by_count.export.num_taggants == 9
    by_share = craft(tmp_path / "b", "signing={budget: 9/1297}")
    assert by_share.export.num_taggants == 9


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_same_bytes_whichever_pool_and_worker_count(tmp_path):
    folders = {}
    for pool, workers in (("inline", 1), ("ray", 1), ("ray", 3)):
        result = craft(
            tmp_path,
            f"execution.pool={pool}",
            f"execution.num_workers={workers}",
            f"output.root={tmp_path / pool}{workers}",
        )
        folders[pool, workers] = result
    assert len({fingerprint(result) for result in folders.values()}) == 1
    commits = [sorted(p.read_text() for p in Path(r.run).glob("commits/*.json")) for r in folders.values()]
    assert commits[0] == commits[1] == commits[2]


@pytest.mark.slow
def test_verify_and_train_jobs_agree_with_the_rehearsal(tmp_path, capsys):
    result = craft(tmp_path, "evaluation.num_victims=1")
    (certificate,) = result.certificates.values()
    assert exit_code("train", settings_in(tmp_path, "train.role=victim")) == 0
    checkpoint = capsys.readouterr().out.split("checkpoint ")[-1].strip()
    assert hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest() == certificate.suspect_sha256
    assert exit_code("verify", settings_in(tmp_path, f"verify.suspects=[{checkpoint}]")) == 0
    shown = capsys.readouterr().out
    assert "Null" in shown
    assert f"{certificate.num_hits} of {len(certificate.ranks)}" in shown


def start_craft(folder: Path, *settings: str, log: str = "craft.log") -> subprocess.Popen[bytes]:
    words = [word for setting in settings_in(folder, *settings) for word in ("--set", setting)]
    with (folder / log).open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(JOBS / "craft.py"), *words], stdout=output, stderr=subprocess.STDOUT
        )


def commits_in(runs: Root) -> list[str]:
    return [path for path in runs.list() if "/commits/" in path]


def wait_for_commits(folder: Path, count: int, process: subprocess.Popen[bytes], runs: Root | None = None) -> None:
    runs = runs or Root(str(folder / "runs"))
    until = time.monotonic() + 120
    while len(commits_in(runs)) < count:
        assert process.poll() is None, (folder / "craft.log").read_text()
        assert time.monotonic() < until, (folder / "craft.log").read_text()
        time.sleep(0.02)


SLOWER = ("keys.num_keys=8", "crafting.num_steps=40")


@pytest.fixture
def undisturbed(tmp_path):
    (tmp_path / "calm").mkdir()
    return fingerprint(craft(tmp_path / "calm", *SLOWER, f"keys.root={tmp_path / 'secrets'}"))


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
def test_killed_driver_goes_on_and_exports_the_same_bytes(tmp_path, undisturbed, pool):
    settings = (*SLOWER, f"execution.pool={pool}")
    process = start_craft(tmp_path, *settings)
    wait_for_commits(tmp_path, 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(tmp_path.glob("runs/*/commits/*.json")))
    assert 3 <= done < 8
    assert not list(tmp_path.glob("runs/*/signed/manifest.json"))
    again = start_craft(tmp_path, *settings)
    assert again.wait(timeout=240) == 0, (tmp_path / "craft.log").read_text()
    assert f"{8 - done} shards crafted, {done} found done" in (tmp_path / "craft.log").read_text()
    (signed,) = tmp_path.glob("runs/*/signed")
    assert verify_export(Root(str(signed))).fingerprint == undisturbed


def actors_of(driver: subprocess.Popen[bytes]) -> list[int]:
    """Returns: pids of the driver's own actors that craft just now; a driver's cluster descends from it."""
    titles, parents = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            titles[int(entry.name)] = (entry / "cmdline").read_bytes()
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended

    def is_own(pid: int) -> bool:
        return pid == driver.pid or (pid in parents and is_own(parents[pid]))

    return [pid for pid, title in titles.items() if b"ray::_WorkerActor.craft" in title and is_own(pid)]


@pytest.mark.slow
@pytest.mark.ray
def test_killed_actors_shard_is_crafted_again_and_the_bytes_are_the_same(tmp_path, undisturbed):
    process = start_craft(tmp_path, *SLOWER, "execution.pool=ray", "execution.num_workers=2")
    wait_for_commits(tmp_path, 2, process)
    while not (actors := actors_of(process)):
        assert process.poll() is None, (tmp_path / "craft.log").read_text()
    os.kill(actors[0], signal.SIGKILL)
    assert process.wait(timeout=240) == 0, (tmp_path / "craft.log").read_text()
    (signed,) = tmp_path.glob("runs/*/signed")
    assert verify_export(Root(str(signed))).fingerprint == undisturbed


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.parametrize("commits_before", [0, 2], ids=["at once", "later"])
def test_two_jobs_on_one_run_folder(tmp_path, undisturbed, s3_environment, commits_before):
    runs = Root(f"s3://{s3_environment.bucket}/{tmp_path.parent.name}/{tmp_path.name}")
    first = start_craft(tmp_path, *SLOWER, f"output.root={runs.uri}")
    wait_for_commits(tmp_path, commits_before, first, runs)
    second = start_craft(tmp_path, *SLOWER, f"output.root={runs.uri}", log="second.log")
    codes = [process.wait(timeout=240) for process in (first, second)]
    said = [(tmp_path / log).read_text() for log in ("craft.log", "second.log")]
    assert codes == [0, 0], "\n".join(said)
    # One set of commits, whose files are whole; together they export what one job alone does.
    commits = commits_in(runs)
    assert len(commits) == 8
    run = runs.child(commits[0].split("/")[0])
    folder = RunFolder(run)
    for commit in folder.read_commits().values():
        folder.read_attempt(commit)  # checked against its hash
    assert verify_export(run.child("signed")).fingerprint == undisturbed

    # Each tells what it found: done before it came, or committed first while it crafted the same.
    def told(pattern: str) -> list[int]:
        return [int(match[1]) if (match := re.search(pattern, text)) else 0 for text in said]

    crafted, found = told(r"(\d+) shards crafted"), told(r"(\d+) found done, of 8")
    overtaken = told(r"(\d+) of them were committed first by another driver")
    assert [a + b for a, b in zip(crafted, found, strict=True)] == [8, 8]
    assert sum(crafted) - sum(overtaken) == 8
    assert found[1] >= commits_before


def test_keys_that_another_job_draws_at_this_moment_are_taken(tmp_path, monkeypatch):
    draw = keys_stage.create_key_file
    drawn = []

    def draw_after_another(*place_and_spec):
        drawn.append(draw(*place_and_spec))
        draw(*place_and_spec)

    monkeypatch.setattr(keys_stage, "create_key_file", draw_after_another)
    registration = load_job("keys").main(load_config(None, settings_in(tmp_path))).registration
    assert [key_set.commitment for key_set in drawn] == [registration.keys_commitment]


@pytest.mark.slow
def test_shard_that_fails_for_good_is_named_and_the_job_exits_with_1(tmp_path, capsys, monkeypatch):
    from taggants.crafting.shard import CraftingWorker

    whole = CraftingWorker.craft

    def fail_one(self, shard, attempt):
        if shard.index == 1:
            raise RuntimeError("this shard cannot be crafted")
        return whole(self, shard, attempt)

    monkeypatch.setattr(CraftingWorker, "craft", fail_one)
    assert exit_code("craft", settings_in(tmp_path)) == 1
    assert "shard 1 failed for good" in capsys.readouterr().out
    assert not list(tmp_path.glob("runs/*/signed"))
    monkeypatch.undo()
    assert exit_code("craft", settings_in(tmp_path)) == 0


def test_thread_count_of_the_process_is_left_as_it_was(tmp_path):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        craft(tmp_path)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_keys_do_not_depend_on_the_seed_of_the_run(tmp_path):
    job = load_job("keys")
    first = job.main(load_config(None, settings_in(tmp_path)))
    second = job.main(load_config(None, settings_in(tmp_path, "seed=5")))
    assert first.registration == second.registration
