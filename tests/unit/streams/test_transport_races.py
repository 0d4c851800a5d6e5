"""One test for each race that lost or repeated events: notes of the prototype's runs, and what reading the code added.

Each says what happens between whom; the cure is always the same: one authority on the position, and an epoch for each seek.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from faust.types import TP

from tests.support.scripted_consumer import SECOND, SOURCE, ScriptedConsumer, a_consumer, a_run, acknowledge, some_runs


@pytest.fixture
async def consumer(tmp_path: Path) -> ScriptedConsumer:
    return a_consumer(tmp_path)


async def test_race_a_nothing_is_delivered_between_resuming_and_the_seek(consumer: ScriptedConsumer) -> None:
    """After recovery Faust resumes the partitions before it seeks, with the flow already active."""
    assert await consumer.delivered(SOURCE, a_run(0, 500)) == []
    assert consumer.sought == []  # the seek that comes decides, not this fetch
    await consumer.sought_to()
    assert await consumer.delivered(SOURCE, a_run(0, 500))


async def test_race_a_a_batch_drained_before_the_seek_comes_again(consumer: ScriptedConsumer) -> None:
    await consumer.delivered(SOURCE, a_run(0, 500))
    await consumer.sought_to()
    assert (SOURCE, 0) in consumer.sought


async def test_race_b_a_partition_without_a_commit_is_sought_too(consumer: ScriptedConsumer) -> None:
    """`seek_to_committed` leaves it where a drain had moved it: what was drained was never read."""
    await consumer.sought_to(SECOND, committed=4096)
    assert (SOURCE, 0) in consumer.sought


async def test_race_c_what_was_fetched_of_an_inactive_partition_is_read_again(consumer: ScriptedConsumer) -> None:
    """Faust drops it without going back."""
    await consumer.sought_to()
    consumer.sought.clear()
    consumer.pause_partitions({SOURCE})
    assert await consumer.delivered(SOURCE, a_run(0, 500)) == []
    assert consumer.sought == [(SOURCE, 0)]
    consumer.resume_partitions({SOURCE})
    assert await consumer.delivered(SOURCE, a_run(0, 500))


async def test_race_c_a_partition_under_pressure_still_gets_what_was_fetched(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    consumer.on_buffer_full(SOURCE)
    assert await consumer.delivered(SOURCE, a_run(0, 500))


@pytest.mark.parametrize("start", [0, 1499, 1501, 9000])
async def test_race_d_a_fetch_that_does_not_continue_is_dropped_and_sought_again(
    consumer: ScriptedConsumer, start: int
) -> None:
    """The first transport took such a hole for a compacted one, and committed it."""
    await consumer.sought_to()
    await consumer.delivered(SOURCE, *some_runs(0, 1024, 476))
    consumer.sought.clear()
    assert await consumer.delivered(SOURCE, a_run(start, 10)) == []
    assert consumer.sought == [(SOURCE, 1500)]
    assert await consumer.delivered(SOURCE, a_run(1500, 10))


async def test_race_d_a_hole_between_two_runs_of_one_fetch_is_not_taken_for_a_compacted_one(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    assert await consumer.delivered(SOURCE, a_run(0, 10), a_run(11, 10)) == []


async def test_race_d_a_hole_that_the_log_really_has_is_passed(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    (message,) = await consumer.delivered(SOURCE, a_run(0, 10, base=90))
    assert (message.start, message.offset) == (0, 99)


async def test_race_e_two_seeks_at_once_follow_each_other(consumer: ScriptedConsumer) -> None:
    """Recovery and getmany both seek: the second must not deliver under the epoch of the first."""
    order: list[str] = []

    async def note() -> None:
        order.append("in")
        await asyncio.sleep(0)
        order.append("out")

    consumer.on_seek = [note]
    await asyncio.gather(consumer.perform_seek(), consumer.perform_seek(), consumer.rewind(SOURCE))
    assert order == ["in", "out"] * 3
    assert consumer.epoch(SOURCE) == consumer.seeks[SOURCE].epoch == 3


async def test_race_e_nothing_is_delivered_while_a_seek_is_under_way(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    delivered: list[object] = []

    async def fetch() -> None:
        consumer.on_seek = []
        delivered.extend(await consumer.delivered(SOURCE, a_run(0, 10)))

    consumer.on_seek = [fetch]
    await consumer.rewind(SOURCE)
    assert delivered == []


async def test_race_e_what_was_dropped_while_a_seek_was_under_way_is_fetched_again(consumer: ScriptedConsumer) -> None:
    """Found by simulation: with no later event, no later fetch would tell that this one was dropped."""
    await consumer.sought_to()
    consumer.sought.clear()

    async def fetch() -> None:
        consumer.on_seek = []
        await consumer.delivered(SOURCE, a_run(0, 10))

    consumer.on_seek = [fetch]
    await consumer.rewind(SOURCE)
    assert consumer.sought == [(SOURCE, 0)] * 2
    assert await consumer.delivered(SOURCE, a_run(0, 10))


async def test_race_f_a_batch_dropped_after_hand_out_is_never_committed(consumer: ScriptedConsumer) -> None:
    """Faust #596: `wait_first(callback, suspend_flow)` drops it. Nothing after it may be committed before it comes again."""
    await consumer.sought_to()
    await consumer.delivered(SOURCE, a_run(0, 5000))  # dropped on its way to the agent
    (next_,) = await consumer.delivered(SOURCE, a_run(5000, 5000))
    consumer.ack(next_)
    assert consumer._new_offset(SOURCE) is None and consumer.acknowledged(SOURCE) == 0
    await consumer.rewind(SOURCE)  # as the agent does, which sees 5000 follow nothing
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(0, 5000)))
    assert consumer._new_offset(SOURCE) == 4096


async def test_race_g_a_blocked_batch_that_gets_through_late_hides_nothing(consumer: ScriptedConsumer) -> None:
    """`_drain_messages` then writes a read offset past the seek, and drops what is read again ("DROPPED MESSAGE ROFF")."""
    await consumer.sought_to()
    (late,) = await consumer.delivered(SOURCE, a_run(0, 9000))
    await consumer.rewind(SOURCE)
    consumer._read_offset[SOURCE] = late.offset  # what the drain does, after the seek
    (again,) = await consumer.delivered(SOURCE, a_run(0, 1000))
    read_offset = consumer._read_offset[SOURCE]
    assert read_offset is None or again.offset >= read_offset


async def test_an_acknowledgment_of_an_older_epoch_is_ignored(consumer: ScriptedConsumer) -> None:
    """The span is read again: the two would count as two parts of one."""
    await consumer.sought_to()
    (old,) = await consumer.delivered(SOURCE, a_run(0, 5000))
    await consumer.rewind(SOURCE)
    assert consumer.ack(old) is False and old.acked and old not in consumer.unacked
    assert consumer.acknowledged(SOURCE) is None and consumer._new_offset(SOURCE) is None


async def test_an_old_acknowledgment_of_the_same_span_does_not_stand_for_the_new_one(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    (old,) = await consumer.delivered(SOURCE, a_run(0, 5000))
    await consumer.rewind(SOURCE)
    (new,) = await consumer.delivered(SOURCE, a_run(0, 5000))
    consumer.ack(old)
    assert consumer.acknowledged(SOURCE) == 0
    consumer.ack(new)
    assert consumer.acknowledged(SOURCE) == 5000


async def test_a_commit_that_lands_while_the_partition_is_sought_does_not_stop_all_later_ones(
    consumer: ScriptedConsumer,
) -> None:
    """Faust ignores an acknowledgment below what it knows as committed; the span would stay open for ever."""
    await consumer.sought_to()
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(0, 9000)))

    async def commit_lands() -> None:
        consumer._committed_offset[SOURCE] = 8192

    consumer.on_seek = [commit_lands]
    await consumer.rewind(SOURCE)
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(0, 5000)))
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(5000, 8000)))
    assert consumer.acknowledged(SOURCE) == 13_000
    assert consumer._new_offset(SOURCE) == 12_288


async def test_a_stale_fetch_that_happens_to_continue_is_followed_by_the_right_one(consumer: ScriptedConsumer) -> None:
    """A rewind to where an old fetch begins: its records are the log's own, and the next fetch is checked again."""
    await consumer.sought_to()
    await consumer.rewind(SOURCE)
    assert await consumer.delivered(SOURCE, a_run(0, 100))
    assert await consumer.delivered(SOURCE, a_run(0, 100)) == []
    assert await consumer.delivered(SOURCE, a_run(100, 100))


async def test_a_fetch_while_the_flow_is_suspended_seeks_again(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    consumer.fetches.append({SOURCE: [a_run(0, 100)]})
    fetched = consumer._getmany

    async def suspended_meanwhile(active_partitions: object, timeout: float) -> object:
        consumer.stop_flow()
        return await fetched(active_partitions, timeout)

    consumer._getmany = suspended_meanwhile  # type: ignore[method-assign]
    assert [message async for message in consumer.getmany(0.1)] == []
    assert consumer.epoch(SOURCE) == 2


async def test_the_log_moving_past_the_position_begins_anew_at_its_start(consumer: ScriptedConsumer) -> None:
    """A19. Retention overtook the reader: the agent must be told by a new epoch, for it decides whether that is a loss."""
    await consumer.sought_to()
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(0, 100)))
    consumer.held[SOURCE] = 250
    assert await consumer.delivered(SOURCE, a_run(250, 10)) == []
    assert (consumer.seeks[SOURCE].position, consumer.seeks[SOURCE].log_start) == (250, 250)
    (message,) = await consumer.delivered(SOURCE, a_run(250, 10))
    assert message.epoch == 2


async def test_a_broker_that_does_not_answer_a_rewind_leaves_the_partition_to_be_rewound_again(
    consumer: ScriptedConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forgotten first, it would have no position, and wait for a seek that nobody makes."""
    await consumer.sought_to()
    await consumer.delivered(SOURCE, a_run(0, 100))
    consumer.held[SOURCE] = 250
    asked = consumer.earliest_offsets
    answers = iter([True, False])

    async def answers_once(*partitions: TP) -> dict[TP, int]:
        if not next(answers, True):
            raise ConnectionError("no broker")
        return await asked(*partitions)

    monkeypatch.setattr(consumer, "earliest_offsets", answers_once)
    assert await consumer.delivered(SOURCE, a_run(250, 10)) == []
    assert await consumer.delivered(SOURCE, a_run(250, 10)) == []
    assert await consumer.delivered(SOURCE, a_run(250, 10))


async def test_a_partition_that_comes_back_is_not_read_on_from_where_it_was_left(consumer: ScriptedConsumer) -> None:
    """Another worker read on meanwhile, or did not commit: only the seek knows."""
    await consumer.sought_to()
    await consumer.delivered(SOURCE, a_run(0, 100))
    await consumer.on_partitions_revoked({SOURCE})
    assert await consumer.delivered(SOURCE, a_run(100, 100)) == []
    consumer._set_active_tps(consumer.assigned)
    assert await consumer.delivered(SOURCE, a_run(100, 100)) == []
    await consumer.sought_to(committed=4096)
    assert await consumer.delivered(SOURCE, a_run(4096, 100))
