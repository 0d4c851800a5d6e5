"""Sending to a changelog: groups whole, in order, within limits; and which offset a local store may remember."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.changelog import BATCH_BYTES, RECORD_OVERHEAD_BYTES, ChangelogRecord, OffsetKeys, send_groups

TABLE = "minute-blocks"


class Batch:
    """A batch of the fake producer, limited as aiokafka's is."""

    def __init__(self, bytes_max: int) -> None:
        self.records: list[ChangelogRecord] = []
        self.closed = False
        self._room = bytes_max

    def append(self, *, key: bytes | None, value: bytes | None, timestamp: int | None, headers: Any) -> object | None:
        assert not self.closed and timestamp is None
        self._room -= len(key or b"") + len(value or b"")
        if self._room < 0:
            return None
        self.records.append(ChangelogRecord(key, value, tuple(headers)))
        return object()

    def close(self) -> None:
        self.closed = True


class FakeProducer:
    """Takes batches as Kafka does, and acknowledges nothing by itself."""

    def __init__(self, bytes_max: int = 32 << 20) -> None:
        self.bytes_max = bytes_max
        self.sent: list[tuple[Batch, str, int]] = []

    def create_batch(self) -> Batch:
        return Batch(self.bytes_max)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
        assert batch.closed
        self.sent.append((batch, topic, partition))
        return asyncio.get_running_loop().create_future()


def a_group(*sizes: int, headers_bytes: int = 0) -> list[ChangelogRecord]:
    headers = [("noise", bytes(headers_bytes))] if headers_bytes else []
    return [ChangelogRecord(b"%d" % index, bytes(size), headers) for index, size in enumerate(sizes)]


sizes_of_groups = st.lists(st.lists(st.integers(0, BATCH_BYTES), min_size=1, max_size=4), max_size=8)


@given(sizes_of_groups)
async def test_groups_are_sent_in_order_and_none_is_ever_split(sizes: list[list[int]]) -> None:
    """A reader sees all blocks of a bucket with their progress, or none of them."""
    producer = FakeProducer()
    groups = [[ChangelogRecord(b"%d" % number, bytes(size)) for size in group] for number, group in enumerate(sizes)]
    sent = await send_groups(producer, "t", 3, groups)
    batches = [batch.records for batch, topic, partition in producer.sent if (topic, partition) == ("t", 3)]
    assert [record for batch in batches for record in batch] == [record for group in groups for record in group]
    assert [part.records for part in sent] == [len(batch) for batch in batches]
    places = [{record.key for record in batch} for batch in batches]
    assert all(not left & right for index, left in enumerate(places) for right in places[index + 1 :])


@given(sizes_of_groups)
async def test_a_batch_is_larger_than_its_limit_only_for_one_large_group(sizes: list[list[int]]) -> None:
    producer = FakeProducer()
    await send_groups(
        producer,
        "t",
        0,
        [[ChangelogRecord(b"%d" % number, bytes(size)) for size in group] for number, group in enumerate(sizes)],
    )
    for batch, _, _ in producer.sent:
        if len({record.key for record in batch.records}) > 1:
            assert sum(len(record.value or b"") + RECORD_OVERHEAD_BYTES for record in batch.records) <= BATCH_BYTES


async def test_small_groups_share_a_batch() -> None:
    producer = FakeProducer()
    await send_groups(producer, "t", 0, [a_group(10), a_group(10), a_group(10)])
    assert len(producer.sent) == 1


async def test_nothing_to_send_sends_nothing() -> None:
    producer = FakeProducer()
    assert await send_groups(producer, "t", 0, []) == [] and producer.sent == []


async def test_a_group_that_fits_no_batch_is_refused() -> None:
    """Half of it would break the law: the worker must end instead."""
    with pytest.raises(ValueError, match="do not fit into one batch"):
        await send_groups(FakeProducer(bytes_max=100), "t", 0, [a_group(60, 60)])


async def test_headers_count_when_a_batch_is_filled() -> None:
    """Dead letters carry the headers of a foreign record, megabytes if it likes: Kafka would refuse the batch for ever."""
    producer = FakeProducer()
    await send_groups(producer, "dead-letters.v1", 0, [a_group(1, headers_bytes=BATCH_BYTES // 2 + 1) for _ in range(4)])
    assert [len(batch.records) for batch, _, _ in producer.sent] == [1, 1, 1, 1]


def offset_keys(persisted: int | None = None) -> tuple[OffsetKeys, list[str]]:
    frozen: list[str] = []
    return OffsetKeys(lambda table, partition: persisted, frozen.append), frozen


def test_an_offset_key_follows_our_own_records() -> None:
    keys, frozen = offset_keys()
    assert keys.advance(TABLE, 0, [(0, 3), (3, 2)]) == 4
    assert keys.advance(TABLE, 0, [(5, 1)]) == 5
    assert frozen == []


def test_an_offset_key_goes_on_from_where_recovery_left_it() -> None:
    keys, _ = offset_keys(persisted=41)
    assert keys.advance(TABLE, 0, [(42, 8)]) == 49


def test_no_acknowledgment_leaves_the_offset_key_where_it_was() -> None:
    keys, _ = offset_keys(persisted=41)
    assert keys.advance(TABLE, 0, []) == 41
    assert offset_keys()[0].advance(TABLE, 0, []) is None


def test_an_offset_key_freezes_at_the_first_foreign_record() -> None:
    """A zombie's store must not skip the new owner's records: it would miss them for good when the partition comes back."""
    keys, frozen = offset_keys()
    assert keys.advance(TABLE, 0, [(0, 3), (4, 2)]) is None
    assert keys.advance(TABLE, 0, [(6, 1)]) is None
    assert frozen == [TABLE]


def test_a_frozen_offset_key_stays_frozen_when_offsets_happen_to_fit_again() -> None:
    keys, _ = offset_keys()
    keys.advance(TABLE, 0, [(7, 1)])
    assert keys.advance(TABLE, 0, [(0, 1)]) is None


def test_freezing_is_of_one_table_and_partition() -> None:
    keys, _ = offset_keys()
    keys.advance(TABLE, 0, [(7, 1)])
    assert keys.advance(TABLE, 1, [(0, 1)]) == 0
    assert keys.advance("user-profiles", 0, [(0, 1)]) == 0


def test_a_recovery_thaws_an_offset_key() -> None:
    keys, _ = offset_keys(persisted=9)
    keys.advance(TABLE, 0, [(50, 1)])
    keys.reset()
    assert keys.advance(TABLE, 0, [(10, 2)]) == 11
