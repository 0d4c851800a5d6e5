"""The indexes of hours and days on a real Postgres: they take any text, and answer questions whatever these filter by."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import psycopg
import pytest
from psycopg import sql

from sinks.blocks import BlockWriter
from sinks.days import DayPartitions
from sinks.migrate import migrate
from sinks.postgres import connect
from sinks.rollups import Due, Rollups, roll_due
from streams.clock import SYSTEM_CLOCK
from streams.rollups import DAY_S, HOUR_S, days_sql, hours_sql, others_of, slices
from streams.schemas import TEXT_LENGTH_MAX
from streams.statements import table_name
from streams.topics import EVENTS, STREAMS, USER_TAGS, Stream
from tables.blocks import BlockKey, Cells, encode_block, pack
from tests.unit.sinks.test_writers import ARecord
from views import dashboard_cells
from views.dashboard_postgres import Snapshot
from views.dashboard_queries import CellsQuery, Choice, Form, Source

NOW_S = SYSTEM_CLOCK.now_ms() // 1000
HOUR = NOW_S // HOUR_S - 30
"""An hour that is over, and so is its day; hours since 1970."""
TODAY = datetime.fromtimestamp(NOW_S, UTC).date()
BEFORE = "2026_11_23_events"
"""The schema whose indexes had the texts themselves."""
ROWS = 30_000


@pytest.fixture
def connection(fresh_database: str) -> Iterator[psycopg.Connection]:
    """A connection of the sinks to a database with the schema."""
    migrate(fresh_database)
    with connect(fresh_database) as made:
        yield made


def longest(seed: int) -> str:
    """Return a text as long as the schema allows: four bytes a character, and nothing to compress."""
    random_ = random.Random(seed)
    return "".join(chr(random_.randrange(0x10000, 0x30000)) for _ in range(TEXT_LENGTH_MAX))


def write(connection: psycopg.Connection, stream: Stream, cell: tuple[str, ...]) -> None:
    """Write one block of the hour: three events of one cell."""
    cells: Cells = {cell: pack(3, *(0 for _ in stream.sums))}
    writer = BlockWriter(stream, DayPartitions(stream.cells_sql, days=4, clock=SYSTEM_CLOCK))
    value = encode_block(cells, sums=len(stream.sums))
    pending = writer.accept(ARecord(BlockKey(HOUR * 60, 0, 4_095).encode(), value, timestamp=SYSTEM_CLOCK.now_ms()))
    assert pending is not None
    writer.prepare(connection, [pending])
    with connection.transaction(), connection.cursor() as cursor:
        assert writer.write(cursor, [pending], isolate=False).counts[stream.cells_sql, "written"] == 1


def longest_cell(stream: Stream) -> tuple[str, ...]:
    """Return the dimensions of a cell, every text as long as can be."""
    return next(iter(stream.kinds)), *(longest(number) for number in range(len(others_of(stream))))


def check_rolled(connection: psycopg.Connection, stream: Stream, cell: tuple[str, ...]) -> None:
    """Roll up; every slice of hours and days must hold the cell, and nothing be left to do."""
    rollups, due = Rollups(stream), Due(NOW_S, -1e9)
    roll_due(rollups, connection, due)
    assert rollups.due_hours(connection, due) == []
    columns = sql.SQL(", ").join(map(sql.Identifier, stream.dimensions))
    for table in (hours_sql(stream), days_sql(stream)):
        for number, kept in slices(stream):
            statement = sql.SQL("SELECT {}, event_count FROM {} WHERE slice = %s").format(columns, table_name(table))
            texts = [text if name in kept else None for name, text in zip(stream.dimensions, cell, strict=True)]
            assert connection.execute(statement, (number,)).fetchall() == [(*texts, 3)], (table, number)


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.topic)
def test_texts_as_long_as_the_schema_allows_are_rolled_up(connection: psycopg.Connection, stream: Stream) -> None:
    """One cell that an index refused would keep its hour, and every later one, from being rolled up for ever."""
    cell = longest_cell(stream)
    write(connection, stream, cell)
    check_rolled(connection, stream, cell)


def test_what_stood_still_goes_on_after_the_migration_and_the_way_back_stays_open(fresh_database: str) -> None:
    """The index of before refuses the text; going back in a hurry makes one that does without the texts."""
    migrate(fresh_database, revision=BEFORE)
    cell = longest_cell(USER_TAGS)
    with connect(fresh_database) as connection:
        write(connection, USER_TAGS, cell)
        with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="index row size"):
            check_rolled(connection, USER_TAGS, cell)
        migrate(fresh_database)
        check_rolled(connection, USER_TAGS, cell)
        migrate(fresh_database, revision=BEFORE)
        statement = "SELECT indexdef FROM pg_indexes WHERE indexname = 'hour_cells_slice'"
        ((definition,),) = connection.execute(statement).fetchall()
        assert definition.endswith("(stored_on, hour_at, slice, action)")
        migrate(fresh_database)
        check_rolled(connection, USER_TAGS, cell)


class Explaining:
    """A snapshot in which every hour and day is whole; of the question itself it keeps the plan."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._states: list[list[tuple[Any, ...]]] = [
            [(TODAY, HOUR * HOUR_S, True, True)],
            [(TODAY, HOUR * HOUR_S // DAY_S * DAY_S, True)],
        ]
        self.plan = ""

    async def rows(self, statement: sql.Composed, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        if self._states:
            return self._states.pop(0)
        explained = self._connection.execute(sql.SQL("EXPLAIN {}").format(statement), values).fetchall()
        self.plan = "\n".join(line for (line,) in explained)
        return []


def fill(connection: psycopg.Connection, stream: Stream) -> None:
    """Put as many rows of an hour and of a day into each slice as make a difference to a plan."""
    statement = sql.SQL("INSERT INTO {} SELECT %s, to_timestamp(%s), %s, %s, {} FROM generate_series(1, %s) n")
    for table, at in ((hours_sql(stream), HOUR * HOUR_S), (days_sql(stream), HOUR * HOUR_S // DAY_S * DAY_S)):
        for number, kept in slices(stream):
            texts = ["'v' || n %% 97" if name in kept else "NULL" for name in others_of(stream)]
            columns = sql.SQL(", ".join([*texts, "1", *("0" for _ in stream.sums)]))
            values = (TODAY, at, number, next(iter(stream.kinds)), ROWS // len(slices(stream)))
            connection.execute(statement.format(table_name(table), columns), values)
        connection.execute(sql.SQL("ANALYZE {}").format(table_name(table)))


def plan_of(connection: psycopg.Connection, stream: Stream, filters: Sequence[str], step_s: int) -> str:
    """Return how Postgres answers a question with filters, from hours or days."""
    start_s = HOUR * HOUR_S // step_s * step_s
    chosen = {name: next(iter(stream.kinds)) if name == stream.kind else "v7" for name in filters}
    query = CellsQuery(start_s=start_s, end_s=start_s + step_s, filters=chosen, by=None, forced=None, form=Form.JSON, rows=10)
    explaining = Explaining(connection)
    choice = Choice(Source.POSTGRES, step_s, start_s, start_s + step_s)
    asyncio.run(dashboard_cells.Cells(stream).series(cast(Snapshot, explaining), query, choice))
    return explaining.plan


@pytest.mark.parametrize("stream", [USER_TAGS, EVENTS], ids=lambda stream: stream.topic)
def test_question_of_hours_and_days_goes_by_the_index_with_all_its_filters(
    connection: psycopg.Connection, stream: Stream
) -> None:
    """Without it a question about a year reads every cell of the slice: with it, the few that it counts."""
    fill(connection, stream)
    others = others_of(stream)
    asked: list[list[str]] = [[stream.kind], *([name] for name in others), [stream.kind, *others[:2]], list(others[-2:])]
    for filters in asked:
        for table, unit, step_s in ((hours_sql(stream), "hour_at", HOUR_S), (days_sql(stream), "day_at", DAY_S)):
            plan = plan_of(connection, stream, filters, step_s)
            (condition,) = [line for line in plan.splitlines() if "Index Cond" in line and unit in line and "slice" in line]
            assert f"{table}_hash" in plan
            assert f"Seq Scan on {table}" not in plan
            for name in filters:
                expected = f"{name} =" if name == stream.kind else f"hashtext({name}) ="
                assert expected in condition, (filters, plan)
