"""Hours and days on a real Postgres: exact whoever writes meanwhile, final before their minutes go."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
import pytest

from sinks.blocks import BlockWriter
from sinks.days import DayPartitions
from sinks.migrate import migrate
from sinks.postgres import connect
from sinks.retention import Retention
from sinks.rollups import Due, Piece, Rollups, roll_due
from streams.rollups import slices
from streams.settings import Sinks
from streams.topics import BUCKET_OFFSETS, STREAMS, USER_TAGS
from tables.blocks import BlockKey, encode_block, pack
from tests.support.eventually import eventually

DAY_MS = 86_400_000
NOW_MS = int(datetime(2026, 3, 10, 12, 30, tzinfo=UTC).timestamp()) * 1000
HOUR = NOW_MS // 3_600_000 - 30
"""An hour of yesterday morning, hours since 1970."""
MINUTE = HOUR * 60
Cell = tuple[str, str | None, str | None, str | None]
NIKE: Cell = ("BUY", "CAMPAIGN_1", "Nike", "Shoes")
PUMA: Cell = ("VIEW", "CAMPAIGN_2", "Puma", "Shoes")


class StoppedClock:
    """Stands still until it is moved; the sinks see a day that the test chooses."""

    def __init__(self) -> None:
        self.at_ms = NOW_MS

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_s(self) -> float:
        return self.at_ms / 1000


class Entry(NamedTuple):
    """A record of the changelog of blocks."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes


class Scene:
    """A database with the schema, and somebody who writes blocks into it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.clock = StoppedClock()
        self.connection = connect(dsn)
        self.settings = Sinks(minute_cells_days=4, hour_cells_days=10, day_cells_days=20)
        self.rollups = Rollups(USER_TAGS)
        self.writer = BlockWriter(USER_TAGS, DayPartitions(USER_TAGS.cells_sql, days=4, clock=self.clock))

    def write(
        self, cells: Mapping[Cell, tuple[int, int]], *, through: int = 4095, connection: Any = None, **place: int
    ) -> None:
        """Write one block in a transaction of its own: *place* may name partition, bucket, minute, and the day by its age."""
        connection = connection or self.connection
        minute, bucket = place.get("minute", MINUTE), place.get("bucket", 0)
        arrived_ms = self.clock.at_ms - place.get("age_days", 0) * DAY_MS
        key = BlockKey(minute, bucket, bucket * BUCKET_OFFSETS + through).encode()
        value = encode_block({tuple(map(str, cell)): pack(*values) for cell, values in cells.items()}, sums=1)
        record: Any = Entry("t", place.get("partition", 0), 0, arrived_ms, key, value)
        pending = self.writer.accept(record)
        assert pending is not None
        self.writer.prepare(connection, [pending])
        with connection.transaction(), connection.cursor() as cursor:
            self.writer.write(cursor, [pending], isolate=False)

    def due(self, *, quiet_s: float = -1e9, **fields: Any) -> Due:
        return Due(self.clock.at_ms / 1000, quiet_s, **fields)

    def roll(self) -> None:
        roll_due(self.rollups, self.connection, self.due())

    def whole(self, unit: str = "hour") -> dict[Piece, bool]:
        """Say of each hour, or day, whether it is whole; by the same rule as the pages of the dashboard."""
        at = "hour_at" if unit == "hour" else "date_trunc('day', hour_at, 'UTC')"
        rows = self.connection.execute(
            f"""SELECT coalesce(t.stored_on, r.stored_on), extract(epoch FROM coalesce(t.at, r.{unit}_at))::bigint,
                       coalesce(t.version, 0) IS NOT DISTINCT FROM r.version
                  FROM (SELECT stored_on, {at} AS at, sum(version) AS version FROM tally.hour_cells_touched GROUP BY 1, 2) t
                  FULL JOIN tally.{unit}_cells_rolled r ON r.stored_on = t.stored_on AND r.{unit}_at = t.at"""
        ).fetchall()
        return {Piece(stored_on, start): whole for stored_on, start, whole in rows}

    def cells(self, unit: str, number: int = 0) -> dict[Cell, tuple[int, int]]:
        """Return count and sum by dimensions of one slice, all days of arrival together."""
        rows = self.connection.execute(
            f"""SELECT action, origin, brand_id, category_id, sum(event_count)::bigint, sum(price_sum)::bigint
                  FROM tally.{unit}_cells WHERE slice = %s GROUP BY 1, 2, 3, 4""",
            (number,),
        ).fetchall()
        return {tuple(row[:4]): tuple(row[4:]) for row in rows}


@pytest.fixture
def scene(fresh_database: str) -> Iterator[Scene]:
    migrate(fresh_database)
    made = Scene(fresh_database)
    made.writer.days.ensure(made.connection, {made.writer.days.arrival_day(made.clock.at_ms)})
    yield made
    made.connection.close()


def piece_of(scene: Scene, *, age_days: int = 0, hour: int = HOUR) -> Piece:
    day = datetime.fromtimestamp(scene.clock.at_ms / 1000, UTC).date() - timedelta(days=age_days)
    return Piece(day, hour * 3600)


def test_every_slice_of_an_hour_adds_up_to_its_minutes(scene: Scene) -> None:
    """Each keeps the kind and at most two more; NULL stands for all, and an empty text is no NULL."""
    empty: Cell = ("BUY", "", "Nike", "")
    scene.write({NIKE: (2, 700), PUMA: (1, -5), empty: (4, 1)})
    scene.write({NIKE: (1, 50)}, minute=MINUTE + 59, partition=3)
    scene.write({NIKE: (100, 100)}, minute=MINUTE + 60)
    cells = {NIKE: (3, 750), PUMA: (1, -5), empty: (4, 1)}
    scene.rollups.roll_hour(scene.connection, piece_of(scene))
    assert len(slices(USER_TAGS)) == 7
    for number, dimensions in slices(USER_TAGS):
        expected: Counter[tuple[str | None, ...]] = Counter()
        sums: Counter[tuple[str | None, ...]] = Counter()
        for cell, (count, total) in cells.items():
            names = zip(USER_TAGS.dimensions, cell, strict=True)
            key = tuple(value if name in dimensions else None for name, value in names)
            expected[key] += count
            sums[key] += total
        assert scene.cells("hour", number) == {key: (count, sums[key]) for key, count in expected.items()}


def test_late_event_makes_its_hour_due_again_and_no_other(scene: Scene) -> None:
    """What arrives on another day lies under that day: the rows of before stay as they are."""
    scene.write({NIKE: (2, 700)}, age_days=1)
    scene.write({PUMA: (1, 5)}, minute=MINUTE + 60, age_days=1)
    scene.roll()
    assert set(scene.whole().values()) == set(scene.whole("day").values()) == {True}
    scene.write({NIKE: (1, 1)}, minute=MINUTE + 7, bucket=9)
    assert [piece for piece, whole in scene.whole().items() if not whole] == [piece_of(scene)]
    assert scene.rollups.due_hours(scene.connection, scene.due()) == [piece_of(scene)]
    assert scene.cells("hour")["BUY", None, None, None] == (2, 700)
    scene.roll()
    assert scene.cells("hour")["BUY", None, None, None] == (3, 701)
    assert scene.cells("day") == scene.cells("hour")


def test_newer_version_of_a_block_under_another_day_touches_both(scene: Scene) -> None:
    """Its rows leave the day of before; an hour that kept them would count twice."""
    scene.write({NIKE: (2, 700)}, through=10, age_days=1)
    scene.roll()
    scene.write({NIKE: (3, 800)}, through=4095)
    assert not any(scene.whole().values())
    scene.roll()
    assert all(scene.whole().values())
    assert scene.cells("hour") == scene.cells("day") == {("BUY", None, None, None): (3, 800)}


def test_second_delivery_changes_nothing(scene: Scene) -> None:
    """A version that is not greater is left out, and touches no hour."""
    scene.write({NIKE: (2, 700)})
    scene.roll()
    scene.write({NIKE: (2, 700)})
    assert all(scene.whole().values())
    for _ in range(2):
        scene.rollups.roll_hour(scene.connection, piece_of(scene))
    assert scene.cells("hour") == {("BUY", None, None, None): (2, 700)}


def test_hour_is_left_alone_until_it_is_over_and_quiet(scene: Scene) -> None:
    """Rolling up what still grows would be work for nothing; but one that never falls silent is rolled up now and then."""
    present = scene.clock.at_ms // 60_000
    scene.write({NIKE: (2, 700)}, minute=present)
    assert scene.rollups.due_hours(scene.connection, scene.due()) == []
    scene.write({NIKE: (2, 700)})
    assert scene.rollups.due_hours(scene.connection, scene.due(quiet_s=1e9)) == [piece_of(scene)]  # it waits for hours
    scene.roll()
    scene.write({NIKE: (3, 800)}, bucket=1)
    assert scene.rollups.due_hours(scene.connection, scene.due(quiet_s=1e9)) == []  # rolled up a moment ago
    assert scene.rollups.due_hours(scene.connection, scene.due()) == [piece_of(scene)]


class Behind(threading.Thread):
    """Rolls an hour up on a connection of its own, and stops where a lock of the test stops it."""

    def __init__(self, scene: Scene, piece: Piece) -> None:
        super().__init__()
        self.rolled: list[bool] = []
        self._scene = scene
        self._piece = piece
        self.start()

    def run(self) -> None:
        with connect(self._scene.dsn) as own:
            self.rolled.append(self._scene.rollups.roll_hour(own, self._piece))


def waits_for_lock(scene: Scene) -> bool:
    statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    row = scene.connection.execute(statement).fetchone()
    return row is not None and row[0] > 0


def test_writer_that_commits_between_reading_the_version_and_the_minutes_leaves_the_hour_due(scene: Scene) -> None:
    """The minutes have its rows, the version does not: the hour must not pass for whole, though it happens to be right."""
    scene.write({NIKE: (2, 700)})
    with connect(scene.dsn) as other:
        with other.transaction():
            other.execute("LOCK TABLE tally.hour_cells IN EXCLUSIVE MODE")
            behind = Behind(scene, piece_of(scene))
            eventually(lambda: waits_for_lock(scene), what="who rolls up waits, its version read")
            scene.write({NIKE: (1, 50)}, bucket=1)
        behind.join()
    assert behind.rolled == [True]
    assert scene.cells("hour") == {("BUY", None, None, None): (3, 750)}
    assert scene.whole() == {piece_of(scene): False}
    scene.roll()
    assert scene.whole() == {piece_of(scene): True}


def test_writer_that_has_not_committed_is_not_seen_and_leaves_the_hour_due(scene: Scene) -> None:
    """It wrote before the hour was rolled up and commits after: whoever rolls up neither waits for it nor misses it."""
    scene.write({NIKE: (2, 700)})
    with connect(scene.dsn) as other:
        with other.transaction():
            scene.write({NIKE: (1, 50)}, bucket=1, connection=other)
            assert scene.rollups.roll_hour(scene.connection, piece_of(scene))
            assert scene.whole() == {piece_of(scene): True}
            assert scene.cells("hour") == {("BUY", None, None, None): (2, 700)}
        assert scene.whole() == {piece_of(scene): False}
    scene.roll()
    assert scene.cells("hour") == {("BUY", None, None, None): (3, 750)}


def test_writers_of_two_partitions_do_not_wait_for_each_other(scene: Scene) -> None:
    """Each has rows of its own to touch; one in the middle of a long transaction must not hold up the others."""
    with connect(scene.dsn) as other, other.transaction():
        scene.write({NIKE: (1, 50)}, partition=1, connection=other)
        scene.write({NIKE: (2, 700)}, partition=0)
    assert scene.whole() == {piece_of(scene): False}
    scene.roll()
    assert scene.cells("hour") == {("BUY", None, None, None): (3, 750)}


def test_one_at_a_time_rolls_up(scene: Scene) -> None:
    """A second process finds the lock taken and leaves it to the first, or both would insert their rows."""
    scene.write({NIKE: (2, 700)})
    with connect(scene.dsn) as other:
        with other.transaction():
            other.execute("SELECT pg_advisory_xact_lock(hashtext('tally.rollups'))")
            assert not scene.rollups.roll_hour(scene.connection, piece_of(scene))
        assert scene.rollups.roll_hour(scene.connection, piece_of(scene))


def test_day_waits_for_its_hours(scene: Scene) -> None:
    """It is made of hours, so one that is not whole would make it wrong."""
    scene.write({NIKE: (2, 700)}, age_days=1)
    scene.write({NIKE: (1, 50)}, minute=MINUTE + 60, age_days=1)
    day = Piece(piece_of(scene, age_days=1).stored_on, HOUR * 3600 // 86_400 * 86_400)
    scene.rollups.roll_hour(scene.connection, piece_of(scene, age_days=1))
    assert not scene.rollups.roll_day(scene.connection, day)
    assert scene.rollups.due_days(scene.connection, scene.due()) == []
    scene.roll()
    assert scene.whole("day") == {day: True}
    assert scene.cells("day") == {("BUY", None, None, None): (3, 750)}


def sweep(scene: Scene, *, after_days: int) -> None:
    scene.clock.at_ms += after_days * DAY_MS
    Retention(STREAMS, scene.settings, scene.clock).sweep(scene.connection)


def count_of(scene: Scene, table: str) -> int:
    row = scene.connection.execute(f"SELECT count(*) FROM tally.{table}").fetchone()
    assert row is not None
    return int(row[0])


def test_dropped_minutes_leave_hours_and_days_as_they_are(scene: Scene) -> None:
    """Nobody had rolled them up: the sweep does before it drops. Later each goes by its own term."""
    scene.write({NIKE: (2, 700), PUMA: (1, 5)})
    sweep(scene, after_days=5)
    assert (count_of(scene, "minute_cells"), count_of(scene, "hour_cells_touched")) == (0, 0)
    expected = {("BUY", None, None, None): (2, 700), ("VIEW", None, None, None): (1, 5)}
    assert scene.cells("hour") == scene.cells("day") == expected
    assert set(scene.whole().values()) == set(scene.whole("day").values()) == {True}
    scene.write({NIKE: (1, 1)}, bucket=5)
    scene.roll()
    assert scene.cells("hour") == scene.cells("day") == expected | {("BUY", None, None, None): (3, 701)}
    sweep(scene, after_days=6)
    assert scene.cells("hour") == {("BUY", None, None, None): (1, 1)}
    assert scene.cells("day") == expected | {("BUY", None, None, None): (3, 701)}
    sweep(scene, after_days=30)
    assert (count_of(scene, "hour_cells"), count_of(scene, "day_cells")) == (0, 0)


def test_block_of_an_open_bucket_outlives_its_day_and_counts_once(scene: Scene) -> None:
    """At few events a day a bucket is open for longer than minutes are kept; its end then replaces what it has sent before."""
    scene.write({NIKE: (2, 700)}, through=10)
    scene.write({PUMA: (1, 5)}, bucket=7, through=4095)
    sweep(scene, after_days=5)
    assert count_of(scene, "minute_cells") == 1
    scene.roll()
    assert scene.cells("hour") == {("BUY", None, None, None): (2, 700), ("VIEW", None, None, None): (1, 5)}
    scene.write({NIKE: (3, 800)}, through=4095)
    scene.roll()
    assert scene.cells("hour") == {("BUY", None, None, None): (3, 800), ("VIEW", None, None, None): (1, 5)}
    assert scene.cells("day") == scene.cells("hour")


def test_what_was_there_before_the_migration_is_rolled_up(fresh_database: str) -> None:
    """Hours that were written by an older version count as touched."""
    migrate(fresh_database, revision="2026_11_22_first_tables")
    with psycopg.connect(fresh_database) as connection:
        connection.execute("CREATE TABLE tally.old PARTITION OF tally.minute_cells DEFAULT")
        connection.execute(
            "INSERT INTO tally.minute_cells_blocks VALUES (2, 7, to_timestamp(%s), 9, %s)", (MINUTE * 60, date(2026, 3, 9))
        )
        connection.execute(
            "INSERT INTO tally.minute_cells VALUES (%s, 2, 7, to_timestamp(%s), 'BUY', 'o', 'b', 'c', 3, 4)",
            (date(2026, 3, 9), MINUTE * 60),
        )
    migrate(fresh_database)
    scene = Scene(fresh_database)
    scene.roll()
    assert scene.cells("hour") == scene.cells("day") == {("BUY", None, None, None): (3, 4)}
    scene.connection.close()
