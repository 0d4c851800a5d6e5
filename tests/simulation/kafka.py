"""Play Kafka: logs with compaction, batches that travel and are acknowledged late, and the commits of the group.

What it may do is what Kafka may do. A batch that was sent lies in the network until the broker appends it, in order for
each producer and partition (the producer is idempotent); its acknowledgment travels too. What a killed process had sent
may still arrive. Compaction keeps the last record of each key, and drops tombstones some time later.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple

from streams.topics import DEAD_LETTERS, USER_TAGS, changelog_of
from tests.simulation.events import PARTITIONS, SourceRecord

BLOCKS = changelog_of(USER_TAGS.blocks_table)
ROWS = changelog_of(USER_TAGS.rows_table)
TOPICS = (BLOCKS, ROWS, DEAD_LETTERS)


class Entry(NamedTuple):
    """A record of a log, as kafka-python and Faust show it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Any


class Log:
    """One partition of one topic: its records by rising offset, with the holes that compaction leaves."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.entries: list[Entry] = []
        self.end = 0

    def append(self, records: list[tuple[Any, Any, Any]], now_ms: int) -> int:
        """Append a batch; return the offset of its first record."""
        base = self.end
        for key, value, headers in records:
            self.entries.append(Entry(self.topic, self.partition, self.end, now_ms, key, value, headers))
            self.end += 1
        return base

    def read(self, first: int, limit: int) -> list[Entry]:
        """Return at most *limit* records from an offset on."""
        at = bisect_left(self.entries, first, key=lambda entry: entry.offset)
        return self.entries[at : at + limit]

    def compact(self, rng: Random, key_of: Callable[[bytes], bytes]) -> None:
        """Keep the last record of each key below some offset; forget tombstones below a smaller one."""
        if not self.entries:
            return
        clean = rng.randrange(self.end + 1)
        forgotten = rng.randrange(clean + 1)
        last = {key_of(entry.key): entry.offset for entry in self.entries if entry.offset < clean and entry.key is not None}
        self.entries = [
            entry
            for entry in self.entries
            if entry.offset >= clean
            or entry.key is None
            or (last[key_of(entry.key)] == entry.offset and not (entry.value is None and entry.offset < forgotten))
        ]


class Travelling(NamedTuple):
    """A batch in the network."""

    records: list[tuple[Any, Any, Any]]
    future: asyncio.Future[Any]


Link = deque[Travelling]
"""What one producer has sent to one partition and the broker has not appended."""


class Kafka:
    """The broker.

    Attributes:
        source: records of the source by partition; those below `visible` have been produced.
        log_start: first offset that the source still holds, by partition.
        logs: changelogs and dead letters by (topic, partition).
        network: batches that were sent and not appended.
        answers: acknowledgments that have not arrived, in order for each link.
        appended: called with what was just appended.
    """

    def __init__(self, source: list[list[SourceRecord]], now_ms: Callable[[], int], topics: Iterable[str] = TOPICS) -> None:
        self.source = source
        self.offsets = [[record.offset for record in records] for records in source]
        self.ends = [records[-1].offset + 1 if records else 0 for records in source]
        self.visible = list(self.ends)
        self.log_start = [0] * PARTITIONS
        self.logs = {(topic, partition): Log(topic, partition) for topic in topics for partition in range(PARTITIONS)}
        self.network: dict[tuple[int, str, int], Link] = {}
        self.answers: dict[tuple[int, str, int], deque[tuple[asyncio.Future[Any], int]]] = {}
        self.appended: Callable[[Log, int], None] = lambda log, base: None
        self._now_ms = now_ms

    def append_next(self, link: tuple[int, str, int]) -> None:
        """Take the next batch of a link into its log; the acknowledgment sets out."""
        waiting = self.network[link]
        batch = waiting.popleft()
        if not waiting:
            del self.network[link]
        log = self.logs[link[1], link[2]]
        base = log.append(batch.records, self._now_ms())
        self.appended(log, base)
        self.answers.setdefault(link, deque()).append((batch.future, base))

    def answer_next(self, link: tuple[int, str, int]) -> None:
        """Let the next acknowledgment of a link arrive."""
        waiting = self.answers[link]
        future, base = waiting.popleft()
        if not waiting:
            del self.answers[link]
        if not future.done():
            future.set_result(SimpleNamespace(offset=base))

    def lose(self, producer: int, rng: Random) -> None:
        """Drop some of what a killed producer had sent, from the end of each link; the rest may still arrive."""
        for link in [link for link in self.network if link[0] == producer]:
            kept = rng.randrange(len(self.network[link]) + 1)
            if kept:
                self.network[link] = deque(list(self.network[link])[:kept])
            else:
                del self.network[link]

    def read_source(self, partition: int, first: int, limit: int) -> tuple[list[SourceRecord], int]:
        """Return at most *limit* produced records from an offset on, and the position after them."""
        offsets, visible = self.offsets[partition], self.visible[partition]
        at = bisect_left(offsets, first)
        records = [record for record in self.source[partition][at : at + limit] if record.offset < visible]
        return records, records[-1].offset + 1 if records else min(max(first, visible), visible)


class ProducerBatch:
    """A batch of aiokafka's producer."""

    __slots__ = ("records",)

    def __init__(self) -> None:
        self.records: list[tuple[Any, Any, Any]] = []

    def append(self, *, key: Any, value: Any, timestamp: Any, headers: Any) -> object:
        self.records.append((key, value, headers))
        return self

    def close(self) -> None:
        """Take note of nothing."""


class Producer:
    """The part of aiokafka's producer that the product uses; one for each life of a process."""

    def __init__(self, kafka: Kafka, number: int) -> None:
        self.number = number
        self._kafka = kafka

    def create_batch(self) -> ProducerBatch:
        return ProducerBatch()

    async def send_batch(self, batch: ProducerBatch, topic: str, *, partition: int) -> asyncio.Future[Any]:
        await asyncio.sleep(0)  # aiokafka may wait here for room in its buffer
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._kafka.network.setdefault((self.number, topic, partition), deque()).append(Travelling(batch.records, future))
        return future

    def is_empty(self) -> bool:
        """Return whether nothing is on its way."""
        return not any(link[0] == self.number for link in (*self._kafka.network, *self._kafka.answers))
