"""Make the bytes of Kafka record batches as a broker would send them: with gaps, transactions and their markers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import pack_into
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

COMMIT, ABORT = b"\x00\x00\x00\x01", b"\x00\x00\x00\x00"
_ATTRIBUTES_AT = 21
_CONTROL, _TRANSACTIONAL = 0x20, 0x10
_LAST_DELTA_AT = 23
NO_PRODUCER = -1


@dataclass(frozen=True)
class LogBatch:
    """One batch of a log.

    Attributes:
        base: its first offset.
        deltas: which of its offsets still hold a record, from its base; compaction leaves holes, even at either end.
        span: how many offsets it covers.
        producer: id of a transactional producer, or `NO_PRODUCER`.
        marker: `COMMIT` or `ABORT` for the marker that ends a transaction.
    """

    base: int
    deltas: Sequence[int]
    span: int
    producer: int = NO_PRODUCER
    marker: bytes | None = None

    def encode(self) -> bytes:
        """Return the bytes; CRCs are not recomputed, so read them unchecked."""
        transactional = self.producer != NO_PRODUCER
        builder = DefaultRecordBatchBuilder(2, 0, transactional, self.producer, 0, 0, 1 << 20)
        for delta in self.deltas:
            key = self.marker or b"k"
            builder.append(delta, 0, key, value_of(self.base + delta), [])
        raw = bytearray(builder.build())
        pack_into(">q", raw, 0, self.base)
        flags = (_TRANSACTIONAL if transactional else 0) | (_CONTROL if self.marker else 0)
        pack_into(">h", raw, _ATTRIBUTES_AT, flags)
        pack_into(">i", raw, _LAST_DELTA_AT, self.span - 1)
        return bytes(raw)


def value_of(offset: int) -> bytes:
    """Return the value of the record at an offset."""
    return b"value %d" % offset


def partition_records(
    reader: type[Any],
    batches: Iterable[LogBatch],
    *,
    topic_partition: Any,
    fetched_from: int,
    aborted: Sequence[tuple[int, int]] = (),
) -> Any:
    """Return aiokafka's reader, or ours, of what one fetch brought; *aborted* is (producer, first offset)."""
    raw = b"".join(batch.encode() for batch in batches)
    return reader(topic_partition, MemoryRecords(raw), list(aborted), fetched_from, None, None, False, 1)
