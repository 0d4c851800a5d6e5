"""Roll minutes up into hours and days, exactly, whoever writes meanwhile.

A transaction that writes blocks adds one to the version of every hour it touches, by day of arrival and source partition
(`touch`). Rolling an hour up (`Rollups.roll_hour`) is one transaction at READ COMMITTED:

1. It takes a lock that all who roll up share, so that nobody else does before it has committed.
2. It reads the sum of the hour's versions.
3. In a later statement it adds up the hour's minutes, and replaces the hour's rows.
4. It stores the sum of 2 with them.

An hour is *whole* where the stored sum is that of the versions, both of one snapshot. Then its rows are exactly the minutes of
that snapshot: versions only grow, so equal sums mean that every writer seen now had been committed at 2, and 3 saw at least
those; a writer that committed between 2 and 3 is seen now too, and makes the sums differ. A writer adds to versions of its own
source partition only, which the lock on its offsets keeps to one writer at a time: nobody waits for anybody. Rolling up twice,
in any order or half-way, changes nothing but how many hours are whole; questions add up the others from minutes.

A day is made of whole hours, with the sum of their versions; only who holds the lock changes hours, so the same holds.

Before the minutes of a day of arrival are dropped, its hours and days are rolled up for the last time and their versions
removed (`settle`): no versions, and 0 stored, is whole for good. Blocks of open buckets, which would be replaced later, move
on to a day that is kept before that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import date
from typing import NamedTuple

import psycopg
from psycopg import sql

from sinks.queries import column_names, query, table_name
from streams.rollups import DAY_S, HOUR_S, days_sql, hours_sql, others_of, rolled_sql, slices, touched_sql
from streams.topics import BUCKET_OFFSETS, Stream, changelog_of

log = logging.getLogger(__name__)

HOUR_MINUTES = 60
WORK_MEMORY = "64MB"
ROLL_TIMEOUT_MS = 1_800_000
"""An hour of 1,000 events/s at the specification's cardinality takes 25 s of a busy machine."""
DUE_MAX = 100
"""Hours, or days, that are looked up at a time."""
OVER_S = 120.0
"""How long an hour, or day, is left alone after its end: most of what is late comes by then."""
WAITING_S = 900.0
"""An hour that events keep joining is rolled up so often all the same."""
EPOCH_DAY = date(1970, 1, 1)


class Touch(NamedTuple):
    """An hour (hours since 1970) of one day of arrival and one source partition."""

    day: date
    hour: int
    partition: int


class Piece(NamedTuple):
    """An hour or day of one day of arrival; *start* in seconds since 1970."""

    stored_on: date
    start: int


class Due(NamedTuple):
    """What is to be rolled up.

    Attributes:
        now_s: seconds since 1970.
        quiet_s: how long nobody has written to an hour.
        stored_before: all that arrived before this day too, however young.
        over_s: how long hours are over; None: only what arrived before that day.
    """

    now_s: float
    quiet_s: float
    stored_before: date = EPOCH_DAY
    over_s: float | None = OVER_S

    @property
    def over_before_s(self) -> float:
        """Instant that must lie behind what is rolled up; 0 lies before everything."""
        return 0.0 if self.over_s is None else self.now_s - self.over_s


def touches_of(versions: Iterable[tuple[date, int, int]]) -> list[Touch]:
    """Return the hours of (day, minute, partition), each once, in one order for everybody.

    >>> touches_of([(EPOCH_DAY, 59, 0), (EPOCH_DAY, 0, 0), (EPOCH_DAY, 60, 0)])[-1].hour
    1
    """
    return sorted({Touch(day, minute // HOUR_MINUTES, partition) for day, minute, partition in versions})


class Work(NamedTuple):
    """How one unit is rolled up: names of its tables, its length, and the statements that read its version and fill it."""

    names: Mapping[str, sql.Composable]
    seconds: int
    version_of: sql.Composed
    fill: sql.Composed


class Toucher:
    """Marks hours in the transaction that writes them."""

    def __init__(self, stream: Stream) -> None:
        self._touch = query("touch_hours", touched=table_name(touched_sql(stream)))

    def touch(self, cursor: psycopg.Cursor, touches: list[Touch]) -> None:
        """Add one to the version of each hour; a second delivery adds one more, which costs one more rolling up."""
        if touches:
            days, hours, partitions = zip(*touches, strict=True)
            cursor.execute(self._touch, {"days": list(days), "hours": list(hours), "partitions": list(partitions)})


class Rollups:
    """The hours and days of one stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        hours, days = hours_sql(stream), days_sql(stream)
        names = {
            "touched": table_name(touched_sql(stream)),
            "minutes": table_name(stream.cells_sql),
            "blocks": table_name(f"{stream.cells_sql}_blocks"),
            "hours": table_name(hours),
            "hours_rolled": table_name(rolled_sql(hours)),
            **_columns(stream),
        }
        self._of_hours = names | {"cells": names["hours"], "rolled": names["hours_rolled"], "at": sql.Identifier("hour_at")}
        self._of_days = names | {
            "cells": table_name(days),
            "rolled": table_name(rolled_sql(days)),
            "at": sql.Identifier("day_at"),
        }

    def due_hours(self, connection: psycopg.Connection, due: Due) -> list[Piece]:
        """Return hours to roll up, the oldest first, at most `DUE_MAX`."""
        values = {
            "stored_before": due.stored_before,
            "over_before": max(0.0, due.over_before_s - HOUR_S),
            "quiet_since": due.now_s - due.quiet_s,
            "waiting_since": due.now_s - WAITING_S,
            "hours_max": DUE_MAX,
        }
        rows = connection.execute(query("due_hours", **self._of_hours), values).fetchall()
        return [Piece(stored_on, hour * HOUR_S) for stored_on, hour in rows]

    def due_days(self, connection: psycopg.Connection, due: Due) -> list[Piece]:
        """Return days to roll up whose hours are whole, the oldest first, at most `DUE_MAX`."""
        over_before = int(due.over_before_s // DAY_S)
        values = {"stored_before": due.stored_before, "over_before": over_before, "days_max": DUE_MAX}
        rows = connection.execute(query("due_days", **self._of_days), values).fetchall()
        return [Piece(stored_on, day * DAY_S) for stored_on, day, _ in rows]

    def roll_hour(self, connection: psycopg.Connection, piece: Piece) -> bool:
        """Roll one hour up from its minutes; False where somebody else is rolling up."""
        names = self._of_hours
        return _roll(connection, piece, Work(names, HOUR_S, query("hour_version", **names), query("roll_hour", **names)))

    def roll_day(self, connection: psycopg.Connection, piece: Piece) -> bool:
        """Roll one day up from its hours; False where one of them is not whole, or somebody else is rolling up."""
        names = self._of_days
        return _roll(connection, piece, Work(names, DAY_S, query("day_version", **names), query("roll_day", **names)))

    def waiting(self, connection: psycopg.Connection, due: Due) -> int:
        """Return how many hours are over and not whole."""
        values = {"over_before": due.over_before_s - HOUR_S}
        return _one(connection.execute(query("waiting_hours", **self._of_hours), values)) or 0

    # -- retention

    def move_open_blocks(self, connection: psycopg.Connection, *, kept_from: date, today: date) -> None:
        """Move the rows of open buckets out of the days before *kept_from*; a second call changes nothing."""
        values = {"kept_from": kept_from, "today": today, "bucket_offsets": BUCKET_OFFSETS}
        topic = {"topic": changelog_of(self._stream.blocks_table)}
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(query("lock_writers"), topic)
            cursor.execute(query("move_open_cells", **self._of_hours), values)
            cursor.execute(query("move_open_versions", **self._of_hours), values)
            moved = [(day, minute, partition) for stored_on, minute, partition in cursor for day in (stored_on, today)]
            Toucher(self._stream).touch(cursor, touches_of(moved))

    def settle(self, connection: psycopg.Connection, due: Due) -> bool:
        """Make what is rolled up of days before `due.stored_before` final, in the transaction that drops their minutes.

        Returns:
            Whether all of it is whole; where it is not, nothing has changed and the minutes must stay.
        """
        topic = {"topic": changelog_of(self._stream.blocks_table)}
        connection.execute(query("lock_writers"), topic)
        if self.due_hours(connection, due) or self.due_days(connection, due):
            return False
        values = {"kept_from": due.stored_before}
        connection.execute(query("settle_hours", **self._of_hours), values)
        for names in (self._of_hours, self._of_days):
            connection.execute(query("settle_rolled", **names), values)
        return True

    def forget_hours(self, connection: psycopg.Connection, *, kept_from: date) -> None:
        """Remove the hours that arrived before a day; the days made of them stay as they are."""
        _forget(connection, self._of_hours, kept_from)

    def forget_days(self, connection: psycopg.Connection, *, kept_from: date) -> None:
        """Remove the days that arrived before a day."""
        _forget(connection, self._of_days, kept_from)


def roll_due(rollups: Rollups, connection: psycopg.Connection, due: Due) -> None:
    """Roll up all that is due, hours before days.

    Raises:
        psycopg.Error: as Postgres raised it; what was rolled up before stays.
    """
    while hours := rollups.due_hours(connection, due):
        if not all(rollups.roll_hour(connection, piece) for piece in hours):
            return
    while days := rollups.due_days(connection, due):
        if not all(rollups.roll_day(connection, piece) for piece in days):
            return


def _roll(connection: psycopg.Connection, piece: Piece, work: Work) -> bool:
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED  # each statement sees what was committed before it
    values = {"stored_on": piece.stored_on, "start": piece.start, "end": piece.start + work.seconds}
    with connection.transaction(), connection.cursor() as cursor:
        if not _one(cursor.execute(query("lock_rollups"))):
            return False
        version = _one(cursor.execute(work.version_of, values))
        if version is None:
            return False
        cursor.execute(query("allow_more"), {"memory": WORK_MEMORY, "timeout_ms": ROLL_TIMEOUT_MS})
        cursor.execute(query("remove_rolled", **work.names), values)
        cursor.execute(work.fill, values)
        cursor.execute(query("save_rolled", **work.names), values | {"version": version})
    return True


def _forget(connection: psycopg.Connection, names: Mapping[str, sql.Composable], kept_from: date) -> None:
    """Remove piece by piece: the rows of a busy day in one statement would take longer than a statement may."""
    values = {"kept_from": kept_from, "rows_max": DUE_MAX}
    while pieces := connection.execute(query("expired_rolled", **names), values).fetchall():
        for stored_on, start in pieces:
            with connection.transaction():
                for statement in (query("remove_rolled", **names), query("forget_rolled", **names)):
                    connection.execute(statement, {"stored_on": stored_on, "start": start})


def _columns(stream: Stream) -> dict[str, sql.Composable]:
    """Return the parts of statements that follow from the declaration of the stream."""
    measures = ("event_count", *(f"{name}_sum" for name in stream.sums))
    bits = [
        sql.SQL("(1 - grouping({})) * {}").format(sql.Identifier(name), sql.Literal(1 << bit))
        for bit, name in enumerate(others_of(stream))
    ]
    sets = [sql.SQL("({})").format(column_names(each.dimensions)) for each in slices(stream)]
    return {
        "dimensions": column_names(tuple(stream.dimensions)),
        "measures": column_names(measures),
        "added": sql.SQL(", ").join(sql.SQL("sum({})").format(sql.Identifier(name)) for name in measures),
        "number": sql.SQL(" + ").join(bits),
        "sets": sql.SQL(", ").join(sets),
    }


def _one(cursor: psycopg.Cursor) -> int | None:
    row = cursor.fetchone()
    assert row is not None
    found: int | None = row[0]
    return found
