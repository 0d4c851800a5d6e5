"""Poll, write, commit: carry records from Kafka into Postgres, each exactly once in effect. Knows no table.

The truth about what has been written is `sink_offsets`, which moves in the transaction of the rows:

1. After every rebalance whatever is in memory is thrown away, and each partition is sought to its offset in Postgres.
2. Everything polled becomes one transaction. It locks the offsets of the partitions it touches, so a second writer waits;
   it leaves out what lies below them, so a zombie writes nothing; it refuses to leave a gap (`PositionLostError`).
3. A failure rolls all of it back and the same batch is tried again, for as long as it takes, while the consumer is polled
   with its partitions paused: it stays in its group and takes no memory.
4. Kafka is told the offsets afterwards, for tools that show lag. Nothing reads them.

What may not be written yet (sinks/forward.py) is not read: its partition is paused at the first such record.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Protocol

import psycopg
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata, TopicPartition

from sinks.batch import Batch, PositionLostError
from sinks.forward import QUIET_S, Forward
from sinks.observe import Observer
from sinks.postgres import Postgres, Remedy, lock_positions, move_positions, remedy_of
from sinks.rebalances import Rebalances
from sinks.retention import Retention
from sinks.writers import DeadLetter, Place, Writer, Written
from streams.clock import Clock
from streams.errors import KafkaUnavailableError, TallyError
from streams.settings import Sinks

log = logging.getLogger(__name__)

POLL_S_MIN = 0.05
POLL_S_MAX = 0.25
JOIN_POLL_MS = 1_000
JOIN_TIMEOUT_S = 15.0
"""Twice what a group waits for a member that was killed (its session timeout), and some."""
POLL_RECORDS_MAX = 64
"""Records come decompressed from the consumer's own buffer, so few at a time cost nothing."""
BATCH_RECORDS_MAX = 20_000
"""Records that say nothing cost memory too, and their offsets want to be written."""
BATCH_BYTES_MAX = 64 * 1024 * 1024
"""Of values: rows may be large."""
POSITION_TIMEOUT_MS = 1_000
RETRY_PAUSE_S = 0.2
RETRY_PAUSE_S_MAX = 5.0


class SinkStoppedError(TallyError):
    """Going on needs a human: the schema, the rights or the topics are not what this code was made for."""


class Letters(Protocol):
    """Where refused rows go; `sinks.dead_letters.DeadLetterProducer` is one."""

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Return when they are safe, or raise KafkaUnavailableError."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


@dataclass(kw_only=True)
class SinkLoop:
    """The loop and what it works with.

    Attributes:
        marked: topics in which a transaction's marker, which is no record, may lie last.
    """

    consumer: Any
    postgres: Postgres
    writers: Sequence[Writer]
    letters: Letters
    retention: Retention
    observer: Observer
    settings: Sinks
    clock: Clock
    stop: Event
    forward: Forward = field(default_factory=Forward)
    marked: Collection[str] = ()
    _rebalances: Rebalances = field(default_factory=Rebalances)
    _batch: Batch = field(default_factory=lambda: Batch(start={}))
    _batch_since_s: float = 0.0
    _forwarded_at_s: float = 0.0
    _subscribed_at_s: float = 0.0

    def run(self) -> None:
        """Carry records until *stop* is set. What has not been written by then is read again at the next start.

        Raises:
            SinkStoppedError: going on needs a human; the message is one line.
            DeadLetterLimitError: likewise, Postgres refuses too many rows.
        """
        self._by_topic = {writer.topic: writer for writer in self.writers}
        self._subscribe()
        while not self.stop.is_set():
            try:
                self._step()
            except KafkaError as error:
                self._retry("kafka", error, attempt=0)
                self._rebalances.happened.set()

    def _subscribe(self) -> None:
        self.consumer.subscribe(topics=list(self._by_topic), listener=self._rebalances)
        self._subscribed_at_s = self.clock.monotonic_s()

    def _step(self) -> None:
        if self._rebalances.under_way.is_set():
            self._join()
        elif self._rebalances.happened.is_set():
            self._begin_again()
        else:
            self._subscribed_at_s = self.clock.monotonic_s()
            self._read()
        self._keep_house()

    def _join(self) -> None:
        """Wait for the next assignment; what is polled meanwhile is from positions that are not ours.

        kafka-python 3.0 forgets a join whose poll timed out between the leader's assignment and the answer to it, and then
        waits for ever, with its heartbeats off. A long poll makes that rare; subscribing anew ends it.
        """
        self.consumer.poll(timeout_ms=JOIN_POLL_MS, max_records=1)
        waited_s = self.clock.monotonic_s() - self._subscribed_at_s
        if self._rebalances.under_way.is_set() and waited_s > JOIN_TIMEOUT_S:
            log.warning("no partitions assigned after %.0f s; joining the group anew", waited_s)
            self.consumer.unsubscribe()
            self._subscribe()

    def _read(self) -> None:
        """Poll once, and write when it is time."""
        polled = self.consumer.poll(timeout_ms=self._poll_timeout_ms(), max_records=POLL_RECORDS_MAX)
        for place, records in polled.items():
            for record in records:
                if self._rebalances.happened.is_set():
                    return  # These were read from positions that may not be ours: thrown away, and read again.
                if self.forward.stops(Place(*place), record.offset):
                    self._stop_at(TopicPartition(*place), record.offset)
                    break
                self._take(record)
        if self._batch.records and self._due_in_s() <= 0:
            self._flush()

    def _stop_at(self, place: TopicPartition, offset: int) -> None:
        """Leave a record, and what comes after it, for later."""
        try:
            self.consumer.seek(place, offset)
            self.consumer.pause(place)
        except (KeyError, ValueError):
            self._rebalances.happened.set()  # The assignment changed meanwhile.

    def _due_in_s(self) -> float:
        due_s = self._batch_since_s + self.settings.flush_interval_s
        if self._is_forwarding():
            due_s = max(due_s, self._forwarded_at_s + QUIET_S)
        return due_s - self.clock.monotonic_s()

    def _is_forwarding(self) -> bool:
        """Say whether the batch has some of what a window lets through, and not yet all of it."""
        batch, held = self._batch, self.forward.held(self._batch.start)
        begun = any(place in batch.reached for place in held)
        return begun and any(not self.forward.stops(place, batch.next_of(place)) for place in held)

    def _poll_timeout_ms(self) -> int:
        """Return how long to wait for records: not far past the time when those that wait are due."""
        wait_s = self._due_in_s() if self._batch.records else POLL_S_MAX
        return int(1000 * min(POLL_S_MAX, max(POLL_S_MIN, wait_s)))

    def _take(self, record: Any) -> None:
        if not self._batch.records:
            self._batch_since_s = self.clock.monotonic_s()
        self._batch.take(record, self._by_topic[record.topic])
        if self.forward.held([Place(record.topic, record.partition)]):
            self._forwarded_at_s = self.clock.monotonic_s()
        if self._is_full():
            self._flush()

    def _is_full(self) -> bool:
        batch = self._batch
        is_large = batch.rows >= self.settings.batch_rows_max or batch.value_bytes >= BATCH_BYTES_MAX
        return is_large or batch.records >= BATCH_RECORDS_MAX

    def _begin_again(self) -> None:
        """Throw away what is in memory and seek every partition to what Postgres has."""
        self._batch = Batch(start={})
        self.forward.begin()
        self._rebalances.happened.clear()
        assigned = sorted(Place(*place) for place in self.consumer.assignment())
        if not assigned:
            return
        positions = self._read_positions()
        if self.stop.is_set() or self._rebalances.happened.is_set():
            return
        firsts, ends = self.observer.bounds(assigned)
        start = {place: positions.get(place, 0) for place in assigned}
        for place in assigned:
            self._check_bounds(place, positions.get(place), first=firsts[place], end=ends[place])
        try:
            for place in assigned:
                self.consumer.seek(TopicPartition(*place), max(start[place], firsts[place]))
            self._batch = Batch(start=start)
            self._resume()
        except (KeyError, ValueError):
            self._rebalances.happened.set()  # The assignment changed meanwhile.
            return
        log.info("reading %d partitions, %d records behind", len(assigned), self.observer.lag(ends, start))

    def _resume(self) -> None:
        """Read on from every partition but those that hold back what comes next."""
        assigned = {Place(*place) for place in self.consumer.assignment()}
        stopped = {place for place in self.forward.held(assigned) if self.forward.stops(place, self._batch.next_of(place))}
        self.consumer.pause(*(TopicPartition(*place) for place in stopped))
        self.consumer.resume(*(TopicPartition(*place) for place in sorted(assigned - stopped)))

    def _check_bounds(self, place: Place, position: int | None, *, first: int, end: int) -> None:
        gone = check_bounds(place, position, first=first, end=end, accept_lost=self.settings.accept_lost_records)
        if gone:
            log.warning("%d offsets of %r partition %d were removed before they were read", gone, place.topic, place.partition)

    def _read_positions(self) -> dict[Place, int]:
        attempt = 0
        while not self.stop.is_set():
            try:
                positions = self.postgres.positions()
            except psycopg.Error as error:
                self._give_up_or_retry(error, attempt)
                attempt += 1
            else:
                self.observer.recovered()
                return positions
        return {}

    def _flush(self) -> None:
        """Write the batch, however long it takes; or drop it when its partitions are to be sought anew."""
        attempt, isolate = 0, False
        while not (self.stop.is_set() or self._rebalances.happened.is_set()):
            started_s = self.clock.monotonic_s()
            try:
                written = self._write(isolate=isolate)
            except PositionLostError as error:
                log.warning("reading again from where postgres is: %s", error)
                self._rebalances.happened.set()
            except KafkaUnavailableError as error:
                self.observer.letters_failed()
                self._retry("kafka", error, attempt)
            except psycopg.Error as error:
                if remedy_of(error) is Remedy.ISOLATE and not isolate:
                    isolate = True
                    continue
                self._give_up_or_retry(error, attempt)
            else:
                self._done(written, self.clock.monotonic_s() - started_s)
                return
            attempt += 1

    def _write(self, *, isolate: bool) -> Written:
        """Write the batch in one transaction."""
        batch, written = self._batch, Written()
        connection = self.postgres.connection()
        for writer in self.writers:
            writer.prepare(connection, batch.pending.get(writer.topic, ()))
        with connection.transaction(), connection.cursor() as cursor:
            floors = lock_positions(cursor, batch.reached)
            batch.check(floors)
            for writer in self.writers:
                due = batch.due(writer.topic, floors)
                written.add(writer.write(cursor, due, isolate=isolate))
                written.refused.extend(letter for item in due for letter in item.refused)
            if written.refused:
                # Before the commit: a row is out of Postgres only when Kafka has it.
                self.letters.send(written.refused)
            move_positions(cursor, batch.reached)
        return written

    def _done(self, written: Written, seconds: float) -> None:
        self.observer.wrote(self._batch, written, seconds)
        offsets = {TopicPartition(*place): OffsetAndMetadata(offset, "", -1) for place, offset in self._batch.reached.items()}
        self._batch = self._batch.next()
        self.consumer.commit_async(offsets, callback=_note_commit)

    def _give_up_or_retry(self, error: psycopg.Error, attempt: int) -> None:
        if remedy_of(error) is not Remedy.RETRY:
            raise SinkStoppedError(f"postgres refuses to go on: {_one_line(error)}") from error
        self.retention.forget()
        self._retry("postgres", error, attempt)

    def _retry(self, service: str, error: Exception, attempt: int) -> None:
        """Wait before the next try, polling with everything paused: the group keeps us, and memory stays as it is."""
        self.observer.failed(service, error, _one_line(error))
        pause_s = min(RETRY_PAUSE_S * 2 ** min(attempt, 10), RETRY_PAUSE_S_MAX) * random.uniform(0.5, 1)  # noqa: S311
        until_s = self.clock.monotonic_s() + pause_s
        try:
            while not self.stop.is_set() and (left_s := until_s - self.clock.monotonic_s()) > 0:
                if self.observer.is_due():
                    self.observer.look_at_kafka(self._batch)
                self.consumer.pause(*self.consumer.assignment())
                if self.consumer.poll(timeout_ms=int(1000 * min(left_s, POLL_S_MAX)) + 1, max_records=1):
                    self._rebalances.happened.set()  # From a partition that was just given to us, and is not sought yet.
            self._resume()
        except (KafkaError, KeyError):
            self._rebalances.happened.set()
            self.stop.wait(pause_s)

    def _keep_house(self) -> None:
        """Ask both services for a sign of life now and then, look for windows, and drop what is too old."""
        if self.forward.is_due():
            self._look_forward()
        if self.observer.is_due():
            self._skip_markers()
            self.observer.look(self._batch, lambda: self.retention.days_ahead(self.postgres.connection()))
        if self.retention.is_due():
            try:
                self.retention.sweep(self.postgres.connection())
            except psycopg.Error as error:
                self._give_up_or_retry(error, attempt=0)

    def _look_forward(self) -> None:
        """Read on where a window has begun, or somebody has asked."""
        if self._rebalances.happened.is_set():
            return
        places = {place: self._batch.next_of(place) for place in self.forward.held(self._batch.start)}
        try:
            if self.forward.look(self.postgres.connection(), places, lambda opening: self.observer.bounds(opening)[1]):
                self._resume()
        except psycopg.Error as error:
            self._give_up_or_retry(error, attempt=0)
        except KeyError:
            self._rebalances.happened.set()  # The assignment changed meanwhile.

    def _skip_markers(self) -> None:
        """Move past what Kafka gives to nobody, or we would seem to lag behind it for as long as nothing follows."""
        places = [place for place in self._batch.start if place.topic in self.marked and place not in self._batch.reached]
        positions = {place: self.consumer.position(TopicPartition(*place), timeout_ms=POSITION_TIMEOUT_MS) for place in places}
        if not self._rebalances.happened.is_set():  # Else they may be those of another assignment.
            for place, position in positions.items():
                self._batch.skip(place, position or 0)


def check_bounds(place: Place, position: int | None, *, first: int, end: int, accept_lost: bool) -> int:
    """Compare where Postgres is with what Kafka has of a partition, and return how many offsets are gone unread.

    Args:
        position: next offset to read, None where Postgres has never had any of this partition.
        first: first offset that Kafka has; end: the one after its last.
        accept_lost: go on although records are gone that were never written.

    Raises:
        SinkStoppedError: Postgres is past the end, so its rows are those of another topic of that name; or records are gone.
    """
    name = f"{place.topic!r} partition {place.partition}"
    if (position or 0) > end:
        raise SinkStoppedError(
            f"sink_offsets is at {position} of {name}, which ends at {end}: "
            "this database belongs to another Kafka, or the topic was made anew; use an empty database, or the old Kafka"
        )
    gone = max(0, first - (position or 0))
    if gone and position is not None and not accept_lost:
        raise SinkStoppedError(
            f"{name} holds nothing before offset {first}, but only records before {position} are in postgres: "
            "the sinks were down for longer than the topic keeps its records; "
            "to go on without them start with TALLY_SINKS_ACCEPT_LOST_RECORDS=true"
        )
    return gone


def _note_commit(offsets: Any, answer: Any) -> None:
    if isinstance(answer, Exception):
        log.info("kafka did not take the offsets; lag tools show old ones until the next commit: %r", answer)


def _one_line(error: Exception) -> str:
    """Return the first line of an error: the next ones of Postgres may quote the row."""
    return (str(error) or type(error).__name__).splitlines()[0]
