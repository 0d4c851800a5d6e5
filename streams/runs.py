"""Cut fetched record batches into runs: contiguous records of one partition as raw bytes, without an object a record.

A run says from which position it was fetched, so a hole in the log (a transaction's marker, an aborted transaction, a
compacted record) and a hole in our reading can be told apart: the first lies between a run's `start` and its `base`, the
second between one run's `end` and the next one's `start`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from aiokafka.consumer import consumer as aiokafka_consumer
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.errors import CorruptRecordException

from streams.topics import STREAMS

RUN_RECORDS_MAX = 1024
"""What is folded between two awaits: about 3 ms, because the views share the loop."""
JUDGED_RUN_RECORDS_MAX = 128
"""The same for a stream whose events are larger and looked up one by one: about 20 µs each."""
FETCH_WAIT_MS = 50
"""Faust fixes 1,500: one long poll that covers only idle partitions then holds up every other of that broker."""
FETCH_BYTES_MIN = 65_536
"""What a fetch waits for, no longer than that. A delivery costs about 2 ms however few records it has, and producers with many
small batches would make hundreds a second: two thirds of a core at 1,000 events/s. Nobody sees that it counts 50 ms later."""
PREFETCH_BACKOFF_S = 0.005
_value_of = attrgetter("value")
BATCH_TOPICS: dict[str, int] = {stream.topic: JUDGED_RUN_RECORDS_MAX if stream.id else RUN_RECORDS_MAX for stream in STREAMS}
"""The topics that are consumed in batches, and how many records a run of each has at most."""


@dataclass(slots=True)
class Run:
    """Records of contiguous offsets.

    Attributes:
        start: position that was read on from; offsets in [start, base) hold no record for us.
        base: offset of the first record.
        values: payloads, None where a record has none.
        records: aiokafka's records themselves, for the key and headers of the few that become dead letters.
    """

    start: int
    base: int
    values: list[bytes | None]
    records: list[Any]

    @property
    def end(self) -> int:
        """Position after the last record."""
        return self.base + len(self.values)


class RunRecords(aiokafka_fetcher.PartitionRecords):
    """aiokafka's reader of one fetched partition, yielding runs for the topics that are consumed in batches."""

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Any]:
        return self._runs() if self._tp.topic in BATCH_TOPICS else super()._unpack_records()

    def _runs(self) -> Iterator[Run]:
        start, records_max = self.next_fetch_offset, BATCH_TOPICS[self._tp.topic]
        for records, after in self._gathered(records_max):
            for run in cut(records, start, records_max):
                self.next_fetch_offset = start = run.end
                yield run
            self.next_fetch_offset = max(after, self.next_fetch_offset)
        if self.next_fetch_offset > start:  # a hole at the end: without this, the next fetch would seem to skip it
            yield Run(start, self.next_fetch_offset, [], [])

    def _gathered(self, records_max: int) -> Iterator[tuple[list[Any], int]]:
        """Yield the records of a large batch, or of many small ones, and the offset after them.

        A poll takes few runs and a delivery costs 2 ms: a run each, a backlog of small batches is read at a tenth of the speed.
        """
        records: list[Any] = []
        after = self.next_fetch_offset
        while self._records.has_next():
            batch = self._records.next_batch()
            if self._check_crcs and not batch.validate_crc():
                yield records, after  # what lies before it is sound
                raise CorruptRecordException(f"invalid CRC in {self._tp}")
            if not self._is_skipped(batch):
                records += batch
            after = batch.next_offset
            if len(records) >= records_max or not self._records.has_next():
                yield records, after
                records = []

    def _is_skipped(self, batch: Any) -> bool:
        """Say whether a batch is a marker or belongs to an aborted transaction; the rules are aiokafka's own."""
        if batch.producer_id is not None:
            self._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and self._contains_abort_marker(batch):
                self._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in self._aborted_producers:
                return True
        return bool(batch.is_control_batch)


def cut(records: list[Any], start: int, records_max: int = RUN_RECORDS_MAX) -> Iterator[Run]:
    """Yield runs of at most *records_max* records, cut at every hole, of the records from *start* on."""
    if records and records[0].offset < start:
        records = [record for record in records if record.offset >= start]
    whole = not records or records[-1].offset - records[0].offset == len(records) - 1
    for part in [records] if whole else between_holes(records):
        for first in range(0, len(part), records_max):
            some = part[first : first + records_max]
            yield Run(start, some[0].offset, list(map(_value_of, some)), some)
            start = some[-1].offset + 1


def between_holes(records: list[Any]) -> Iterator[list[Any]]:
    """Yield the records in parts of contiguous offsets."""
    first = 0
    for index in range(1, len(records) + 1):
        if index == len(records) or records[index].offset != records[index - 1].offset + 1:
            yield records[first:index]
            first = index


class Fetcher(aiokafka_fetcher.Fetcher):
    """aiokafka's fetcher with a short wait, and blind to transactions that were not committed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(
            fetch_min_bytes=FETCH_BYTES_MIN,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            prefetch_backoff=PREFETCH_BACKOFF_S,
            isolation_level="read_committed",
        )
        super().__init__(*args, **kwargs)


def install() -> None:
    """Put both classes where aiokafka looks for its own: it has no other place for them."""
    aiokafka_fetcher.PartitionRecords = RunRecords
    aiokafka_consumer.Fetcher = Fetcher
