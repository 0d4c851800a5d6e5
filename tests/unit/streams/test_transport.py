"""The contract of every method of Faust's consumer that we override: what is delivered, sought, acknowledged, committed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streams.topics import BUCKET_OFFSETS
from streams.transport import BatchSchema, Producer, ReadOffsets, Seek, Transport
from tests.support.scripted_consumer import (
    CHANGELOG,
    SECOND,
    SOURCE,
    ScriptedConsumer,
    a_consumer,
    a_run,
    acknowledge,
    an_app,
    some_runs,
)


@pytest.fixture
async def consumer(tmp_path: Path) -> ScriptedConsumer:
    return a_consumer(tmp_path)


# -- delivering


async def test_a_fetch_of_one_partition_is_one_message_that_covers_it(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    (message,) = await consumer.delivered(SOURCE, *some_runs(0, 1024, 76))
    assert (message.start, message.offset, message.epoch) == (0, 1099, consumer.epoch(SOURCE))
    assert [run.end for run in message.value] == [1024, 1100]


async def test_a_message_carries_the_generation_that_faust_checks(consumer: ScriptedConsumer) -> None:
    """Without it the stream drops the event as one of an earlier assignment."""
    await consumer.sought_to()
    consumer.app.consumer_generation_id = 17
    (message,) = await consumer.delivered(SOURCE, a_run(0, 1))
    assert message.generation_id == 17


async def test_each_partition_has_a_position_of_its_own(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to(SECOND, committed=4096)
    assert await consumer.delivered(SECOND, a_run(4096, 5))
    assert await consumer.delivered(SOURCE, a_run(0, 5))
    assert await consumer.delivered(SECOND, a_run(4101, 5))


async def test_a_run_without_records_moves_the_position(consumer: ScriptedConsumer) -> None:
    """A transaction's marker: nothing to count, and yet everything before it is read."""
    await consumer.sought_to()
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(0, 3), a_run(3, 0, base=4)))
    assert consumer.acknowledged(SOURCE) == 4


async def test_records_of_other_topics_pass_one_by_one(consumer: ScriptedConsumer) -> None:
    """Recovery counts records of a changelog: they must arrive as Faust knows them."""
    record = SimpleNamespace(
        topic=CHANGELOG.topic, partition=0, offset=5, timestamp=1000, timestamp_type=0, headers=(), key=b"k", value=b"v",
        checksum=None, serialized_key_size=1, serialized_value_size=1,
    )  # fmt: skip
    (message,) = await consumer.delivered(CHANGELOG, record)
    assert (message.offset, message.key, message.value, message.timestamp) == (5, b"k", b"v", 1.0)


async def test_records_of_a_paused_changelog_are_left_out(consumer: ScriptedConsumer) -> None:
    consumer.pause_partitions({CHANGELOG})
    assert await consumer.delivered(CHANGELOG, SimpleNamespace(offset=5)) == []


async def test_nothing_is_delivered_when_the_assignment_changes_on_the_way(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    consumer.fetches.append({SOURCE: [a_run(0, 5)], SECOND: [a_run(0, 5)]})
    seen = []
    async for tp, _ in consumer.getmany(0.1):
        seen.append(tp)
        consumer.app.consumer_generation_id += 1
    assert seen == [SOURCE]


async def test_the_schema_passes_runs_through_undecoded(consumer: ScriptedConsumer) -> None:
    schema, message = BatchSchema(), SimpleNamespace(value=some_runs(0, 1), key=b"k")
    schema.loads_key(consumer.app, message)
    assert schema.loads_value(consumer.app, message) is message.value


async def test_waiting_for_partitions_under_pressure_takes_milliseconds(
    consumer: ScriptedConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust sleeps a whole second when every partition's queue is full."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("streams.transport.asyncio.sleep", sleep)
    consumer.pause_partitions(consumer.assigned)
    assert await consumer._wait_next_records(1.0) == ({}, set())
    assert slept and max(slept) < 0.05


async def test_waiting_with_an_active_partition_fetches(consumer: ScriptedConsumer) -> None:
    consumer.fetches.append({SOURCE: [a_run(0, 1)]})
    fetched, active = await consumer._wait_next_records(0.1)
    assert list(fetched) == [SOURCE] and active == consumer.assigned


# -- seeking


async def test_seeking_puts_every_owned_partition_where_it_belongs(consumer: ScriptedConsumer) -> None:
    consumer.held = {SECOND: 500}
    await consumer.sought_to(SOURCE, committed=8192)
    assert dict(consumer.sought) == {SOURCE: 8192, SECOND: 500}
    assert consumer.seeks[SOURCE] == Seek(1, 8192, 8192, 0)
    assert consumer.seeks[SECOND] == Seek(1, 500, None, 500)


async def test_a_log_that_starts_past_the_commit_is_read_from_its_start(consumer: ScriptedConsumer) -> None:
    """A19. The seek says both, so that the agent can tell whether something was lost."""
    consumer.held = {SOURCE: 5000}
    await consumer.sought_to(SOURCE, committed=4096)
    assert consumer.seeks[SOURCE] == Seek(1, 5000, 4096, 5000)


async def test_every_seek_begins_a_new_epoch(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    await consumer.rewind(SOURCE)
    assert (consumer.epoch(SOURCE), consumer.epoch(SECOND)) == (2, 1)


async def test_rewinding_touches_one_partition_and_goes_back_to_the_commit(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to(SOURCE, committed=4096)
    await consumer.delivered(SOURCE, a_run(4096, 900))
    consumer.sought.clear()
    await consumer.rewind(SOURCE)
    assert consumer.sought == [(SOURCE, 4096)]
    (message,) = await consumer.delivered(SOURCE, a_run(4096, 900))
    assert message.epoch == consumer.seeks[SOURCE].epoch == 2


async def test_a_seek_without_source_partitions_asks_nothing(consumer: ScriptedConsumer) -> None:
    consumer.assigned = {CHANGELOG}
    await consumer.perform_seek()
    assert consumer.sought == [] and consumer.owned() == set()


async def test_forgetting_leaves_nothing_of_the_old_epoch(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    first, second = [*await consumer.delivered(SOURCE, a_run(0, 5)), *await consumer.delivered(SOURCE, a_run(5, 5))]
    consumer.ack(second)
    consumer._forget(SOURCE)
    assert consumer.acknowledged(SOURCE) is None
    assert await consumer.delivered(SOURCE, a_run(10, 5)) == []
    consumer.ack(first)
    assert not consumer._acked.get(SOURCE)


async def test_a_resync_that_the_broker_refuses_is_tried_at_the_next_fetch(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()

    async def refuse() -> None:
        raise ConnectionError("no broker")

    consumer.on_seek = [refuse]
    assert await consumer.delivered(SOURCE, a_run(7, 1)) == []
    consumer.on_seek = []
    assert await consumer.delivered(SOURCE, a_run(7, 1)) == []
    assert consumer.sought[-1] == (SOURCE, 0)


# -- acknowledging and committing


async def test_only_the_contiguous_part_counts_as_acknowledged(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    assert consumer.acknowledged(SOURCE) is None
    first, second, third = [(await consumer.delivered(SOURCE, a_run(start, 10)))[0] for start in (0, 10, 20)]
    consumer.ack(third)
    consumer.ack(first)
    assert consumer.acknowledged(SOURCE) == 10
    consumer.ack(second)
    assert consumer.acknowledged(SOURCE) == 30


async def test_a_commit_is_rounded_down_to_the_start_of_a_bucket(consumer: ScriptedConsumer) -> None:
    """So every open bucket is read again from its first offset, and nothing of it has to be restored."""
    await consumer.sought_to()
    acknowledge(consumer, await consumer.delivered(SOURCE, *some_runs(0, *[1024] * 7, 1000)))
    await consumer.commit()
    assert consumer.commits == [{SOURCE: BUCKET_OFFSETS}]


async def test_nothing_is_committed_before_the_first_bucket_is_full(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(0, 4095)))
    assert consumer._new_offset(SOURCE) is None
    await consumer.commit()
    assert consumer.commits == []


@pytest.mark.parametrize(
    ("committed", "log_start", "expected"), [(None, 0, 0), (None, 700, 700), (4096, 0, 4096), (4096, 9000, 4096)]
)
async def test_where_counting_begins_is_committed_first(
    consumer: ScriptedConsumer, committed: int | None, log_start: int, expected: int
) -> None:
    """A19. A commit that the group has is told again as it is: one at the log's start would hide what was lost before it."""
    consumer.held = {SOURCE: log_start}
    await consumer.sought_to(SOURCE, committed=committed)
    assert await consumer.commit_start(SOURCE)
    assert consumer.commits == [{SOURCE: expected}]


@pytest.mark.parametrize("committed", [None, 4096])
async def test_who_is_refused_the_first_commit_goes_back_to_what_was_known(
    consumer: ScriptedConsumer, committed: int | None
) -> None:
    """Faust remembers a refused commit as made."""
    consumer.held = {SOURCE: 9000}
    await consumer.sought_to(SOURCE, committed=committed)
    consumer.refuses = True
    assert not await consumer.commit_start(SOURCE)
    await consumer.rewind(SOURCE)
    assert consumer.seeks[SOURCE] == Seek(2, 9000, committed, 9000)


async def test_the_same_offset_is_committed_once(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    acknowledge(consumer, await consumer.delivered(SOURCE, a_run(0, 5000)))
    await consumer.commit()
    await consumer.commit()
    assert len(consumer.commits) == 1


async def test_acknowledging_twice_counts_once(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    (message,) = await consumer.delivered(SOURCE, a_run(0, 10))
    assert (consumer.ack(message), consumer.ack(message)) == (True, False)
    assert consumer.acknowledged(SOURCE) == 10


async def test_memory_of_acknowledged_spans_is_let_go(consumer: ScriptedConsumer) -> None:
    await consumer.sought_to()
    for start in range(0, 1000, 10):
        acknowledge(consumer, await consumer.delivered(SOURCE, a_run(start, 10)))
        consumer._new_offset(SOURCE)
    assert not consumer._handed_out[SOURCE] and not consumer._acked[SOURCE]


async def test_other_topics_are_committed_as_faust_does(consumer: ScriptedConsumer) -> None:
    consumer._committed_offset[CHANGELOG] = 3
    consumer._acked[CHANGELOG] = [3, 4]
    assert consumer._new_offset(CHANGELOG) == 5


# -- the transport around it


async def test_reading_offsets_of_batch_topics_are_never_remembered(consumer: ScriptedConsumer) -> None:
    offsets = ReadOffsets(lambda: None, {SOURCE: 5, CHANGELOG: 6})
    assert (offsets[SOURCE], offsets[CHANGELOG], offsets[SECOND]) == (None, 6, None)
    offsets[SOURCE] = 7
    assert offsets[SOURCE] is None
    assert isinstance(consumer._read_offset, ReadOffsets)


async def test_the_producer_is_idempotent_and_waits_for_all_replicas(tmp_path: Path) -> None:
    """A retry that was written twice would look like a second writer, and freeze the offset key."""
    producer: Any = Producer(an_app(tmp_path).transport)
    assert producer._settings_default()["acks"] in (-1, "all")
    assert producer._settings_extra() == {"acks": "all", "enable_idempotence": True}


async def test_the_broker_url_of_the_app_names_this_transport(tmp_path: Path) -> None:
    app = an_app(tmp_path)
    assert type(app.transport) is Transport
    assert app.transport.Consumer.getmany is Transport.Consumer.getmany
    assert app.transport.Producer is Producer
