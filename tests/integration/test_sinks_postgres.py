"""The schema of the sinks on a real Postgres: migrations, comments, rights, days, and text that COPY must escape."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from sinks.copy_text import copy, copy_isolated, render_block, render_line, render_minute
from sinks.days import DayPartitions, day_named, day_of
from sinks.migrate import MIGRATIONS, MigrationError, check_revision, head, migrate, revision_of
from sinks.postgres import Postgres, connect, lock_positions, move_positions
from sinks.retention import Retention
from sinks.writers import Place
from streams.clock import SYSTEM_CLOCK
from streams.settings import Sinks
from streams.topics import STREAMS, USER_TAGS, changelog_of
from tables.blocks import decode_block, encode_block, pack

READABLE = (
    "minute_aggregates", "user_events", "dead_letters", "sink_offsets",
    "hour_cells", "day_cells", "hour_cells_touched", "hour_cells_rolled", "day_cells_rolled",
    "event", "events", "event_aggregates", "event_hour_cells", "event_day_cells", "event_hour_cells_touched",
    "event_hour_cells_rolled", "event_day_cells_rolled", "txn_log", "value_counts", "clicks_per_post", "visits_per_club_day",
    "top_course_searches",
)  # fmt: skip
PARTITIONED = 4
UNPARTITIONED = 13 + 16 - PARTITIONED
DAY_MS = 86_400_000
TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20) | st.text(
    st.sampled_from("\\\t\n\r.N\x0b\x85\u2028 "), max_size=6
)


class ShiftedClock:
    """The machine's clock, some days later."""

    def __init__(self) -> None:
        self.days = 0

    def now_ms(self) -> int:
        return SYSTEM_CLOCK.now_ms() + self.days * DAY_MS

    def monotonic_s(self) -> float:
        return SYSTEM_CLOCK.monotonic_s() + self.days * DAY_MS / 1000


@pytest.fixture
def connection(fresh_database: str) -> Iterator[psycopg.Connection]:
    """A connection of the sinks to a database with the schema."""
    migrate(fresh_database)
    with connect(fresh_database) as made:
        yield made


@pytest.fixture
def scratch(fresh_database: str) -> Iterator[psycopg.Connection]:
    """A connection with a table of two texts and one of a block's columns."""
    with connect(fresh_database) as made:
        made.execute("CREATE TABLE texts (id int, one text, two text)")
        made.execute("CREATE TABLE cells (id int, minute_at timestamptz, one text, two text, count bigint, total bigint)")
        yield made


EXAMPLES = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@EXAMPLES
@given(rows=st.lists(st.tuples(st.none() | TEXTS, st.none() | TEXTS), max_size=10))
def test_postgres_reads_the_texts_that_were_written(scratch: psycopg.Connection, rows: list[tuple[str | None, ...]]) -> None:
    """The server, not our idea of it, is the authority on COPY's format: every text comes back as it was, NULL as NULL."""
    with scratch.transaction(force_rollback=True), scratch.cursor() as cursor:
        lines = "".join(render_line((number, *row)) for number, row in enumerate(rows))
        copy(cursor, sql.SQL("COPY texts FROM STDIN").format(), [lines])
        assert cursor.execute("SELECT one, two FROM texts ORDER BY id").fetchall() == rows


CELLS = st.dictionaries(st.tuples(TEXTS, TEXTS), st.tuples(st.integers(1, 4096), st.integers(-(2**43), 2**43)), min_size=1)


@EXAMPLES
@given(cells=CELLS, minute=st.integers(0, 2**32 - 2))
def test_postgres_reads_the_block_that_was_written(
    scratch: psycopg.Connection, cells: dict[tuple[str, str], tuple[int, int]], minute: int
) -> None:
    """Any texts, any minute that a key can hold."""
    block = decode_block(encode_block({key: pack(*values) for key, values in cells.items()}, sums=1))
    with scratch.transaction(force_rollback=True), scratch.cursor() as cursor:
        copy(cursor, sql.SQL("COPY cells FROM STDIN").format(), [render_block((1, render_minute(minute)), block)])
        found = cursor.execute("SELECT one, two, count, total FROM cells").fetchall()
        assert {(one, two): values for one, two, *values in found} == {key: list(values) for key, values in cells.items()}
        minutes = cursor.execute("SELECT DISTINCT (extract(epoch FROM minute_at) / 60)::bigint FROM cells").fetchall()
        assert minutes == [(minute,)]


def test_refused_lines_are_found_and_the_others_written(scratch: psycopg.Connection) -> None:
    """NUL in a text, a text for a number: by name of the error, under savepoints of one transaction."""
    lines = [render_line((number, "a", "b")) for number in range(100)]
    lines[7], lines[64] = "7\tnul\0\tb\n", "x\ta\tb\n"
    with scratch.transaction(), scratch.cursor() as cursor:
        refused = copy_isolated(cursor, sql.SQL("COPY texts FROM STDIN").format(), lines)
    assert {line: error.sqlstate for line, error in refused.items()} == {7: "22021", 64: "22P02"}
    assert scratch.execute("SELECT count(*) FROM texts").fetchone() == (98,)


def schema_of(connection: psycopg.Connection) -> list[tuple[object, ...]]:
    """Return every relation, column, index, comment and right of the schema."""
    return connection.execute(
        """
        SELECT c.relname, c.relkind, c.reloptions, c.relacl::text, obj_description(c.oid, 'pg_class'), a.attname, a.attnotnull,
               format_type(a.atttypid, a.atttypmod), col_description(c.oid, a.attnum), pg_get_partkeydef(c.oid),
               CASE WHEN c.relkind IN ('i', 'I') THEN pg_get_indexdef(c.oid) WHEN c.relkind = 'v' THEN pg_get_viewdef(c.oid) END
          FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relnamespace = 'tally'::regnamespace ORDER BY c.relname, a.attnum
        """
    ).fetchall()


def test_up_down_up_leaves_the_same_schema(fresh_database: str) -> None:
    """P21: a way back that leaves things behind would fail the next way up, on the day it is needed."""
    migrate(fresh_database)
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        once = schema_of(connection)
        assert "at schema none" in migrate(fresh_database, revision="base")
        assert {name for name, *_ in schema_of(connection)} == {"schema_version", "schema_version_pkc"}
        with pytest.raises(MigrationError, match="no schema of ours"):
            check_revision(connection)
        assert head() in migrate(fresh_database)
        assert schema_of(connection) == once


def test_way_back_ends_at_the_schema_that_is_named(fresh_database: str) -> None:
    """P21: as docs/production.md says it, after an upgrade that somebody regrets; a name of no schema is an error."""
    steps = [step.revision for step in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]
    assert len(steps) >= 4
    for revision in (*steps, *reversed(steps), steps[2], steps[1], steps[1]):
        migrate(fresh_database, revision=revision)
        with psycopg.connect(fresh_database) as connection:
            assert revision_of(connection) == revision
    with pytest.raises(MigrationError, match="none_such"):
        migrate(fresh_database, revision="none_such")


def test_what_a_way_back_drops_is_read_again_after_the_next_way_up(fresh_database: str) -> None:
    """P21: tables that are made anew are empty; offsets of before would leave all out that Kafka still has of them."""
    migrate(fresh_database)
    before_events = "2026_11_23_audit"
    places = {Place(topic, 0) for stream in STREAMS for topic in (stream.topic, *map(changelog_of, stream.tables))}
    mine = Postgres(fresh_database)
    with mine.connection().transaction(), mine.connection().cursor() as cursor:
        lock_positions(cursor, places)
        move_positions(cursor, dict.fromkeys(places, 7))
    migrate(fresh_database, revision=before_events)
    migrate(fresh_database)
    left = {place.topic for place in mine.positions()}
    mine.close()
    assert left == {USER_TAGS.topic, *map(changelog_of, USER_TAGS.tables)}


def test_two_migrators_take_turns(fresh_database: str) -> None:
    """Two processes of one release start at once: one migrates, the other finds it done."""
    lines: list[str] = []
    threads = [threading.Thread(target=lambda: lines.append(migrate(fresh_database))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted("it was at none" in line for line in lines) == [False, False, True]


def test_unreachable_postgres_is_one_line() -> None:
    """Whoever types the command needs the reason, not a stack."""
    with pytest.raises(MigrationError) as caught:
        migrate("postgresql://nobody@127.0.0.1:1/none")
    assert len(str(caught.value).splitlines()) == 1


def test_every_table_and_column_has_a_comment(connection: psycopg.Connection) -> None:
    """The database explains itself to who reads it with another tool; days made later are no exception."""
    Retention(STREAMS, Sinks(), SYSTEM_CLOCK).sweep(connection)
    rows = [row for row in schema_of(connection) if row[1] not in ("i", "I")]
    assert len({row[0] for row in rows}) == UNPARTITIONED + PARTITIONED * (1 + 3)
    assert [row[:6] for row in rows if not row[4] or not row[8]] == []


def test_columns_of_the_interface_are_there(connection: psycopg.Connection) -> None:
    """Reports rely on these names and their order."""
    names = [row[5] for row in schema_of(connection) if row[0] == "minute_aggregates"]
    assert names == ["minute_at", "action", "origin", "brand_id", "category_id", "event_count", "price_sum"]
    event = [row[5] for row in schema_of(connection) if row[0] == "event"]
    assert event == ["id", "product", "pennkey", "datapoint", "value", "timestamp"]
    events = [row[5] for row in schema_of(connection) if row[0] == "user_events"]
    assert {"cookie", "occurred_at", "action", "source_partition", "source_offset"} <= set(events)


def test_reader_reads_what_reports_need_and_writes_nothing(connection: psycopg.Connection) -> None:
    """Also the days that are made after the right was given; the tables behind the view stay closed."""
    Retention(STREAMS, Sinks(), SYSTEM_CLOCK).sweep(connection)
    connection.execute("SET ROLE tally_reader")
    for table in READABLE:
        connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier("tally", table)))
    refused = [
        *(f"DELETE FROM tally.{table}" for table in READABLE),
        "SELECT * FROM tally.minute_cells",
        "SELECT * FROM tally.minute_cells_blocks",
        "SELECT * FROM tally.event_minute_cells",
        "SELECT * FROM tally.forward_positions",
        "SELECT * FROM tally.audit",
        "CREATE TABLE tally.mine (id int)",
        "TRUNCATE tally.user_events",
    ]
    for statement in refused:
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
            connection.execute(statement)
    may = "SELECT relname FROM pg_class WHERE relnamespace = 'tally'::regnamespace AND relkind IN ('r', 'p', 'v')"
    writing = " AND has_table_privilege(oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')"
    assert len(connection.execute(may).fetchall()) > len(READABLE)
    assert connection.execute(may + writing).fetchall() == []


def days_of(connection: psycopg.Connection, table: str) -> list[int]:
    """Return which days a table has partitions for, in days from today."""
    statement = "SELECT relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = %s::regclass"
    names = connection.execute(statement, (f"tally.{table}",)).fetchall()
    today = day_of(SYSTEM_CLOCK.now_ms())
    return sorted((day - today).days for (name,) in names if (day := day_named(table, name)))


def test_days_are_made_ahead_and_dropped_when_their_time_is_over(connection: psycopg.Connection) -> None:
    """By arrival: each table by its own term, the blocks' versions with their cells."""
    clock = ShiftedClock()
    retention = Retention(STREAMS, Sinks(user_events_days=2, minute_cells_days=4), clock)
    retention.sweep(connection)
    assert not retention.is_due()
    today = day_of(SYSTEM_CLOCK.now_ms())
    for age in (0, 3):
        connection.execute(
            "INSERT INTO tally.minute_cells_blocks VALUES (0, %s, now(), 4095, %s)", (age, today - timedelta(age))
        )
    for age_days in (1, 91):
        at_ms = SYSTEM_CLOCK.now_ms() - age_days * DAY_MS
        values = (age_days, at_ms / 1000)
        connection.execute(
            "INSERT INTO tally.dead_letters VALUES ('t', 0, %s, 'r', '', '', '', '', '[]', to_timestamp(%s))", values
        )
    assert days_of(connection, "user_events") == days_of(connection, "minute_cells") == [0, 1, 2]
    clock.days = 3
    assert retention.is_due()
    retention.sweep(connection)
    assert days_of(connection, "user_events") == [1, 2, 3, 4, 5]
    assert days_of(connection, "minute_cells") == [0, 1, 2, 3, 4, 5]
    assert connection.execute("SELECT bucket FROM tally.minute_cells_blocks").fetchall() == [(0,)]
    assert connection.execute("SELECT source_offset FROM tally.dead_letters").fetchall() == [(1,)]


def test_two_sinks_make_the_same_day_once(fresh_database: str) -> None:
    """Both find it missing at midnight."""
    migrate(fresh_database)
    errors: list[psycopg.Error] = []

    def ensure() -> None:
        days = DayPartitions("minute_cells", days=7, clock=SYSTEM_CLOCK)
        with connect(fresh_database) as own:
            try:
                days.ensure(own, [days.arrival_day(-1), days.kept_from])
            except psycopg.Error as error:
                errors.append(error)

    threads = [threading.Thread(target=ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_second_writer_waits_for_the_first_and_sees_what_it_wrote(fresh_database: str) -> None:
    """The lock is what fences a zombie: whoever comes second drops what lies below the offset it then reads."""
    migrate(fresh_database)
    place, seen = Place("t", 0), list[int]()
    first, second = Postgres(fresh_database), Postgres(fresh_database)

    def write_second() -> None:
        with second.connection().transaction(), second.connection().cursor() as cursor:
            seen.append(lock_positions(cursor, [place])[place])

    with first.connection().transaction(), first.connection().cursor() as cursor:
        assert lock_positions(cursor, [place]) == {place: 0}
        waiter = threading.Thread(target=write_second)
        waiter.start()
        move_positions(cursor, {place: 5})
    waiter.join()
    with second.connection().transaction(), second.connection().cursor() as cursor:
        move_positions(cursor, {place: 3})
    assert seen == [5]
    assert first.positions() == {place: 5}
    first.close()
    second.close()
