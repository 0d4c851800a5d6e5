"""Many records at once: into the batches of their partitions, however large, and each told its own fate."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.batch_builder import RunBuilder
from gateway.connection import BATCH_BYTES_MAX, Connection
from gateway.intake import TOO_MANY_WAITING, UNKNOWN, Intake
from gateway.lanes import Fate
from streams.metrics import GatewayMetrics
from streams.partitioner import partition_of
from streams.settings import Gateway, Settings, Topics
from streams.topics import DEAD_LETTERS, EVENTS

PARTITIONS = 4


class OpenConnection:
    """Makes real batches and keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, RunBuilder, asyncio.Future[None]]] = []

    def create_batch(self) -> RunBuilder:
        return RunBuilder(BATCH_BYTES_MAX)

    async def send(self, builder: RunBuilder, partition: int) -> asyncio.Future[Any]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent.append((partition, builder, future))
        return future


class Told:
    """What was told of each record, by its number."""

    def __init__(self) -> None:
        self.fates: list[tuple[int, Fate]] = []

    def __call__(self, fate: Fate, indices: Sequence[int]) -> None:
        self.fates += [(index, fate) for index in indices]


async def a_connected_intake(
    connection: OpenConnection, *, waiting_max: int = 20_000
) -> tuple[Intake, list[asyncio.Task[None]]]:
    """Return an intake as it is while Kafka acknowledges, and what sends its batches."""
    settings = Settings(topics=Topics(partitions=PARTITIONS), gateway=Gateway(events_waiting_max=waiting_max, linger_ms=0))
    intake = Intake(EVENTS, settings, GatewayMetrics())
    intake._connection = cast(Connection, connection)
    intake._alive()
    return intake, [asyncio.create_task(intake._send_lane(lane, cast(Connection, connection))) for lane in intake._lanes]


async def turns(count: int = 20) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


@given(st.lists(st.tuples(st.binary(max_size=8), st.sampled_from([10, 1_000, 200_000, 500_000])), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_each_record_is_in_a_batch_of_its_partition_and_told_once(records: list[tuple[bytes, int]]) -> None:
    """Whatever the sizes: batches that are full are closed, what is larger than a batch is one of its own."""
    asyncio.run(told_once([(key, b"v" * size) for key, size in records]))


async def told_once(records: list[tuple[bytes, bytes]]) -> None:
    connection, told = OpenConnection(), Told()
    intake, senders = await a_connected_intake(connection)
    keys, values = [key for key, _ in records], [value for _, value in records]
    intake.append_all(keys, values, told)
    assert intake._waiting == len(records)
    assert intake._waiting_bytes == sum(len(key) + len(value) for key, value in records)
    await asyncio.sleep(0.001)
    await turns()
    placed = [partition for partition, builder, _ in connection.sent for _ in range(builder.record_count())]
    assert sorted(placed) == sorted(partition_of(key, PARTITIONS) for key in keys)
    assert told.fates == []
    for number, (_, _, future) in enumerate(connection.sent):
        if number % 2:
            future.set_exception(RuntimeError("refused"))
        else:
            future.set_result(None)
    await turns()
    assert sorted(index for index, _ in told.fates) == list(range(len(records)))
    acknowledged = sum(builder.record_count() for number, (_, builder, _) in enumerate(connection.sent) if not number % 2)
    assert sum(fate is None for _, fate in told.fates) == acknowledged
    assert {fate for _, fate in told.fates} <= {None, UNKNOWN}
    assert (intake._waiting, intake._waiting_bytes) == (0, 0)
    for sender in senders:
        sender.cancel()


async def test_the_largest_record_fits_in_a_batch() -> None:
    """`Stream.bytes_max`: a batch takes its first record whatever its size, and the next one opens another."""
    connection, told = OpenConnection(), Told()
    intake, senders = await a_connected_intake(connection)
    intake.append_all([b"k"] * 3, [b"x" * EVENTS.bytes_max, b"small", b"y" * EVENTS.bytes_max], told)
    await asyncio.sleep(0.001)
    await turns()
    assert [builder.record_count() for _, builder, _ in connection.sent] == [1, 1, 1]
    for sender in senders:
        sender.cancel()


async def test_past_the_limit_a_whole_request_is_refused() -> None:
    """Memory is bounded by the limit and one request."""
    intake, senders = await a_connected_intake(OpenConnection(), waiting_max=10)
    first, second = Told(), Told()
    intake.append_all([b"k"] * 15, [b"v"] * 15, first)
    intake.append_all([b"k"] * 2, [b"v"] * 2, second)
    assert first.fates == []
    assert second.fates == [(0, TOO_MANY_WAITING), (1, TOO_MANY_WAITING)]
    assert intake.refusal() is TOO_MANY_WAITING
    for sender in senders:
        sender.cancel()


async def test_events_and_dead_letters_are_counted_apart() -> None:
    """A dead letter is no event; what waits, and whether Kafka answers, is of all intakes together."""
    metrics = GatewayMetrics()
    settings = Settings(topics=Topics(partitions=PARTITIONS))
    events, letters = Intake(EVENTS, settings, metrics), Intake(DEAD_LETTERS, settings, metrics)
    letters.append_all([b"", b"k"], [b"v", b"v"], Told())
    events.append(b"k", b"v", lambda fate: None)
    value = metrics.registry.get_sample_value
    assert value("tally_gateway_dead_letters_total", {"result": "failed"}) == 2
    assert value("tally_gateway_events_total", {"result": "failed"}) == 1
    for intake in (events, letters):
        assert value("tally_dependency_up", {"service": "kafka"}) == 0
        intake._alive()
    assert value("tally_dependency_up", {"service": "kafka"}) == 1
