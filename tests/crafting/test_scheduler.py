from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taggants.crafting.events import Decision, Event, Failed, Finished, GiveUp, Lost, Submit
from taggants.crafting.plan import Commit
from taggants.crafting.scheduler import Scheduler


def finished(index: int) -> Finished:
    return Finished(index, Commit("p", index, "attempts/x", 1, "0", 1))


def test_start_fills_the_slots_in_order() -> None:
    scheduler = Scheduler([4, 2, 9], num_slots=2)
    assert scheduler.start() == [Submit(4, 1), Submit(2, 1)]
    assert (scheduler.num_waiting, len(scheduler.running), scheduler.num_done) == (1, 2, 0)


def test_nothing_to_do_is_finished() -> None:
    scheduler = Scheduler([], num_slots=2)
    assert scheduler.start() == []
    assert scheduler.is_finished


def test_finished_shard_makes_room() -> None:
    scheduler = Scheduler([0, 1], num_slots=1)
    scheduler.start()
    assert scheduler.handle(finished(0)) == [Submit(1, 1)]
    assert not scheduler.is_finished
    assert scheduler.handle(finished(1)) == []
    assert scheduler.is_finished
    assert scheduler.num_done == 2


def test_lost_shard_comes_next_and_failed_shard_last() -> None:
    scheduler = Scheduler([0, 1, 2], num_slots=1)
    scheduler.start()
    assert scheduler.handle(Lost(0, "node")) == [Submit(0, 2)]
    assert scheduler.handle(Failed(0, "bug")) == [Submit(1, 1)]
    assert scheduler.handle(finished(1)) == [Submit(2, 1)]
    assert scheduler.handle(finished(2)) == [Submit(0, 3)]


def test_failures_and_losses_have_budgets_of_their_own() -> None:
    scheduler = Scheduler([0], num_slots=1, max_failures=2, max_losses=3)
    scheduler.start()
    for event in [Lost(0, "a"), Lost(0, "b"), Failed(0, "c")]:
        assert len(scheduler.handle(event)) == 1
        assert scheduler.given_up == {}
    assert scheduler.handle(Lost(0, "node gone")) == [GiveUp(0, "lost 3 times, at last: node gone")]
    assert scheduler.given_up == {0: "lost 3 times, at last: node gone"}
    assert scheduler.is_finished


def test_preempted_shard_comes_next_and_spends_no_budget() -> None:
    scheduler = Scheduler([0, 1], num_slots=1, max_failures=1, max_losses=1)
    scheduler.start()
    for attempt in range(2, 20):
        assert scheduler.handle(Lost(0, "spot", is_preemption=True)) == [Submit(0, attempt)]
    assert scheduler.handle(Lost(0, "node gone"))[0] == GiveUp(0, "lost 1 times, at last: node gone")
    assert scheduler.running == (1,)


def test_running_shards_are_named() -> None:
    scheduler = Scheduler([4, 2, 9], num_slots=2)
    scheduler.start()
    assert scheduler.running == (2, 4)
    scheduler.handle(finished(4))
    assert scheduler.running == (2, 9)


def test_given_up_shard_makes_room() -> None:
    scheduler = Scheduler([0, 1], num_slots=1, max_failures=1)
    scheduler.start()
    assert scheduler.handle(Failed(0, "bug")) == [GiveUp(0, "failed 1 times, at last: bug"), Submit(1, 1)]


def test_attempts_start_above_those_in_use() -> None:
    scheduler = Scheduler([0, 1], num_slots=2, last_attempts={1: 4, 7: 1})
    assert scheduler.start() == [Submit(0, 1), Submit(1, 5)]
    assert scheduler.handle(Lost(1, "node")) == [Submit(1, 6)]


@pytest.mark.parametrize("event", [finished(5), finished(1), Failed(1, ""), Lost(5, "")])
def test_event_of_a_shard_that_is_unknown_or_waiting_is_refused(event: Event) -> None:
    scheduler = Scheduler([0, 1], num_slots=1)
    scheduler.start()
    with pytest.raises(ValueError, match="is not running"):
        scheduler.handle(event)


def test_event_that_comes_twice_is_refused() -> None:
    scheduler = Scheduler([0, 1], num_slots=1, max_failures=1)
    scheduler.start()
    scheduler.handle(Failed(0, "bug"))
    for event in [finished(0), Failed(0, "bug"), Lost(0, "node")]:
        with pytest.raises(ValueError, match="shard 0 is not running"):
            scheduler.handle(event)
    assert scheduler.given_up == {0: "failed 1 times, at last: bug"}


@settings(max_examples=200)
@given(
    num_shards=st.integers(0, 8),
    num_slots=st.integers(1, 5),
    max_failures=st.integers(1, 3),
    max_losses=st.integers(1, 3),
    last_attempts=st.dictionaries(st.integers(0, 8), st.integers(1, 9)),
    draw=st.data(),
)
def test_every_shard_ends_once(
    num_shards: int,
    num_slots: int,
    max_failures: int,
    max_losses: int,
    last_attempts: dict[int, int],
    draw: st.DataObject,
) -> None:
    scheduler = Scheduler(
        range(num_shards),
        num_slots=num_slots,
        max_failures=max_failures,
        max_losses=max_losses,
        last_attempts=last_attempts,
    )
    open_shards: set[int] = set()
    ends: Counter[int] = Counter()
    mishaps: Counter[tuple[int, type]] = Counter()
    attempts: dict[int, list[int]] = {index: [last_attempts.get(index, 0)] for index in range(num_shards)}

    def obey(decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Submit):
                assert decision.shard_index not in open_shards
                assert decision.attempt == attempts[decision.shard_index][-1] + 1
                attempts[decision.shard_index].append(decision.attempt)
                open_shards.add(decision.shard_index)
            else:
                ends[decision.shard_index] += 1
                of_each_kind = mishaps[decision.shard_index, Failed], mishaps[decision.shard_index, Lost]
                assert of_each_kind[0] == max_failures or of_each_kind[1] == max_losses

    obey(scheduler.start())
    while open_shards:
        assert len(open_shards) <= num_slots
        assert len(open_shards) == num_slots or scheduler.num_waiting == 0, "a slot idles while work waits"
        assert not scheduler.is_finished
        index = draw.draw(st.sampled_from(sorted(open_shards)))
        event = draw.draw(
            st.sampled_from([finished(index), Failed(index, "bug"), Lost(index, "node"), Lost(index, "spot", True)])
        )
        open_shards.remove(index)
        if event != Lost(index, "spot", True):
            mishaps[index, type(event)] += 1
        if isinstance(event, Finished):
            ends[index] += 1
        obey(scheduler.handle(event))
        assert len(scheduler.running) == len(open_shards)
        num_ended = scheduler.num_done + len(scheduler.given_up)
        assert scheduler.num_waiting + len(scheduler.running) + num_ended == num_shards
    assert scheduler.is_finished
    assert ends == dict.fromkeys(range(num_shards), 1)
    assert all(mishaps[index, Failed] <= max_failures for index in range(num_shards))
    assert all(mishaps[index, Lost] <= max_losses for index in range(num_shards))
