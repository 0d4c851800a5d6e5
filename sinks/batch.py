"""Gather what one transaction writes: accepted records by topic, and how far each partition was read. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sinks.writers import Pending, Place, Record, Writer
from streams.errors import TallyError


class PositionLostError(TallyError):
    """Postgres is behind what was read: it was restored, or failed over to a copy that lacks the last transactions."""


@dataclass(slots=True)
class Batch:
    """Records between two transactions.

    Attributes:
        start: of each partition, the offset from which on this batch holds everything that was read.
        arrived_ms: of each partition read from, when its first record was written, Unix time; what waits is as old as that.
        reached: of each partition read from, the offset after the last record.
        pending: what is to be written, by topic.
        rows: rows of Postgres that is.
        records: records read, those that say nothing included.
        value_bytes: what their values have.
    """

    start: dict[Place, int]
    reached: dict[Place, int] = field(default_factory=dict)
    arrived_ms: dict[Place, int] = field(default_factory=dict)
    pending: dict[str, list[Pending]] = field(default_factory=dict)
    rows: int = 0
    records: int = 0
    value_bytes: int = 0

    def next_of(self, place: Place) -> int:
        """Return the offset that a partition is read on from."""
        return self.reached.get(place, self.start.get(place, 0))

    def skip(self, place: Place, offset: int) -> None:
        """Note that a partition has no record for us before *offset*."""
        if offset > self.next_of(place):
            self.reached[place] = offset
            self.records += 1

    def take(self, record: Record, writer: Writer) -> None:
        """Add the next record of its partition."""
        place = Place(record.topic, record.partition)
        self.reached[place] = record.offset + 1
        self.arrived_ms.setdefault(place, record.timestamp)
        self.records += 1
        self.value_bytes += len(record.value or b"")
        pending = writer.accept(record)
        if pending is not None:
            self.pending.setdefault(record.topic, []).append(pending)
            self.rows += pending.rows

    def due(self, topic: str, floors: Mapping[Place, int]) -> Sequence[Pending]:
        """Return what of a topic Postgres does not have yet: what lies at or above its partition's floor."""
        return [item for item in self.pending.get(topic, ()) if item.offset >= floors[item.place]]

    def check(self, floors: Mapping[Place, int]) -> None:
        """Refuse to leave a gap.

        Raises:
            PositionLostError: Postgres is at a smaller offset than this batch starts at.
        """
        for place, floor in floors.items():
            if floor < self.start.get(place, 0):
                raise PositionLostError(
                    f"postgres is at offset {floor} of {place.topic!r} partition {place.partition}, "
                    f"this batch starts at {self.start[place]}"
                )

    def next(self) -> Batch:
        """Return the empty batch that follows this one."""
        return Batch(start=self.start | self.reached)
