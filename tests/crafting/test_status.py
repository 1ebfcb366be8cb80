from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pytest

from taggants.crafting.driver import DriveProgress, drive
from taggants.crafting.events import Crafted, Event, Failed, Finished, Lost
from taggants.crafting.inline_pool import InlinePool
from taggants.crafting.plan import Commit, Plan, RunFolder, Shard
from taggants.crafting.status import Status, StatusTracker, watching
from taggants.storage import Root

STEPS = 500  # sample-steps of one image
START_S = 1_700_000_000.0  # 2023-11-14T22:13:20Z


class Clock:
    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        return self.now_s


class Run:
    """A run of shards of 10 images, told event by event."""

    def __init__(self, num_shards: int, num_running: int, num_resumed: int = 0) -> None:
        self.progress = DriveProgress(
            num_shards=num_shards,
            num_done=num_resumed,
            running=tuple(range(num_running)),
            given_up=(),
            images_crafted=0,
            images_left=10 * (num_shards - num_resumed),
            latest_event=None,
        )

    def after(self, event: Event | None) -> DriveProgress:
        num_finished = isinstance(event, Finished)
        self.progress = dataclasses.replace(
            self.progress,
            num_done=self.progress.num_done + num_finished,
            images_crafted=self.progress.images_crafted + 10 * num_finished,
            images_left=self.progress.images_left - 10 * num_finished,
            latest_event=event,
        )
        return self.progress


def finished(index: int = 0, alignment: float | None = None) -> Finished:
    return Finished(index, Commit("p", index, "attempts/x", 1, "0", 1), alignment)


def test_before_the_first_shard_nothing_is_known_of_speed() -> None:
    clock = Clock()
    tracker = StatusTracker(STEPS, clock)
    clock.now_s += 30
    assert tracker.observe(Run(8, 2, num_resumed=3).progress) == Status(
        state="running",
        num_shards=8,
        num_done=3,
        running=(0, 1),
        quarantined=(),
        num_failures=0,
        num_losses=0,
        num_preemptions=0,
        sample_steps=0,
        sample_steps_per_s=None,
        sample_steps_per_s_recent=None,
        mean_alignment=None,
        eta_s=None,
        started_at="2023-11-14T22:13:20+00:00",
        updated_at="2023-11-14T22:13:50+00:00",
    )


def test_speed_and_eta_of_an_even_run_are_exact() -> None:
    clock, run = Clock(), Run(100, num_running=2)
    tracker = StatusTracker(STEPS, clock)
    for _ in range(40):  # a shard of 5,000 sample-steps every 8 s
        clock.now_s += 8
        status = tracker.observe(run.after(finished()))
    assert status.sample_steps == 40 * 10 * STEPS
    assert status.sample_steps_per_s == pytest.approx(625.0)
    assert status.sample_steps_per_s_recent == pytest.approx(625.0)
    assert status.eta_s == pytest.approx(60 * 8)


def test_recent_speed_follows_a_change_and_the_overall_speed_does_not() -> None:
    clock, run = Clock(), Run(200, num_running=2)
    tracker = StatusTracker(STEPS, clock)
    for _ in range(100):
        clock.now_s += 1
        tracker.observe(run.after(finished()))
    for _ in range(9):  # half of the machines went away, and more
        clock.now_s += 10
        status = tracker.observe(run.after(finished()))
    assert status.sample_steps_per_s_recent == pytest.approx(500.0)  # 5,000 every 10 s
    assert status.sample_steps_per_s == pytest.approx(109 * 5000 / 190)
    assert status.eta_s == pytest.approx(91 * 10)


def test_recent_speed_of_shards_that_take_longer_than_a_minute_is_right() -> None:
    clock, run = Clock(), Run(100, num_running=3)
    tracker = StatusTracker(STEPS, clock)
    for _ in range(5):  # three slots, each of which needs 300 s
        clock.now_s += 300
        for _ in range(3):
            status = tracker.observe(run.after(finished()))
    assert status.sample_steps_per_s_recent == pytest.approx(3 * 5000 / 300)


def test_recent_speed_falls_while_nothing_finishes() -> None:
    clock, run = Clock(), Run(100, num_running=1)
    tracker = StatusTracker(STEPS, clock)
    clock.now_s += 10
    speeds = [tracker.observe(run.after(finished())).sample_steps_per_s_recent]
    for _ in range(5):
        clock.now_s += 100
        speeds.append(tracker.observe(run.after(None)).sample_steps_per_s_recent)
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[-1] == pytest.approx(5000 / 510)


def test_mishaps_are_counted_by_kind_and_idle_calls_are_none() -> None:
    run, tracker = Run(9, 2), StatusTracker(STEPS, Clock())
    events = [Failed(1, "bug"), None, Lost(1, "node"), Lost(0, "spot", is_preemption=True), Lost(1, "node")]
    for event in events:
        status = tracker.observe(run.after(event))
    assert (status.num_failures, status.num_losses, status.num_preemptions) == (1, 2, 1)


def test_mean_alignment_is_of_the_shards_that_told() -> None:
    run, tracker = Run(9, 2), StatusTracker(STEPS, Clock())
    for alignment in (0.5, None, 0.7):
        status = tracker.observe(run.after(finished(alignment=alignment)))
    assert status.mean_alignment == pytest.approx(0.6)


def test_file_is_written_at_once_then_every_five_seconds_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, run, written = Clock(), Run(40, 1), []
    write = Root.write_json

    def record(root: Root, path: str, value: object) -> None:
        written.append(clock.now_s - START_S)
        write(root, path, value)

    monkeypatch.setattr(Root, "write_json", record)
    shown: list[Status] = []
    with watching(Root(str(tmp_path)), STEPS, shown.append, clock) as observe:
        observe(run.progress)
        for _ in range(23):
            clock.now_s += 1
            observe(run.after(finished()))
    assert written == [0, 5, 10, 15, 20, 23]
    assert len(shown) == 25


def read(folder: Path) -> dict[str, object]:
    status: dict[str, object] = json.loads((folder / "status.json").read_text())
    assert set(status) == {field.name for field in dataclasses.fields(Status)}
    return status


def test_state_is_running_then_finished(tmp_path: Path) -> None:
    run = Run(1, 1)
    with watching(Root(str(tmp_path)), STEPS) as observe:
        observe(run.progress)
        assert read(tmp_path)["state"] == "running"
        observe(run.after(finished()))
    status = read(tmp_path)
    assert (status["state"], status["running"], status["eta_s"], status["num_done"]) == ("finished", [], 0.0, 1)


def test_state_is_failed_after_a_quarantined_shard(tmp_path: Path) -> None:
    run = Run(2, 1)
    with watching(Root(str(tmp_path)), STEPS) as observe:
        run.after(finished())
        observe(dataclasses.replace(run.after(Failed(1, "label 7 is out of range")), given_up=(1,), images_left=0))
    status = read(tmp_path)
    assert (status["state"], status["quarantined"], status["eta_s"]) == ("failed", [1], None)
    assert "label" not in (tmp_path / "status.json").read_text(), "reasons may name what is secret"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_state_is_failed_after_an_interruption(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with watching(Root(str(tmp_path)), STEPS) as observe:
            observe(Run(2, 1).progress)
            raise error

    with pytest.raises(error):
        interrupted()
    assert read(tmp_path)["state"] == "failed"


def test_run_that_never_started_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), watching(Root(str(tmp_path)), STEPS):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_driver_tells_all_that_the_status_needs(tmp_path: Path) -> None:
    plan = Plan("c0", "d0", "k0", "s0", tuple(Shard(index, 0, (index, index + 100), 7) for index in range(5)))
    run_folder = RunFolder(Root(str(tmp_path)))

    class Worker:
        def craft(self, shard: Shard, attempt: int) -> Crafted:
            if shard.index == 3:
                raise ValueError("label 7 is out of range")
            table = pa.table({"sample_id": list(shard.sample_ids)})
            return Crafted(run_folder.write_attempt(plan.plan_hash, shard, attempt, table), alignment=0.2 * shard.index)

    with watching(run_folder.root, STEPS) as observe:
        drive(plan, run_folder, InlinePool(Worker()), max_failures=2, on_progress=observe)
    status = read(tmp_path)
    assert (status["state"], status["num_shards"], status["num_done"], status["quarantined"]) == ("failed", 5, 4, [3])
    assert (status["num_failures"], status["sample_steps"]) == (2, 4 * 2 * STEPS)
    assert status["mean_alignment"] == pytest.approx(0.2 * (0 + 1 + 2 + 4) / 4)
