"""Hold the one connection to Postgres, and say by SQLSTATE what an error asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

import psycopg
from psycopg import errors

from sinks.queries import query
from sinks.writers import Place

APPLICATION_NAME = "tally-sinks"
ROLLER_NAME = "tally-rollups"
CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_MS = 3_000
STATEMENT_TIMEOUT_MS = 120_000
IDLE_TIMEOUT_MS = 30_000
"""A writer that hangs inside a transaction keeps others out no longer than this."""
TCP_TIMEOUT_MS = 20_000
"""After how long a server that does not even acknowledge packets counts as gone."""


class Remedy(Enum):
    """What an error of Postgres asks for."""

    RETRY = "retry"
    """The world is at fault: wait and do the same again, for as long as it takes."""
    ISOLATE = "isolate"
    """A row is at fault: find it, put it aside, write the others."""
    STOP = "stop"
    """The schema or the rights are at fault: a human must look."""


ISOLATED_CLASSES = frozenset({"22", "23", "54"})
"""Data, constraints, and limits of a statement: nested too deep, too long for an index."""
STOPPING_CLASSES = frozenset({"0A", "3F", "42"})


def remedy_of(error: psycopg.Error) -> Remedy:
    """Return what to do about an error; one without a SQLSTATE is one of the connection.

    >>> remedy_of(errors.DeadlockDetected()), remedy_of(psycopg.OperationalError())
    (<Remedy.RETRY: 'retry'>, <Remedy.RETRY: 'retry'>)
    """
    state = class_of(error)
    if state in STOPPING_CLASSES:
        return Remedy.STOP
    if isinstance(error, errors.CheckViolation) and error.diag.constraint_name is None:
        return Remedy.RETRY  # There is no partition for the row's day any more: make it again.
    return Remedy.ISOLATE if state in ISOLATED_CLASSES else Remedy.RETRY


def class_of(error: psycopg.Error) -> str:
    """Return the class of the SQLSTATE, its first two characters; `none` where there is none."""
    return error.sqlstate[:2] if error.sqlstate else "none"


class Postgres:
    """One connection, made anew when it is gone. Not for several threads."""

    def __init__(self, dsn: str, *, name: str = APPLICATION_NAME) -> None:
        """Describe the connection; *name* is what Postgres shows of it."""
        self._dsn = dsn
        self._name = name
        self._connection: psycopg.Connection | None = None

    def connection(self) -> psycopg.Connection:
        """Return the connection, in autocommit: what belongs together stands in `connection.transaction()`.

        Raises:
            psycopg.OperationalError: Postgres does not answer or refuses the connection.
        """
        if self._connection is None or self._connection.closed or self._connection.broken:
            self.close()
            self._connection = connect(self._dsn, name=self._name)
        return self._connection

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def ping(self) -> None:
        """Ask for an answer.

        Raises:
            psycopg.Error: there is none.
        """
        self.connection().execute(query("ping"))

    def positions(self) -> dict[Place, int]:
        """Return the next offset to write of each partition that was ever read."""
        rows = self.connection().execute(query("read_positions")).fetchall()
        return {Place(topic, partition): next_offset for topic, partition, next_offset in rows}


def connect(dsn: str, *, name: str = APPLICATION_NAME) -> psycopg.Connection:
    """Return a new connection with limits on how long anything may wait."""
    connection = psycopg.connect(
        dsn,
        autocommit=True,
        application_name=name,
        connect_timeout=CONNECT_TIMEOUT_S,
        client_encoding="UTF8",
        tcp_user_timeout=TCP_TIMEOUT_MS,
    )
    limits = {
        "lock_timeout_ms": LOCK_TIMEOUT_MS,
        "statement_timeout_ms": STATEMENT_TIMEOUT_MS,
        "idle_timeout_ms": IDLE_TIMEOUT_MS,
    }
    connection.execute(query("set_session"), limits)
    return connection


def lock_positions(cursor: psycopg.Cursor, places: Iterable[Place]) -> dict[Place, int]:
    """Lock and return the next offsets of *places*, in one order for everybody; those never read before start at 0."""
    wanted = sorted(places)
    columns = _columns(wanted)
    found = _locked(cursor, columns)
    if len(found) < len(wanted):
        cursor.execute(query("add_positions"), columns)
        found = _locked(cursor, columns)
    return found


def move_positions(cursor: psycopg.Cursor, reached: Mapping[Place, int]) -> None:
    """Store the next offsets of locked places; none moves back."""
    places = sorted(reached)
    cursor.execute(query("move_positions"), _columns(places) | {"offsets": [reached[place] for place in places]})


def _locked(cursor: psycopg.Cursor, columns: dict[str, list[object]]) -> dict[Place, int]:
    cursor.execute(query("lock_positions"), columns)
    return {Place(topic, partition): next_offset for topic, partition, next_offset in cursor.fetchall()}


def _columns(places: Iterable[Place]) -> dict[str, list[object]]:
    topics, partitions = zip(*places, strict=True)
    return {"topics": list(topics), "partitions": list(partitions)}
