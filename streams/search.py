"""Look for one event in Kafka, at a worker and in Postgres, and say where it is (streams/whereabouts.py). Changes nothing.

Blocking: for a command, or a thread of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from time import sleep
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from streams.asking import ask
from streams.clock import SYSTEM_CLOCK
from streams.codecs import Codec
from streams.dead_letters import DeadLetter, Position, decode_mark, read_dead_letter
from streams.errors import IncompleteAnswerError, InvalidEventError, SettingsError
from streams.event_time import MINUTE_MS, format_minute, parse_instant
from streams.reading import Bounds, Reader
from streams.settings import Settings
from streams.statements import Statements, column_names, table_name
from streams.topics import BUCKET_OFFSETS, DEAD_LETTERS, EVENTS, REPLAYS, Stream, changelog_of
from streams.whereabouts import Evidence, Sought, State, conclude

STATEMENTS = Statements(Path(__file__).with_name("search.sql"))
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 30_000
EVENTS_MAX = 20
"""Events of one user and millisecond that are looked for."""
TAIL_RECORDS_MAX = 200_000
"""Records of a lag that are searched for an event of a user."""
SECOND_LOOK_S = 2.0
"""A row is stored a moment after its block: what seems missing is looked for again."""


class PostgresSide:
    """What Postgres knows of a stream; every answer is that of nothing where it cannot be asked."""

    def __init__(self, dsn: str, stream: Stream) -> None:
        self._stream = stream
        self.why_not = "" if dsn else "postgres.dsn is empty"
        self._connection: psycopg.Connection | None = None
        try:
            self._connection = _connect(dsn) if dsn else None
        except psycopg.Error as error:
            self.why_not = str(error).splitlines()[0]
        self._events = table_name(stream.events_sql)
        self._blocks = table_name(f"{stream.cells_sql}_blocks")

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()

    def minute_of(self, position: Position) -> int | None:
        """Return the minute of the row of an event; None where there is no row."""
        statement = STATEMENTS.query("find_event", events=self._events)
        rows = self._rows(statement, partition=position.partition, offset=position.offset)
        return rows[0][0] if rows else None

    def events_of(self, user: str, at_ms: int) -> list[Position]:
        """Return where the events of a user and millisecond came from."""
        statement = STATEMENTS.query("find_events_of", events=self._events, user=column_names((self._stream.user_sql,)))
        rows = self._rows(statement, user=user, at_ms=at_ms, rows_max=EVENTS_MAX)
        return [Position(self._stream.topic, *row) for row in rows]

    def reaches(self, position: Position, minute: int) -> bool:
        """Say whether the block of an event's minute and bucket is there, up to the event."""
        statement = STATEMENTS.query("find_version", blocks=self._blocks)
        bucket = position.offset // BUCKET_OFFSETS
        rows = self._rows(statement, partition=position.partition, bucket=bucket, minute=minute)
        return any(through >= position.offset for (through,) in rows)

    def letter(self, position: Position) -> DeadLetter | None:
        """Return the dead letter of a position, without its headers."""
        for reason, detail, stage, key, value, at_ms in self._rows(STATEMENTS.query("find_dead_letter"), **position._asdict()):
            return DeadLetter(position, reason, detail, stage, key, value, (), at_ms)
        return None

    def applied(self) -> dict[tuple[str, int], int]:
        """Return the next offset to apply, by topic and partition."""
        return {(topic, partition): offset for topic, partition, offset in self._rows(STATEMENTS.query("read_positions"))}

    def _rows(self, statement: sql.Composed, **values: object) -> list[tuple[Any, ...]]:
        if self._connection is None:
            return []
        try:
            return self._connection.execute(statement, values).fetchall()
        except psycopg.Error as error:
            self._connection, self.why_not = None, str(error).splitlines()[0]
            return []


def _connect(dsn: str) -> psycopg.Connection:
    """Return a connection that changes nothing, and on which nothing takes long."""
    connection = psycopg.connect(
        dsn, autocommit=True, application_name="tally-where", connect_timeout=CONNECT_TIMEOUT_S, client_encoding="UTF8"
    )
    connection.read_only = True
    connection.execute(STATEMENTS.query("set_session"), {"statement_timeout_ms": STATEMENT_TIMEOUT_MS})
    return connection


class Search:
    """One question at a time about an event of a stream, to Kafka, a worker and Postgres."""

    def __init__(self, stream: Stream, settings: Settings, reader: Reader, *, url: str, records_max: int | None = None) -> None:
        """Describe the search: *records_max* of a partition's letters, and of its lag, are looked at; None: all letters."""
        self._stream = stream
        self._settings = settings
        self._reader = reader
        self._url = url
        self._records_max = records_max
        self._codec = Codec(stream)
        self._bounds = reader.bounds(stream.topic)
        self._keeps_rows = settings.worker.profiles or bool(stream.id)
        self._writes_rows = settings.sinks.events if stream is EVENTS else settings.sinks.user_events
        self._postgres = PostgresSide(settings.postgres.dsn, stream)  # last: what fails before it leaves nothing open

    def close(self) -> None:
        """Let go of Postgres."""
        self._postgres.close()

    def at(self, position: Position) -> dict[str, Any]:
        """Return where the event of a position is.

        Raises:
            SettingsError: there is no such partition.
            TallyError: Kafka or the workers do not answer.
        """
        if position.partition not in self._bounds:
            raise SettingsError(f"topic {position.topic!r} has no partition {position.partition}")
        evidence, event = self._collect(position)
        state, sentence = conclude(evidence)
        if state is State.MISSING:
            sleep(SECOND_LOOK_S)
            evidence, event = self._collect(position)
            state, sentence = conclude(evidence)
        minute = None if evidence.record is None or evidence.record.minute is None else format_minute(evidence.record.minute)
        return {
            "state": state,
            "says": sentence,
            "source": str(position),
            "minute": minute,
            "bucket": position.offset // BUCKET_OFFSETS,
            "block_through": evidence.block_through,
            "replayed_to": None if evidence.mark is None else str(evidence.mark),
            "kafka": evidence.bounds._asdict(),
            "worker": {name: event[name] for name in ("state", "counted", "lag")},
            "postgres": self._postgres.why_not
            or {"row": evidence.row_written, "block": evidence.block_written, "lag": evidence.sink_lag},
        }

    def of(self, user: str, time: str) -> list[dict[str, Any]]:
        """Return where the events of a user and event time are, as far as one is found.

        Raises:
            TallyError: Kafka or the workers do not answer.
        """
        at_ms = parse_instant(time)
        try:
            answer = self._ask(user, time)
        except IncompleteAnswerError:
            answer = {"events": [], "partitions": []}
            if self._keeps_rows:
                raise
        found = {Position(self._stream.topic, event["partition"], event["offset"]) for event in answer["events"]}
        found.update(self._postgres.events_of(user, at_ms))
        for place in answer["partitions"]:
            found.update(self._waiting(user, at_ms, place["partition"], place["counted"]))
        found.update(self._dead(user, time))
        return [self.at(position) for position in sorted(found)[:EVENTS_MAX]]

    def _collect(self, position: Position) -> tuple[Evidence, dict[str, Any]]:
        """Ask everybody; Postgres and dead letters last, so that what moves on meanwhile is not taken for lost."""
        record = self._record(position)
        place = {"partition": position.partition, "offset": position.offset}
        answer = ask(self._url, f"{self._stream.path}/event", place)
        sought, row_stored = self._sought(record), self._row_stored(record, position)
        written_minute = self._postgres.minute_of(position)
        minute = written_minute if sought is None else sought.minute
        throughs = {block["minute"]: block["through"] for block in answer["blocks"]}
        evidence = Evidence(
            position=position,
            bounds=self._bounds[position.partition],
            record=sought,
            counted=answer["counted"],
            row_stored=row_stored,
            block_through=None if minute is None else throughs.get(format_minute(minute)),
            row_written=written_minute is not None,
            row_expected=self._writes_rows,
            block_written=minute is not None and self._postgres.reaches(position, minute),
            letter=self._letter(position),
            mark=self._mark(position),
            sink_lag=self._sink_lag(position.partition),
            is_duplicate=answer.get("duplicate", False),
            block_tells=not self._stream.id,
        )
        return evidence, answer

    def _record(self, position: Position) -> Any:
        bounds = self._bounds[position.partition]
        if not bounds.first <= position.offset < bounds.decided:
            return None
        records = self._reader.records(*position[:2], first=position.offset, end=position.offset + 1)
        return next(records, None)

    def _sought(self, record: Any) -> Sought | None:
        if record is None:
            return None
        horizon_s = self._settings.worker.horizon_s
        try:
            event, at_ms = self._codec.decode(record.value)
        except InvalidEventError as error:
            return Sought(None, str(error), is_younger(record, horizon_s))
        is_empty = bool(self._stream.members) and not attrgetter(self._stream.members)(event)
        return Sought(at_ms // MINUTE_MS, "", is_younger(record, horizon_s), is_empty)

    def _row_stored(self, record: Any, position: Position) -> bool | None:
        """Say whether a worker has the row of a record; None where it could have gone, or rows are not kept."""
        if record is None or not self._keeps_rows:
            return None
        try:
            event, _ = self._codec.decode(record.value)
        except InvalidEventError:
            return None
        answer = self._ask(self._codec.key_of(event), self._codec.time_of(event))
        if any((found["partition"], found["offset"]) == position[1:] for found in answer["events"]):
            return True
        asked = any(place["partition"] == position.partition for place in answer["partitions"])
        is_kept = is_younger(record, self._stream.rows_horizon_s(self._settings.worker.horizon_s))
        return False if asked and answer["complete"] and is_kept else None

    def _ask(self, user: str, time: str) -> dict[str, Any]:
        """Return what the workers know of the events of a user and time."""
        return ask(self._url, f"{self._stream.path}/event", {self._stream.key: user, self._stream.time: time})

    def _letter(self, position: Position) -> DeadLetter | None:
        """Return the dead letter of a position: from Postgres, or from what Postgres has not applied yet."""
        found = self._postgres.letter(position)
        if found is not None:
            return found
        return next((letter for letter in self._unapplied_letters() if letter.source == position), None)

    def _unapplied_letters(self) -> Iterator[DeadLetter]:
        applied = self._postgres.applied()
        for partition, bounds in self._reader.bounds(DEAD_LETTERS).items():
            first = max(self._first(bounds), applied.get((DEAD_LETTERS, partition), 0))
            for record in self._reader.records(DEAD_LETTERS, partition, first=first, end=bounds.decided):
                letter = read_dead_letter(record)
                if letter is not None:
                    yield letter

    def _first(self, bounds: Bounds) -> int:
        """Return where to begin with dead letters, or marks, of a partition."""
        return max(bounds.first, bounds.decided - self._records_max) if self._records_max else bounds.first

    def _mark(self, position: Position) -> Position | None:
        bounds: dict[int, Bounds] = self._reader.bounds(REPLAYS)
        mine = {
            number: bound._replace(first=self._first(bound)) for number, bound in bounds.items() if number == position.partition
        }
        marks = (decode_mark(record.key, record.value) for _, record in self._reader.topic_records(REPLAYS, mine))
        return next((replayed for source, replayed in marks if source == position), None)

    def _sink_lag(self, partition: int) -> int | None:
        applied = self._postgres.applied()
        if self._postgres.why_not:
            return None
        topics = [changelog_of(self._stream.blocks_table)]
        if self._writes_rows:
            topics.append(changelog_of(self._stream.rows_table))
        ends = {topic: self._reader.bounds(topic)[partition].decided for topic in topics}
        return sum(max(0, end - applied.get((topic, partition), 0)) for topic, end in ends.items())

    def _waiting(self, user: str, at_ms: int, partition: int, counted: int) -> Iterator[Position]:
        """Yield the events of a user and millisecond among those that wait; a long lag is searched in part."""
        bounds = self._bounds[partition]
        first = max(bounds.first, counted)
        end = min(bounds.decided, first + (self._records_max or TAIL_RECORDS_MAX))
        for record in self._reader.records(self._stream.topic, partition, first=first, end=end):
            try:
                event, event_ms = self._codec.decode(record.value)
            except InvalidEventError:
                continue
            if event_ms == at_ms and self._codec.key_of(event) == user:
                yield Position(self._stream.topic, partition, record.offset)

    def _dead(self, user: str, time: str) -> Iterator[Position]:
        """Yield the dead letters under a user's key, or that name the user, whose time is that, or cannot be read."""
        bounds = self._reader.bounds(DEAD_LETTERS)
        newest = {number: bound._replace(first=self._first(bound)) for number, bound in bounds.items()}
        for _, record in self._reader.topic_records(DEAD_LETTERS, newest):
            letter = read_dead_letter(record)
            if letter is None or letter.source.topic != self._stream.topic:
                continue
            if letter.key != user.encode() and text_of(letter.value, self._stream.key) != user:
                continue
            if text_of(letter.value, self._stream.time) in (None, time):
                yield letter.source


def is_younger(record: Any, age_s: int) -> bool:
    """Say whether a record came to Kafka less than an age ago."""
    return bool(SYSTEM_CLOCK.now_ms() - record.timestamp < age_s * 1000)


def text_of(value: bytes | None, path: str) -> str | None:
    """Return the text of a field out of a value that need be no event; None where there is none.

    >>> text_of(b'{"time": "2022-03-01T00:00:00Z"}', "time"), text_of(b"{", "time"), text_of(None, "time")
    ('2022-03-01T00:00:00Z', None, None)
    """
    try:
        found = msgspec.json.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None
