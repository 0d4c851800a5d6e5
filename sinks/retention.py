"""Drop what was kept long enough, at start and once an hour: days and their blocks' versions, rollups, dead letters, the log.

The minutes of a day go in the transaction that makes final what is rolled up of them, once it is whole (sinks/rollups.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

import psycopg

from sinks import submissions
from sinks.blocks import blocks_sql
from sinks.days import DayPartitions, day_of
from sinks.queries import event_query, query, table_name
from sinks.rollups import Due, Rollups, roll_due
from streams.clock import Clock
from streams.settings import Sinks
from streams.topics import Stream

log = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 3_600.0
RETRY_INTERVAL_S = 60.0
"""A report may hold a day's lock for long: each try makes others wait behind it, so tries are rare."""
MS_A_DAY = 86_400_000


class StreamDays(NamedTuple):
    """The day partitions of one stream's two tables."""

    stream: Stream
    cells: DayPartitions
    events: DayPartitions


class Retention:
    """What is kept how long."""

    def __init__(self, streams: Sequence[Stream], settings: Sinks, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._swept_at_s = float("-inf")
        self.tables = [
            StreamDays(
                stream,
                DayPartitions(stream.cells_sql, days=settings.minute_cells_days, clock=clock),
                DayPartitions(stream.events_sql, days=events_days(settings, stream), clock=clock),
            )
            for stream in streams
        ]

    def is_due(self) -> bool:
        """Return whether it is time to sweep again."""
        return self._clock.monotonic_s() - self._swept_at_s >= SWEEP_INTERVAL_S

    def sweep(self, connection: psycopg.Connection) -> None:
        """Drop what is too old and make the days ahead; a second call changes nothing.

        Raises:
            psycopg.Error: as Postgres raised it; what was dropped before stays dropped.
        """
        self._swept_at_s = self._clock.monotonic_s() - SWEEP_INTERVAL_S + RETRY_INTERVAL_S
        for tables in self.tables:
            dropped = [*tables.events.sweep(connection), *self._sweep_cells(connection, tables)]
            if dropped:
                log.info("dropped %s", ", ".join(dropped))
        kept_from_ms = self._clock.now_ms() - self._settings.dead_letters_days * MS_A_DAY
        connection.execute(query("forget_dead_letters"), {"kept_from_ms": kept_from_ms})
        self._sweep_submissions(connection)
        self._swept_at_s = self._clock.monotonic_s()

    def _sweep_submissions(self, connection: psycopg.Connection) -> None:
        now_ms = self._clock.now_ms()
        submissions.forget(connection, kept_from_ms=now_ms - self._settings.txn_log_days * MS_A_DAY)
        kept_from = day_of(now_ms) - timedelta(days=self._settings.value_counts_days)
        connection.execute(event_query("forget_value_counts"), {"kept_from": kept_from})

    def _sweep_cells(self, connection: psycopg.Connection, tables: StreamDays) -> list[str]:
        """Drop days of minutes and return their names; then hours and days that are older still."""
        stream, cells, _ = tables
        rollups, today = Rollups(stream), day_of(self._clock.now_ms())
        due = Due(self._clock.now_ms() / 1000, 0.0, stored_before=cells.kept_from, over_s=None)
        cells.ensure(connection, {today})
        rollups.move_open_blocks(connection, kept_from=cells.kept_from, today=today)
        roll_due(rollups, connection, due)
        with connection.transaction():
            dropped = []
            if rollups.settle(connection, due):
                dropped = cells.sweep(connection)
                forget = query("forget_versions", blocks=table_name(blocks_sql(stream)))
                connection.execute(forget, {"kept_from": cells.kept_from})
        hours_days = max(self._settings.hour_cells_days, self._settings.minute_cells_days)
        days_days = max(self._settings.day_cells_days, hours_days)
        rollups.forget_hours(connection, kept_from=today - timedelta(days=hours_days))
        rollups.forget_days(connection, kept_from=today - timedelta(days=days_days))
        return dropped

    def days_ahead(self, connection: psycopg.Connection) -> dict[str, int]:
        """Return, by table, for how many days after today there are partitions."""
        return {days.table: days.ahead(connection) for days in self._days()}

    def forget(self) -> None:
        """Ask Postgres again which days there are, after an error that a missing one may explain."""
        for days in self._days():
            days.forget()

    def _days(self) -> Iterator[DayPartitions]:
        for _, cells, events in self.tables:
            yield from (cells, events)


def events_days(settings: Sinks, stream: Stream) -> int:
    """Return how long rows of a stream are kept: the setting is named as their table."""
    days: int = getattr(settings, f"{stream.events_sql}_days")
    return days
