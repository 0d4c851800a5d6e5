"""Say where one event is: `python -m sinks.where --partition P --offset O`, or `--user U --time T`. Changes nothing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from time import sleep
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from sinks.blocks import blocks_sql
from sinks.postgres import connect
from sinks.profiles import event_columns
from sinks.queries import column_names, query, table_name
from sinks.whereabouts import Evidence, Sought, State, conclude
from streams.asking import ask
from streams.clock import SYSTEM_CLOCK
from streams.codecs import Codec
from streams.dead_letters import DeadLetter, Position, decode_mark, read_dead_letter
from streams.errors import IncompleteAnswerError, InvalidEventError, SettingsError, TallyError
from streams.event_time import MINUTE_MS, format_minute, parse_instant
from streams.reading import Bounds, Reader
from streams.settings import Settings, load_settings
from streams.topics import BUCKET_OFFSETS, DEAD_LETTERS, REPLAYS, USER_TAGS, changelog_of

FAILED = 1
BAD_SETTINGS = 2
EVENTS_MAX = 20
"""Events of one user and millisecond that are looked for."""
TAIL_RECORDS_MAX = 200_000
"""Records of a lag that are searched for an event of a user."""
SECOND_LOOK_S = 2.0
"""A row is stored a moment after its block: what seems missing is looked for again."""


class PostgresSide:
    """What Postgres knows; every answer is that of nothing where it cannot be asked."""

    def __init__(self, dsn: str) -> None:
        self.why_not = "" if dsn else "postgres.dsn is empty"
        self._connection: psycopg.Connection | None = None
        try:
            self._connection = connect(dsn) if dsn else None
        except psycopg.Error as error:
            self.why_not = str(error).splitlines()[0]
        self._events = table_name(USER_TAGS.events_sql)

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()

    def minute_of(self, position: Position) -> int | None:
        """Return the minute of the row of an event; None where there is no row."""
        statement = query("find_event", events=self._events)
        rows = self._rows(statement, partition=position.partition, offset=position.offset)
        return rows[0][0] if rows else None

    def events_of(self, user: str, at_ms: int) -> list[Position]:
        """Return where the events of a user and millisecond came from."""
        statement = query("find_events_of", events=self._events, user=column_names(event_columns(USER_TAGS)[:1]))
        rows = self._rows(statement, user=user, at_ms=at_ms, rows_max=EVENTS_MAX)
        return [Position(USER_TAGS.topic, *row) for row in rows]

    def reaches(self, position: Position, minute: int) -> bool:
        """Say whether the block of an event's minute and bucket is there, up to the event."""
        statement = query("find_version", blocks=table_name(blocks_sql(USER_TAGS)))
        bucket = position.offset // BUCKET_OFFSETS
        rows = self._rows(statement, partition=position.partition, bucket=bucket, minute=minute)
        return any(through >= position.offset for (through,) in rows)

    def letter(self, position: Position) -> DeadLetter | None:
        """Return the dead letter of a position, without its headers."""
        for reason, detail, stage, key, value, at_ms in self._rows(query("find_dead_letter"), **position._asdict()):
            return DeadLetter(position, reason, detail, stage, key, value, (), at_ms)
        return None

    def applied(self) -> dict[tuple[str, int], int]:
        """Return the next offset to apply, by topic and partition."""
        return {(topic, partition): offset for topic, partition, offset in self._rows(query("read_positions"))}

    def _rows(self, statement: sql.Composed, **values: object) -> list[tuple[Any, ...]]:
        if self._connection is None:
            return []
        try:
            return self._connection.execute(statement, values).fetchall()
        except psycopg.Error as error:
            self._connection, self.why_not = None, str(error).splitlines()[0]
            return []


class Search:
    """One question at a time, to Kafka, a worker and Postgres."""

    def __init__(self, settings: Settings, reader: Reader, postgres: PostgresSide, *, url: str) -> None:
        self._settings = settings
        self._reader = reader
        self._postgres = postgres
        self._url = url
        self._codec = Codec(USER_TAGS)
        self._bounds = reader.bounds(USER_TAGS.topic)

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
            answer = ask(self._url, "/event", {USER_TAGS.key: user, USER_TAGS.time: time})
        except IncompleteAnswerError:
            answer = {"events": [], "partitions": []}
            if self._settings.worker.profiles:
                raise
        found = {Position(USER_TAGS.topic, event["partition"], event["offset"]) for event in answer["events"]}
        found.update(self._postgres.events_of(user, at_ms))
        for place in answer["partitions"]:
            found.update(self._waiting(user, at_ms, place["partition"], place["counted"]))
        found.update(self._dead(user, time))
        return [self.at(position) for position in sorted(found)[:EVENTS_MAX]]

    def _collect(self, position: Position) -> tuple[Evidence, dict[str, Any]]:
        """Ask everybody; Postgres and dead letters last, so that what moves on meanwhile is not taken for lost."""
        record = self._record(position)
        answer = ask(self._url, "/event", {"partition": position.partition, "offset": position.offset})
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
            row_expected=self._settings.sinks.user_events,
            block_written=minute is not None and self._postgres.reaches(position, minute),
            letter=self._letter(position),
            mark=self._mark(position),
            sink_lag=self._sink_lag(position.partition),
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
        is_young = SYSTEM_CLOCK.now_ms() - record.timestamp < self._settings.worker.horizon_s * 1000
        try:
            _, at_ms = self._codec.decode(record.value)
        except InvalidEventError as error:
            return Sought(None, str(error), is_young)
        return Sought(at_ms // MINUTE_MS, "", is_young)

    def _row_stored(self, record: Any, position: Position) -> bool | None:
        """Say whether a worker has the row of a record; None where it could have gone, or rows are not kept."""
        if record is None or not self._settings.worker.profiles:
            return None
        try:
            event, _ = self._codec.decode(record.value)
        except InvalidEventError:
            return None
        fields = {USER_TAGS.key: self._codec.key_of(event), USER_TAGS.time: self._codec.time_of(event)}
        answer = ask(self._url, "/event", fields)
        if any((found["partition"], found["offset"]) == position[1:] for found in answer["events"]):
            return True
        asked = any(place["partition"] == position.partition for place in answer["partitions"])
        is_young = SYSTEM_CLOCK.now_ms() - record.timestamp < self._settings.worker.horizon_s * 1000
        return False if asked and answer["complete"] and is_young else None

    def _letter(self, position: Position) -> DeadLetter | None:
        """Return the dead letter of a position: from Postgres, or from what Postgres has not applied yet."""
        found = self._postgres.letter(position)
        if found is not None:
            return found
        return next((letter for letter in self._unapplied_letters() if letter.source == position), None)

    def _unapplied_letters(self) -> Iterator[DeadLetter]:
        applied = self._postgres.applied()
        for partition, bounds in self._reader.bounds(DEAD_LETTERS).items():
            first = max(bounds.first, applied.get((DEAD_LETTERS, partition), 0))
            for record in self._reader.records(DEAD_LETTERS, partition, first=first, end=bounds.decided):
                letter = read_dead_letter(record)
                if letter is not None:
                    yield letter

    def _mark(self, position: Position) -> Position | None:
        bounds: dict[int, Bounds] = self._reader.bounds(REPLAYS)
        mine = {partition: bound for partition, bound in bounds.items() if partition == position.partition}
        marks = (decode_mark(record.key, record.value) for _, record in self._reader.topic_records(REPLAYS, mine))
        return next((replayed for source, replayed in marks if source == position), None)

    def _sink_lag(self, partition: int) -> int | None:
        applied = self._postgres.applied()
        if self._postgres.why_not:
            return None
        topics = [changelog_of(USER_TAGS.blocks_table)]
        if self._settings.sinks.user_events:
            topics.append(changelog_of(USER_TAGS.rows_table))
        ends = {topic: self._reader.bounds(topic)[partition].decided for topic in topics}
        return sum(max(0, end - applied.get((topic, partition), 0)) for topic, end in ends.items())

    def _waiting(self, user: str, at_ms: int, partition: int, counted: int) -> Iterator[Position]:
        """Yield the events of a user and millisecond among those that wait; a long lag is searched in part."""
        bounds = self._bounds[partition]
        first = max(bounds.first, counted)
        end = min(bounds.decided, first + TAIL_RECORDS_MAX)
        for record in self._reader.records(USER_TAGS.topic, partition, first=first, end=end):
            try:
                event, event_ms = self._codec.decode(record.value)
            except InvalidEventError:
                continue
            if event_ms == at_ms and self._codec.key_of(event) == user:
                yield Position(USER_TAGS.topic, partition, record.offset)

    def _dead(self, user: str, time: str) -> Iterator[Position]:
        """Yield the dead letters under a user's key whose time is that, or cannot be read."""
        for _, record in self._reader.topic_records(DEAD_LETTERS, self._reader.bounds(DEAD_LETTERS)):
            letter = read_dead_letter(record)
            if letter is None or letter.key != user.encode() or letter.source.topic != USER_TAGS.topic:
                continue
            if time_of(letter.value) in (None, time):
                yield letter.source


def time_of(value: bytes | None) -> str | None:
    """Return the text of an event's time out of a value that need be no event; None where there is none.

    >>> time_of(b'{"time": "2022-03-01T00:00:00Z"}'), time_of(b"{"), time_of(None)
    ('2022-03-01T00:00:00Z', None, None)
    """
    try:
        found = msgspec.json.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for name in USER_TAGS.time.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None


def main(arguments: list[str] | None = None) -> int:
    """Answer the question of the arguments as JSON and return the exit status; an error is one line."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        if not settings.kafka.servers:
            raise SettingsError("kafka.servers is empty: say where Kafka is by TALLY_KAFKA_SERVERS (see stack.env)")
        url = options.url or f"http://{settings.gateway.host}:{settings.gateway.port}"
        with closing(Reader(settings.kafka.servers)) as reader, closing(PostgresSide(settings.postgres.dsn)) as postgres:
            answers = _answers(options, Search(settings, reader, postgres, url=url))
    except TallyError as error:
        sys.stderr.write(f"where: {error}\n")
        return BAD_SETTINGS if isinstance(error, SettingsError) else FAILED
    sys.stdout.write(json.dumps(answers, indent=2, ensure_ascii=False) + "\n")
    return 0


def _answers(options: argparse.Namespace, search: Search) -> list[dict[str, Any]]:
    if options.partition is not None and options.offset is not None:
        return [search.at(Position(USER_TAGS.topic, options.partition, options.offset))]
    if options.user is None or options.time is None:
        raise SettingsError("--partition and --offset are needed, or --user and --time")
    try:
        return search.of(options.user, options.time)
    except ValueError as error:
        raise SettingsError(f"--time is {options.time!r}: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sinks.where", description=__doc__)
    parser.add_argument("--partition", type=int, help="of the source topic")
    parser.add_argument("--offset", type=int, help="in that partition")
    parser.add_argument("--user", help="whose event it is")
    parser.add_argument("--time", help="event time, as the event has it")
    parser.add_argument("--url", help="a gateway or worker; default: the gateway of the settings")
    return parser


if __name__ == "__main__":
    sys.exit(main())
