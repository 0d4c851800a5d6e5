"""Say of which pieces Postgres makes an answer, and ask for them: days and hours that are whole, minutes for the others.

So every answer is exact, and late events show at once: what they touched is added up from minutes until it is rolled up again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, NamedTuple

from psycopg import sql

from streams.errors import TallyError
from streams.rollups import DAY_S, HOUR_S, days_sql, hours_sql, rolled_sql, slice_of, touched_sql
from streams.statements import table_name
from streams.topics import Stream, changelog_of
from views.dashboard_postgres import STATEMENTS, Snapshot
from views.dashboard_queries import MINUTE_S, CellsQuery, Choice

SERIES_KEYS_MAX = 12
"""Values that have a line of their own; the others are one."""


class NotKeptError(TallyError):
    """What is asked for in so short steps is kept in longer ones only."""


class HourState(NamedTuple):
    """An hour of one day of arrival, its start in seconds since 1970."""

    stored_on: date
    start: int
    whole: bool
    has_minutes: bool


class DayState(NamedTuple):
    """A day of one day of arrival that is rolled up."""

    stored_on: date
    start: int
    whole: bool


class Span(NamedTuple):
    """Minutes of one day of arrival, of event times in [start, end)."""

    stored_on: date
    start: int
    end: int


class Pieces(NamedTuple):
    """What an answer is made of; no event is in two of them."""

    days: list[tuple[date, int]]
    hours: list[tuple[date, int]]
    minutes: list[Span]


def pieces_of(choice: Choice, hours: Sequence[HourState], days: Iterable[DayState]) -> Pieces:
    """Return the coarsest whole pieces that have the steps of *choice*, out of the states of all days that it touches.

    Raises:
        NotKeptError: some is kept in longer steps only.
    """
    whole_days = {(day.stored_on, day.start): day.whole for day in days}
    if choice.step_s < DAY_S and not whole_days.keys() <= {(hour.stored_on, hour.start // DAY_S * DAY_S) for hour in hours}:
        raise NotKeptError("hours are no longer kept there")
    asked = [hour for hour in hours if choice.start_s < hour.start + HOUR_S and hour.start < choice.end_s]
    if choice.step_s < HOUR_S and not all(hour.has_minutes for hour in asked):
        raise NotKeptError("minutes are no longer kept there")
    taken = {day for day, whole in whole_days.items() if whole and choice.step_s == DAY_S}
    left = [hour for hour in asked if (hour.stored_on, hour.start // DAY_S * DAY_S) not in taken]
    by_hours = [hour for hour in left if hour.whole and choice.step_s >= HOUR_S]
    by_minutes = [hour for hour in left if not hour.whole or choice.step_s < HOUR_S]
    spans = [
        Span(hour.stored_on, max(hour.start, choice.start_s), min(hour.start + HOUR_S, choice.end_s)) for hour in by_minutes
    ]
    return Pieces(sorted(taken), [(hour.stored_on, hour.start) for hour in by_hours], joined(spans))


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return spans with those that touch made one.

    >>> day = date(2026, 3, 1)
    >>> [span[1:] for span in joined([Span(day, 60, 120), Span(day, 0, 60), Span(day, 180, 240)])]
    [(0, 120), (180, 240)]
    """
    found: list[Span] = []
    for span in sorted(spans):
        if found and found[-1].stored_on == span.stored_on and found[-1].end == span.start:
            found[-1] = found[-1]._replace(end=span.end)
        elif span.start < span.end:
            found.append(span)
    return found


class Cells:
    """The cells of one stream in Postgres."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        hours, days = hours_sql(stream), days_sql(stream)
        self._names = {
            "touched": table_name(touched_sql(stream)),
            "minutes": table_name(stream.cells_sql),
            "hours": table_name(hours),
            "days": table_name(days),
            "hours_rolled": table_name(rolled_sql(hours)),
            "days_rolled": table_name(rolled_sql(days)),
        }
        self._measures = ("event_count", *(f"{name}_sum" for name in stream.sums))

    async def pieces(self, snapshot: Snapshot, choice: Choice) -> Pieces:
        """Return what the answer is made of.

        Raises:
            NotKeptError: some is kept in longer steps only.
        """
        values = {"start": choice.start_s // DAY_S * DAY_S, "end": -(-choice.end_s // DAY_S) * DAY_S}
        hours = await snapshot.rows(STATEMENTS.query("hour_states", **self._names), values)
        days = await snapshot.rows(STATEMENTS.query("day_states", **self._names), values)
        return pieces_of(choice, [HourState(*row) for row in hours], [DayState(*row) for row in days])

    async def series(self, snapshot: Snapshot, query: CellsQuery, choice: Choice) -> list[tuple[Any, ...]]:
        """Return rows of (bucket, value, count, sums); the value None: all others, or all."""
        statement, values = self._cells(query, choice, await self.pieces(snapshot, choice))
        whole = STATEMENTS.query("series", cells=statement, totals=self._totals())
        return await snapshot.rows(whole, values | {"keys_max": SERIES_KEYS_MAX})

    async def top(self, snapshot: Snapshot, query: CellsQuery, choice: Choice) -> list[tuple[Any, ...]]:
        """Return rows of (is the total, value, count, sums): the total, then the values that count most."""
        statement, values = self._cells(query, choice, await self.pieces(snapshot, choice))
        whole = STATEMENTS.query("top", cells=statement, totals=self._totals())
        return await snapshot.rows(whole, values | {"rows": query.rows})

    async def applied(self, snapshot: Snapshot) -> dict[int, int]:
        """Return the next offset of the changelog of blocks to apply, by partition."""
        rows = await snapshot.rows(STATEMENTS.query("positions"), {"topic": changelog_of(self._stream.blocks_table)})
        return dict(rows)

    def _cells(self, query: CellsQuery, choice: Choice, pieces: Pieces) -> tuple[sql.Composed, dict[str, Any]]:
        by_slice, kind = choice.step_s > MINUTE_S, self._stream.kind
        values: dict[str, Any] = {
            "step": choice.step_s,
            "slice": slice_of(self._stream, query.needed).number if by_slice else 0,
            "day_stored": [day for day, _ in pieces.days],
            "day_starts": [start for _, start in pieces.days],
            "hour_stored": [day for day, _ in pieces.hours],
            "hour_starts": [start for _, start in pieces.hours],
            "minute_stored": [span.stored_on for span in pieces.minutes],
            "minute_starts": [span.start for span in pieces.minutes],
            "minute_ends": [span.end for span in pieces.minutes],
            **{f"filter_{name}": value for name, value in query.filters.items()},
        }
        named = {name: (sql.Identifier(name), sql.Placeholder(f"filter_{name}")) for name in query.filters}
        filters = [sql.SQL("AND c.{} = {}").format(*names) for names in named.values()]
        hashed = [sql.SQL("AND hashtext(c.{}) = hashtext({})").format(*names) for name, names in named.items() if name != kind]
        measures = [sql.Identifier(name) for name in self._measures]
        added = [sql.SQL("sum(c.{0}) AS {0}").format(name) for name in measures]
        parts = {
            "key": sql.SQL("NULL::text") if query.by is None else sql.SQL("c.{}").format(sql.Identifier(query.by)),
            "added": sql.SQL(", ").join(added),
            "counted": sql.SQL(", c.").join(measures),
            "filters": sql.SQL(" ").join(filters),
            "hashes": sql.SQL(" ").join(hashed),
        }
        return STATEMENTS.query("cells", **self._names, **parts), values

    def _totals(self) -> sql.Composed:
        names = map(sql.Identifier, self._measures)
        return sql.SQL(", ").join(sql.SQL("coalesce(sum(c.{}), 0)::bigint").format(name) for name in names)
