"""Say what a sink is to the loop: it accepts records of one topic and writes what it accepted into a transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import psycopg

from streams import dead_letters
from streams.errors import Reason

STAGE = dead_letters.SINKS_STAGE
DETAIL_LENGTH_MAX = 500


class Place(NamedTuple):
    """One partition of one topic; equal to kafka-python's TopicPartition."""

    topic: str
    partition: int


class Record(dead_letters.Record, Protocol):
    """What a sink reads of a Kafka record; its `timestamp` is -1 where the producer gave none."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Something that cannot be written, by the position it came from: writing it again changes nothing."""

    topic: str
    partition: int
    offset: int
    reason: Reason
    detail: str
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Pending:
    """One accepted record until it is written.

    Attributes:
        rows: rows of Postgres that it will become; what the size of a transaction is counted in.
        content: what its writer made of it; None when nothing of it can be written.
        refused: what of it cannot even be read.
    """

    place: Place
    offset: int
    rows: int
    content: Any
    refused: tuple[DeadLetter, ...] = ()


@dataclass(slots=True)
class Written:
    """What one transaction did: counts by (table, operation), the rows of each COPY by table, and what Postgres refused."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    copies: list[tuple[str, int]] = field(default_factory=list)
    refused: list[DeadLetter] = field(default_factory=list)

    def add(self, other: Written) -> None:
        """Add another writer's share."""
        self.counts.update(other.counts)
        self.copies.extend(other.copies)
        self.refused.extend(other.refused)


class Writer(Protocol):
    """A sink of one topic. Holds no records and no state that a second delivery could see."""

    @property
    def topic(self) -> str:
        """The topic whose records it accepts."""
        ...

    def accept(self, record: Record) -> Pending | None:
        """Return what *record* will become; None where it says nothing (a tombstone, progress, a keep-alive)."""
        ...

    def prepare(self, connection: psycopg.Connection, pending: Sequence[Pending]) -> None:
        """Make room (partitions of days) in transactions of its own; a second call changes nothing."""
        ...

    def write(self, cursor: psycopg.Cursor, pending: Sequence[Pending], *, isolate: bool) -> Written:
        """Write into the open transaction; what was written before, in any order, changes nothing.

        Args:
            isolate: find the rows that Postgres refuses and write the others, instead of raising for all of them.

        Raises:
            psycopg.Error: as Postgres raised it.
        """
        ...


def dead_letter_of(record: Record, detail: str, *, reason: Reason = Reason.BUG) -> DeadLetter:
    """Return *record* itself as a dead letter, under its own position."""
    place = (record.topic, record.partition, record.offset)
    return DeadLetter(*place, reason, detail[:DETAIL_LENGTH_MAX], record.key, record.value)


def unreadable(record: Record, detail: str) -> Pending:
    """Return what a record becomes that its writer cannot read: nothing but a dead letter."""
    place = Place(record.topic, record.partition)
    return Pending(place, record.offset, 1, None, (dead_letter_of(record, detail),))
