"""Ask Postgres for the page: two connections, made when they are needed; every answer from one snapshot, read only.

When Postgres is away, what asks it is answered 503 and nothing else notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncCursor, errors, sql

from streams.errors import TallyError
from streams.statements import Statements

CONNECTIONS_MAX = 2
WAITING_MAX = 20
"""Questions that wait for one of them; past it they are refused."""
APPLICATION_NAME = "tally-dashboard"
CONNECT_TIMEOUT_S = 3
TCP_TIMEOUT_MS = 10_000
IDLE_TIMEOUT_MS = 30_000
GONE_CLASSES = ("08", "57")
STATEMENTS = Statements(Path(__file__).with_name("dashboard.sql"))


class PostgresUnavailableError(TallyError):
    """Postgres does not answer, or not in time; the message goes to whoever asked."""


class Snapshot:
    """One transaction: all that is asked through it is of one moment."""

    def __init__(self, cursor: AsyncCursor[Any]) -> None:
        self._cursor = cursor

    async def rows(self, statement: sql.Composed, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        await self._cursor.execute(statement, values)
        return await self._cursor.fetchall()


Question = Callable[[Snapshot], Awaitable[Any]]


class Reports:
    """Hands out snapshots of the database that `postgres.dsn` names."""

    def __init__(self, dsn: str, *, statement_timeout_s: float) -> None:
        self._dsn = dsn
        self._timeout_s = statement_timeout_s
        self._idle: list[AsyncConnection[Any]] = []
        self._turns = asyncio.Semaphore(CONNECTIONS_MAX)
        self._waiting = 0

    async def ask(self, question: Question) -> Any:
        """Return what *question* makes of a snapshot; it is asked once more when a kept connection turns out to be gone.

        Raises:
            PostgresUnavailableError: Postgres does not answer, answers too late, or refuses us.
        """
        if not self._dsn:
            raise PostgresUnavailableError("this worker knows no postgres: set TALLY_POSTGRES_DSN")
        if self._waiting >= WAITING_MAX:
            raise PostgresUnavailableError(f"{WAITING_MAX} questions wait for postgres already")
        self._waiting += 1
        try:
            async with self._turns:
                return await self._ask(question)
        except errors.QueryCanceled as error:
            hint = "a shorter range or fewer filters take less"
            raise PostgresUnavailableError(f"postgres did not answer within {self._timeout_s:g} s; {hint}") from error
        except psycopg.Error as error:
            raise PostgresUnavailableError(f"postgres does not answer ({type(error).__name__})") from error
        finally:
            self._waiting -= 1

    async def _ask(self, question: Question) -> Any:
        while self._idle:
            try:
                return await self._ask_on(self._idle.pop(), question)
            except psycopg.Error as error:
                if not is_gone(error):
                    raise
        return await self._ask_on(await self._connect(), question)

    async def _ask_on(self, connection: AsyncConnection[Any], question: Question) -> Any:
        kept = False
        try:
            async with connection.transaction(), connection.cursor() as cursor:
                answer = await question(Snapshot(cursor))
            self._idle.append(connection)
            kept = True
            return answer
        finally:
            if not kept:
                await connection.close()

    async def _connect(self) -> AsyncConnection[Any]:
        connection = await AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            application_name=APPLICATION_NAME,
            connect_timeout=CONNECT_TIMEOUT_S,
            client_encoding="UTF8",
            tcp_user_timeout=TCP_TIMEOUT_MS,
        )
        limits = {"statement_timeout_ms": int(self._timeout_s * 1000), "idle_timeout_ms": IDLE_TIMEOUT_MS}
        await connection.execute(STATEMENTS.query("set_session"), limits)
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await connection.set_read_only(True)
        return connection

    async def close(self) -> None:
        """Close the connections."""
        while self._idle:
            await self._idle.pop().close()


def is_gone(error: psycopg.Error) -> bool:
    """Say whether an error means that the connection is lost; a new one may do.

    >>> is_gone(errors.AdminShutdown()), is_gone(psycopg.OperationalError()), is_gone(errors.QueryCanceled())
    (True, True, False)
    """
    if isinstance(error, errors.QueryCanceled):
        return False
    return error.sqlstate is None or error.sqlstate[:2] in GONE_CLASSES
