"""Hold what was seen of a case when it was over, as plain data: the checks look at nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from tests.fault.ledger import Entry, Place
from tests.support.oracle import Oracle

Cell = tuple[str, ...]
"""Minute (`YYYY-MM-DDTHH:MM`), action, origin, brand, category."""
Totals = dict[Cell, tuple[int, int]]
"""Count and sum of prices by cell."""


class TopicRecord(NamedTuple):
    """One record of the source topic."""

    partition: int
    offset: int
    value: bytes | None


class StoredEvent(NamedTuple):
    """One row of `user_events`; its product is the event's number."""

    partition: int
    offset: int
    product: str
    cookie: str
    action: str
    at_ms: int
    price: int


class Sample(NamedTuple):
    """What was to be seen from outside at one moment.

    Attributes:
        at_s: `time.monotonic` before the questions.
        acknowledged: events acknowledged before the questions were asked.
        counts: events by minute that HTTP answered; None where it had no answer.
        stored: events that Postgres has both as rows and in cells; None where it had no answer.
    """

    at_s: float
    acknowledged: int
    counts: dict[str, int] | None
    stored: int | None


class Held(NamedTuple):
    """What one process holds at one moment.

    Attributes:
        handles: open files and connections.
        resident_bytes: in memory; 0 for a service, whose Java fills its heap by design.
        explained_bytes: of these what it says to hold on purpose, and up to a limit: RocksDB's memtables and block cache.
    """

    name: str
    pid: int
    handles: int
    resident_bytes: int
    explained_bytes: int = 0


class Mark(NamedTuple):
    """A moment at which the system was disturbed or healed."""

    at_s: float
    acknowledged: int
    what: str


@dataclass
class Evidence:
    """Everything that the checks compare.

    Attributes:
        ledger: every event sent and its outcome.
        expected_dead: reason code by place of every record that must be a dead letter.
        topic: the source topic from its start to its end, read committed.
        answered: what HTTP answers, by whole cell.
        answered_by_kind: what HTTP answers by minute and action, without other filters.
        profiles: what HTTP answers, by cookie.
        logged_cells, logged_rows: what the changelogs say, by partition; a row is (cookie, action, offset).
        two_values: keys of changelogs that were written with two values.
        stored_cells: what Postgres holds, by partition.
        stored_events: every row of `user_events`.
        dead_letters: reason by place, of the table; dead_letter_records: of the topic.
        samples, marks: what was seen while it ran, and what was done to it.
        warm, settled: what each process held before the fault, with events counted, and after the drain.
        temporary_files: what processes of ours have left lying about.
        error_lines: lines logged at ERROR or above that the case does not allow.
        replayed: source offsets that workers read again, as far as was seen.
        not_drained: what had not come when the time to recover was over; empty when all had.
    """

    ledger: list[Entry] = field(default_factory=list)
    expected_dead: dict[Place, str] = field(default_factory=dict)
    topic: list[TopicRecord] = field(default_factory=list)
    answered: Totals = field(default_factory=dict)
    answered_by_kind: Totals = field(default_factory=dict)
    profiles: dict[str, Any] = field(default_factory=dict)
    logged_cells: dict[int, Totals] = field(default_factory=dict)
    logged_rows: dict[int, set[tuple[str, str, int]]] = field(default_factory=dict)
    two_values: list[str] = field(default_factory=list)
    stored_cells: dict[int, Totals] = field(default_factory=dict)
    stored_events: list[StoredEvent] = field(default_factory=list)
    dead_letters: dict[Place, str] = field(default_factory=dict)
    dead_letter_records: dict[Place, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    warm: list[Held] = field(default_factory=list)
    settled: list[Held] = field(default_factory=list)
    temporary_files: list[str] = field(default_factory=list)
    error_lines: list[str] = field(default_factory=list)
    replayed: int = 0
    not_drained: str = ""

    @property
    def countable(self) -> list[TopicRecord]:
        """The records that must be counted: all but the dead ones."""
        return [record for record in self.topic if (record.partition, record.offset) not in self.expected_dead]

    @cached_property
    def recomputed(self) -> dict[int, Oracle]:
        """The plain recomputation of each partition of the source topic."""
        return recompute(self.countable)

    @cached_property
    def recomputed_whole(self) -> Oracle:
        """The plain recomputation of the whole topic."""
        whole = Oracle()
        for partition in self.recomputed.values():
            whole.counts.update(partition.counts)
            whole.sums.update(partition.sums)
            for user, events in partition.users.items():
                whole.users[user].extend(events)
            whole.records += partition.records
        return whole


def recompute(records: Iterable[TopicRecord]) -> dict[int, Oracle]:
    """Return the oracle of each partition; the offset is the order of arrival."""
    oracles: dict[int, Oracle] = {}
    for record in records:
        if record.value is not None:
            oracles.setdefault(record.partition, Oracle()).add(record.value, record.offset)
    return oracles
