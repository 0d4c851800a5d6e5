"""Keep who changed what by a command: rows of `tally.audit` in Postgres, which nobody can change or remove.

Before an action its row `begun` is committed, or the action does not begin; a second row says how it ended. A beginning without
an end was killed, or Postgres was gone by then: what it changed may be done, in part or as a whole.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg

from streams.errors import SettingsError, TallyError
from streams.settings import Settings
from streams.statements import Statements

CONNECT_TIMEOUT_S = 5
DETAIL_BYTES_MAX = 1_048_576
"""Some 29,000 erased users; who erases more does it in parts."""
STATEMENTS = Statements(Path(__file__).with_name("audit.sql"))
Detail = Mapping[str, Any]


class Action(StrEnum):
    """What leaves rows; a closed set, each documented in docs/security.md."""

    ERASE = "erase"
    """Users are erased."""
    REPLAY = "replay"
    """Dead letters are sent back."""
    MIGRATE = "migrate"
    """The schema of Postgres becomes another."""


class Stage(StrEnum):
    """Which row of an action it is."""

    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"


class AuditError(TallyError):
    """Postgres does not take a row."""


class Row(NamedTuple):
    """One row.

    Attributes:
        detail: what is done, and to how much; no payload, and nobody but as a digest.
        who: the name that was given; empty: the user of the operating system.
        begun: the row of the beginning.
    """

    action: Action
    stage: Stage
    detail: Detail
    who: str = ""
    begun: UUID | None = None


@contextmanager
def audited(settings: Settings, action: Action, detail: Detail) -> Iterator[dict[str, Any]]:
    """Write that an action begins, have it done, write how it ended, with what the body puts into the yielded dict.

    A second call is another action, with rows of its own.

    Args:
        settings: where Postgres is, and `audit.who`.
        action: what is done.
        detail: as of `Row`; of JSON, at most `DETAIL_BYTES_MAX`.

    Raises:
        SettingsError: no Postgres is named, or the detail is too large; nothing was done.
        AuditError: Postgres did not take the beginning: nothing was done; or not the end, and it says so.
    """
    begun = _commit(settings, Row(action, Stage.BEGUN, detail, settings.audit.who), "nothing was done")
    found: dict[str, Any] = {}
    try:
        yield found
    except BaseException as error:
        ended = Row(action, Stage.FAILED, found | {"error": type(error).__name__}, settings.audit.who, begun)
        with suppress(AuditError):  # What went wrong first is what is told.
            _commit(settings, ended, "")
        raise
    _commit(settings, Row(action, Stage.DONE, found, settings.audit.who, begun), "all was done, and only its end is not noted")


def add_row(connection: psycopg.Connection, row: Row) -> UUID:
    """Add a row in the transaction of *connection*, for what changes Postgres alone, and return its id.

    Raises:
        SettingsError: the detail is too large.
        psycopg.Error: as Postgres raised it.
    """
    detail = msgspec.json.encode(row.detail)
    if len(detail) > DETAIL_BYTES_MAX:
        raise SettingsError(f"what is to be noted has {len(detail)} bytes, more than {DETAIL_BYTES_MAX}: do it in parts")
    values = {
        "action": row.action,
        "stage": row.stage,
        "begun": row.begun,
        "who": row.who or os_user(),
        "os_user": os_user(),
        "detail": detail.decode(),
    }
    added = connection.execute(STATEMENTS.query("add_row"), values).fetchone()
    assert added is not None
    return UUID(str(added[0]))


def is_kept(connection: psycopg.Connection) -> bool:
    """Say whether the database has the table; one of an earlier schema has not."""
    found = connection.execute(STATEMENTS.query("find_table")).fetchone()
    return found is not None and found[0] is not None


def os_user() -> str:
    """Return the name of the user of the operating system; its number where it has no name, as in a container."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _commit(settings: Settings, row: Row, so: str) -> UUID:
    """Add a row on a connection of its own: the action may take hours."""
    dsn = settings.postgres.dsn
    if not dsn:
        raise SettingsError(f"postgres.dsn is empty: {row.action} is noted there; set TALLY_POSTGRES_DSN (see stack.env)")
    try:
        with psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S, application_name="tally-audit") as connection:
            return add_row(connection, row)
    except psycopg.errors.UndefinedTable as error:
        raise AuditError(f"postgres has no table tally.audit; run `python -m sinks migrate`; {so}") from error
    except psycopg.Error as error:
        raise AuditError(f"postgres does not note {row.action} {row.stage}: {str(error).splitlines()[0]}; {so}") from error
