"""Bring the schema of Postgres up to date, by Alembic; say whether it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg import sql
from sqlalchemy.exc import SQLAlchemyError

from streams.errors import TallyError

SCHEMA = "tally"
VERSION_TABLE = "schema_version"
MIGRATIONS = Path(__file__).with_name("migrations")
LOCK_NAME = "tally.migrations"
OTHER_MIGRATOR_TIMEOUT_S = 60
"""How long another migrator may take before we give up."""
LOCK_TIMEOUT_S = 2
"""A migration waits no longer for a table: everybody behind it waits as long."""
CONNECT_TIMEOUT_S = 5


class MigrationError(TallyError):
    """The schema cannot be brought up to date, or is not that of this code."""


def head() -> str:
    """Return the revision that this code was made for."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def revision_of(connection: psycopg.Connection) -> str | None:
    """Return the revision of a database; None before the first migration."""
    name = f"{SCHEMA}.{VERSION_TABLE}"
    found = connection.execute("SELECT to_regclass(%s)", (name,)).fetchone()
    if found is None or found[0] is None:
        return None
    row = connection.execute(sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(SCHEMA, VERSION_TABLE))).fetchone()
    return str(row[0]) if row else None


def check_revision(connection: psycopg.Connection) -> None:
    """Return when the schema is that of this code.

    Raises:
        MigrationError: it is another.
    """
    found, wanted = revision_of(connection), head()
    if found is None:
        raise MigrationError("postgres has no schema of ours yet; run `python -m sinks migrate`")
    if found != wanted:
        raise MigrationError(f"postgres has schema {found!r}, this code needs {wanted!r}; run `python -m sinks migrate`")


def migrate(dsn: str, *, revision: str = "head", who: str = "") -> str:
    """Bring the schema to *revision*, forth or back, and return one line that says what was done; a second call does nothing.

    Each migration is a transaction, which also notes that *who* did it (streams/audit.py). Two migrators take turns.

    Raises:
        MigrationError: with one line.
    """
    try:
        with _migrator(dsn) as connection:
            before = revision_of(connection)
            _to(dsn, connection, revision, who=who)
            after = revision_of(connection)
    except psycopg.errors.LockNotAvailable as error:
        raise MigrationError("another migrator, or a long query, holds a lock that we need; try again") from error
    except (psycopg.Error, SQLAlchemyError, CommandError) as error:
        cause = getattr(error, "orig", None) or error
        raise MigrationError(f"could not migrate: {str(cause).splitlines()[0]}") from error
    return f"postgres is at schema {after or 'none'}" + ("" if before == after else f", it was at {before or 'none'}")


@contextmanager
def _migrator(dsn: str) -> Iterator[psycopg.Connection]:
    """Hold the lock of migrators for as long as the connection lives."""
    with psycopg.connect(
        dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, application_name="tally-migrate"
    ) as connection:
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{OTHER_MIGRATOR_TIMEOUT_S}s",))
        connection.execute("SELECT pg_advisory_lock(hashtext(%s))", (LOCK_NAME,))
        yield connection


def _to(dsn: str, lock: psycopg.Connection, revision: str, *, who: str) -> None:
    lock.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA)))
    options = f"-c lock_timeout={LOCK_TIMEOUT_S}s"
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S, options=options),
        poolclass=sqlalchemy.pool.NullPool,
    )
    config = _config()
    with engine.connect() as connection:
        config.attributes.update(connection=connection, who=who)
        if revision in ("base", *_before(config, revision_of(lock))) or revision.startswith("-"):
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)
    engine.dispose()


def _before(config: Config, revision: str | None) -> set[str]:
    """Return the revisions that lead to one: Alembic takes the way to one of them for done."""
    if revision is None:
        return set()
    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions("base", revision)} - {revision}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes.update(schema=SCHEMA, version_table=VERSION_TABLE)
    return config
