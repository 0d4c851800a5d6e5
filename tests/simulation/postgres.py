"""Play Postgres for the product's sinks: its tables are dicts, its transactions are undone, its locks are refused.

The statements of `sinks/queries.sql` are known by their last words; what each does to the tables is played here. Every
statement is a place where other processes run, where the connection may break, and where the process may be killed. At a
commit the connection may break after Postgres has committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors

from sinks.copy_text import render_minute
from sinks.queries import query, table_name
from sinks.writers import Place
from tests.simulation.events import BASE_MS, MINUTES

NAMES = (
    "read_positions", "lock_positions", "add_positions", "move_positions", "stored_versions", "delete_cells", "save_versions",
    "delete_events", "touch_hours",
)  # fmt: skip
MINUTE_OF = {render_minute(BASE_MS // 60_000 + number): BASE_MS // 60_000 + number for number in range(MINUTES)}
Block = tuple[int, int, int]
"""Partition, bucket, minute."""


def _end_of(statement: Any) -> str:
    return str(list(statement)[-1].as_string(None))


def _statements() -> dict[str, str]:
    names = {name: table_name(name) for name in ("blocks", "cells", "events", "touched")}
    return {_end_of(query(name, **names)): name for name in NAMES}


STATEMENTS = _statements()


class Tables:
    """What Postgres holds, and who has locked what.

    Attributes:
        positions: `sink_offsets`.
        versions: `through` and day of each block.
        cells: rows of each block: dimensions, count, sum.
        events: rows by (partition, offset).
        locks: the session that holds a place.
        report: called with what must never happen.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self.positions: dict[Place, int] = {}
        self.versions: dict[Block, tuple[int, Any]] = {}
        self.cells: dict[Block, list[tuple[str, ...]]] = {}
        self.events: dict[tuple[int, int], tuple[str, ...]] = {}
        self.locks: dict[Place, Session] = {}
        self.report = report


class Session:
    """One connection: the part of psycopg's that the sinks use, cursor and transaction included.

    Args:
        interrupt: called at every statement with its name; may raise what breaks the connection or kills the process.
    """

    def __init__(self, tables: Tables, interrupt: Callable[[str], None]) -> None:
        self.tables = tables
        self.closed = False
        self.broken = False
        self.rowcount = 0
        self.locked_out = False
        self._interrupt = interrupt
        self._undo: list[Callable[[], None]] = []
        self._answer: list[tuple[Any, ...]] = []

    # -- transactions

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._before: dict[Any, tuple[int, int]] = {}
        self._positions_before: dict[Place, int] = {}
        try:
            yield
            self._interrupt("commit")
        except BaseException:
            self.roll_back()
            raise
        self._check()
        self._undo.clear()
        self._unlock()
        self._interrupt("committed")

    def roll_back(self) -> None:
        """Undo what the open transaction did."""
        while self._undo:
            self._undo.pop()()
        self._unlock()

    def _unlock(self) -> None:
        for place in [place for place, holder in self.tables.locks.items() if holder is self]:
            del self.tables.locks[place]

    def _check(self) -> None:
        """Compare what is committed with what was there: no position, no version and no count may fall."""
        for block, (through, count) in self._before.items():
            now = self.tables.versions[block][0], _count_of(self.tables.cells.get(block, ()))
            if now[0] < through or now[1] < count:
                self.tables.report(f"postgres: block {block} fell from through {through}, {count} events, to {now}")
        for place, position in self._positions_before.items():
            if self.tables.positions[place] < position:
                self.tables.report(f"postgres: the offset of {place} fell from {position} to {self.tables.positions[place]}")

    @contextmanager
    def cursor(self) -> Iterator[Session]:
        yield self

    # -- statements

    def execute(self, statement: Any, values: dict[str, Any] | None = None) -> Session:
        name = STATEMENTS[_end_of(statement)]
        self._interrupt(name)
        getattr(self, f"_{name}")(values or {})
        return self

    def executemany(self, statement: Any, many: list[dict[str, Any]]) -> None:
        for values in many:
            self.execute(statement, values)

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._answer

    @contextmanager
    def copy(self, statement: Any) -> Iterator[Session]:
        self._interrupt("copy")
        yield self

    def write(self, text: str) -> None:
        """Take rows of either table: those of cells name a minute where those of events name an offset."""
        for line in text.splitlines():
            _, partition, *columns = line.split("\t")
            minute = MINUTE_OF.get(columns[1])
            if minute is not None:
                self._insert_cell((int(partition), int(columns[0]), minute), tuple(columns[2:]))
            else:
                self._insert_event((int(partition), int(columns[0])), tuple(columns[1:]))

    # -- what they do

    def _read_positions(self, values: dict[str, Any]) -> None:
        self._answer = [(*place, offset) for place, offset in self.tables.positions.items()]

    def _lock_positions(self, values: dict[str, Any]) -> None:
        """Lock rows; where somebody else holds one, answer as after the lock timeout."""
        places = [Place(*place) for place in zip(values["topics"], values["partitions"], strict=True)]
        for place in places:
            if self.tables.locks.setdefault(place, self) is not self:
                self.locked_out = True
                raise errors.LockNotAvailable("canceling statement due to lock timeout")
        found = [place for place in places if place in self.tables.positions]
        self._answer = [(*place, self.tables.positions[place]) for place in found]

    def _add_positions(self, values: dict[str, Any]) -> None:
        for place in zip(values["topics"], values["partitions"], strict=True):
            if Place(*place) not in self.tables.positions:
                self._put(self.tables.positions, Place(*place), 0)

    def _move_positions(self, values: dict[str, Any]) -> None:
        for topic, partition, offset in zip(values["topics"], values["partitions"], values["offsets"], strict=True):
            place = Place(topic, partition)
            self._positions_before.setdefault(place, self.tables.positions[place])
            self._put(self.tables.positions, place, self._moved(self.tables.positions[place], offset))

    @staticmethod
    def _moved(position: int, offset: int) -> int:
        """Return what `greatest` of the statement says."""
        return max(position, offset)

    def _stored_versions(self, values: dict[str, Any]) -> None:
        blocks = zip(values["partitions"], values["buckets"], values["minutes"], strict=True)
        known = [(number, self.tables.versions.get(block)) for number, block in enumerate(blocks, 1)]
        self._answer = [(number, *version) for number, version in known if version is not None]

    def _delete_cells(self, values: dict[str, Any]) -> None:
        block = values["partition"], values["bucket"], values["minute"]
        self._remember(block)
        self._put(self.tables.cells, block, None)

    def _save_versions(self, values: dict[str, Any]) -> None:
        columns = ("partitions", "buckets", "minutes", "throughs", "days")
        for partition, bucket, minute, through, day in zip(*(values[name] for name in columns), strict=True):
            block = partition, bucket, minute
            if self.tables.versions.get(block, (-1,))[0] < through:
                self._put(self.tables.versions, block, (through, day))

    def _touch_hours(self, values: dict[str, Any]) -> None:
        """Do nothing but be a place where others run: nobody rolls up here."""

    def _delete_events(self, values: dict[str, Any]) -> None:
        for offset in range(values["first"], values["last"] + 1):
            self._put(self.tables.events, (values["partition"], offset), None)

    def _insert_cell(self, block: Block, row: tuple[str, ...]) -> None:
        self._remember(block)
        self._put(self.tables.cells, block, [*self.tables.cells.get(block, ()), row])

    def _insert_event(self, place: tuple[int, int], row: tuple[str, ...]) -> None:
        if place in self.tables.events:
            self.tables.report(f"postgres: two rows of event {place}")
        self._put(self.tables.events, place, row)

    def _remember(self, block: Block) -> None:
        if block not in self._before:
            through = self.tables.versions.get(block, (-1,))[0]
            self._before[block] = through, _count_of(self.tables.cells.get(block, ()))

    def _put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        old = table.get(key)
        self._undo.append(lambda: _set(table, key, old))
        _set(table, key, value)


def _set(table: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _count_of(rows: Any) -> int:
    return sum(int(row[-2]) for row in rows)


class Server:
    """The product's `sinks.postgres.Postgres`, connecting to dicts."""

    def __init__(self, tables: Tables, interrupt: Callable[[str], None]) -> None:
        self._tables = tables
        self._interrupt = interrupt
        self._session: Session | None = None

    @property
    def locked_out(self) -> bool:
        """Whether somebody else held a lock when it was last asked for."""
        return self._session is not None and self._session.locked_out

    @locked_out.setter
    def locked_out(self, value: bool) -> None:
        if self._session is not None:
            self._session.locked_out = value

    def connection(self) -> Session:
        if self._session is None or self._session.closed:
            self._session = Session(self._tables, self._interrupt)
        return self._session

    def positions(self) -> dict[Place, int]:
        rows = self.connection().execute(query("read_positions")).fetchall()
        return {Place(topic, partition): offset for topic, partition, offset in rows}

    def lose_connection(self) -> psycopg.OperationalError:
        """Break the connection; return what the statement under way raises."""
        if self._session is not None:
            self._session.closed = True
        return errors.AdminShutdown("terminating connection")
