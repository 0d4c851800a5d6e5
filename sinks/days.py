"""Keep one partition a day of arrival for each big table: make them ahead, drop them when their time is over.

By arrival, never by event time: a simulated day may carry old dates, and one producer with a broken clock must not age
out anybody else's rows. The day of a record is that of its Kafka timestamp, moved into the days that are kept, so that a
wild timestamp makes no partition that would never be dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import count

import psycopg
from psycopg import sql

from sinks.queries import query, table_name
from streams.clock import Clock

DAYS_AHEAD = 2
_DAY_SUFFIX = re.compile(r"_(\d{4})_(\d\d)_(\d\d)")
_MS_A_DAY = 86_400_000


def day_of(at_ms: int) -> date:
    """Return the UTC date of an instant.

    >>> day_of(1_646_092_801_500)
    datetime.date(2022, 3, 1)
    """
    return datetime.fromtimestamp(at_ms // 1000, UTC).date()


def partition_name(table: str, day: date) -> str:
    """Return the name of a day's partition.

    >>> partition_name("minute_cells", date(2026, 3, 1))
    'minute_cells_2026_03_01'
    """
    return f"{table}_{day:%Y_%m_%d}"


def day_named(table: str, partition: str) -> date | None:
    """Return the day of a partition; None for one that is not named as ours are.

    >>> day_named("minute_cells", "minute_cells_2026_03_01")
    datetime.date(2026, 3, 1)
    """
    match = _DAY_SUFFIX.fullmatch(partition.removeprefix(table))
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


class DayPartitions:
    """The partitions of one table."""

    def __init__(self, table: str, *, days: int, clock: Clock) -> None:
        """Describe the table; nothing happens before `ensure` or `sweep`.

        Args:
            days: how long rows are kept after the day they arrived.
        """
        self.table = table
        self._days = days
        self._clock = clock
        self._known: set[date] = set()

    @property
    def kept_from(self) -> date:
        """The oldest day that is kept."""
        return day_of(self._clock.now_ms()) - timedelta(days=self._days)

    def arrival_day(self, timestamp_ms: int) -> date:
        """Return the day that a record's rows lie under; a record without a timestamp arrived today."""
        today = day_of(self._clock.now_ms())
        if timestamp_ms < 0:
            return today
        # Compared as integers: a wild timestamp may be past the last date that Python knows.
        age_days = self._clock.now_ms() // _MS_A_DAY - timestamp_ms // _MS_A_DAY
        # A day is kept for one more than any row joins it: what is on its way when it is dropped belongs to a later one.
        return today - timedelta(days=min(max(age_days, -DAYS_AHEAD), self._days - 1))

    def ensure(self, connection: psycopg.Connection, days: Iterable[date]) -> None:
        """Create the partitions of *days* that are missing, in a transaction of its own."""
        wanted = set(days)
        if wanted <= self._known:
            return
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(query("lock_days"))
            existing = set(self._existing(cursor))
            for day in sorted(wanted - existing):
                self._create(cursor, day)
        self._known = existing | wanted

    def sweep(self, connection: psycopg.Connection) -> list[str]:
        """Create the days ahead, drop those whose time is over, and return the names of the dropped."""
        today = day_of(self._clock.now_ms())
        self.forget()
        self.ensure(connection, (today + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1)))
        kept_from = self.kept_from
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(query("lock_days"))
            expired = [day for day in self._existing(cursor) if day < kept_from]
            names = [partition_name(self.table, day) for day in sorted(expired)]
            for name in names:
                cursor.execute(query("drop_day", day=table_name(name)))
        self._known.difference_update(expired)
        return names

    def ahead(self, connection: psycopg.Connection) -> int:
        """Return for how many days after today there are partitions, without a gap; asks Postgres."""
        with connection.cursor() as cursor:
            existing = set(self._existing(cursor))
        today = day_of(self._clock.now_ms())
        return next(days for days in count() if today + timedelta(days=days + 1) not in existing)

    def forget(self) -> None:
        """Ask Postgres again which partitions there are."""
        self._known.clear()

    def _existing(self, cursor: psycopg.Cursor) -> list[date]:
        cursor.execute(query("list_days"), {"table": f"tally.{self.table}"})
        days = (day_named(self.table, name) for (name,) in cursor.fetchall())
        return [day for day in days if day is not None]

    def _create(self, cursor: psycopg.Cursor, day: date) -> None:
        parent, child = table_name(self.table), table_name(partition_name(self.table, day))
        bounds = {"start": sql.Literal(day.isoformat()), "end": sql.Literal((day + timedelta(days=1)).isoformat())}
        text = sql.Literal(f"rows of {self.table} that arrived on {day.isoformat()} (UTC)")
        cursor.execute(query("create_day", day=child, table=parent))
        cursor.execute(query("attach_day", day=child, table=parent, **bounds))
        cursor.execute(query("describe_day", day=child, text=text))
