"""Send records to a changelog as whole batches, and know which local offsets may be remembered for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from streams.dead_letters import COUNT_STAGE
from tables.fold import Refused

log = logging.getLogger(__name__)

BATCH_BYTES = 900_000
"""A usual Kafka takes a megabyte; only a single group that is larger makes a larger batch."""
RECORD_OVERHEAD_BYTES = 32
FROZEN = -1


class ChangelogRecord(NamedTuple):
    """What goes into a topic; headers are Kafka's own pairs, and without a time it is that of the sending."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp_ms: int | None = None


class Sent(NamedTuple):
    """A batch on its way: its acknowledgment (with `.offset`, that of its first record) and how many records it has."""

    acknowledgment: asyncio.Future[Any]
    records: int


class BatchProducer(Protocol):
    """The part of aiokafka's producer that is used."""

    def create_batch(self) -> Any: ...

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> asyncio.Future[Any]: ...


async def send_groups(
    producer: BatchProducer, topic: str, partition: int, groups: Iterable[Sequence[ChangelogRecord]]
) -> list[Sent]:
    """Send groups of records in order, each whole in one Kafka batch: a reader sees all of a group or nothing.

    A second delivery of the same groups changes nothing: every record is a pure function of its key.
    """
    sent: list[Sent] = []
    pending: list[ChangelogRecord] = []
    pending_bytes = 0

    async def flush() -> None:
        batch = producer.create_batch()
        for record in pending:
            headers = list(record.headers)
            if batch.append(key=record.key, value=record.value, timestamp=record.timestamp_ms, headers=headers) is None:
                raise ValueError(f"{pending_bytes} bytes do not fit into one batch for {topic!r}")
        batch.close()
        sent.append(Sent(await producer.send_batch(batch, topic, partition=partition), len(pending)))

    for group in groups:
        group_bytes = sum(map(_bytes_of, group))
        if pending and pending_bytes + group_bytes > BATCH_BYTES:
            await flush()
            pending, pending_bytes = [], 0
        pending.extend(group)
        pending_bytes += group_bytes
    if pending:
        await flush()
    return sent


def _bytes_of(record: ChangelogRecord) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers + RECORD_OVERHEAD_BYTES


def dead_letter(topic: str, partition: int, refused: Refused, record: Any) -> ChangelogRecord:
    """Return a record as it came, with why it is dead in its headers. Its identity is (topic, partition, offset)."""
    why = {
        "reason": refused.reason.value,
        "detail": refused.detail,
        "topic": topic,
        "partition": str(partition),
        "offset": str(refused.offset),
        "stage": COUNT_STAGE,
    }
    headers = [*record.headers, *((name, text.encode("utf-8", "replace")) for name, text in why.items())]
    return ChangelogRecord(record.key, record.value, headers)


@dataclass
class OffsetKeys:
    """Which changelog offset each local store may remember as applied.

    It advances only while our own records lie contiguously behind it. At the first foreign one it freezes until the next
    recovery: a zombie's store can then not skip the records of the partition's new owner.
    """

    persisted: Callable[[str, int], int | None]
    frozen: Callable[[str], None]
    _next: dict[tuple[str, int], int] = field(default_factory=dict)

    def reset(self) -> None:
        """Ask the stores again: a recovery has moved them."""
        self._next.clear()

    def advance(self, table: str, partition: int, acknowledged: Iterable[tuple[int, int]]) -> int | None:
        """Return the offset to remember after batches of (first offset, records); None while frozen."""
        expected = self._next.get((table, partition))
        if expected is None:
            persisted = self.persisted(table, partition)
            expected = 0 if persisted is None else persisted + 1
        for first, records in acknowledged:
            if expected == FROZEN:
                break
            if first != expected:
                log.warning("offset key of %s/%d frozen: expected %d, got %d", table, partition, expected, first)
                self.frozen(table)
                expected = FROZEN
            else:
                expected = first + records
        self._next[table, partition] = expected
        return None if expected <= 0 else expected - 1
