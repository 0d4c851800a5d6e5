"""No command changes data without a row in Postgres, and no row of it is changed or removed, by whomever."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sinks.migrate import head, migrate
from streams import audit
from streams.audit import DETAIL_BYTES_MAX, Action, AuditError, audited, os_user
from streams.errors import SettingsError, TallyError
from streams.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
CHANGES = (
    "UPDATE tally.audit SET who = 'nobody'",
    "UPDATE tally.audit SET who = 'nobody' WHERE false",
    "DELETE FROM tally.audit",
    "TRUNCATE tally.audit",
    "TRUNCATE tally.audit CASCADE",
    "MERGE INTO tally.audit USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
    "INSERT INTO tally.audit SELECT * FROM tally.audit LIMIT 1 ON CONFLICT (id) DO UPDATE SET who = 'nobody'",
)
APPLICATION = "audit_of_an_application"
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
def settings(fresh_database: str) -> Settings:
    """Of a command, on a database with the schema."""
    migrate(fresh_database)
    return load_settings({"TALLY_POSTGRES_DSN": fresh_database, "TALLY_AUDIT_WHO": "anna"})


def rows_of(settings: Settings, action: Action) -> list[tuple[Any, ...]]:
    """Return stage, who, the user of the system, what was done and which beginning, in order."""
    statement = "SELECT stage, who, os_user, detail, begun_id FROM tally.audit WHERE action = %s ORDER BY recorded_at"
    with psycopg.connect(settings.postgres.dsn) as connection:
        return connection.execute(statement, (action,)).fetchall()


def test_an_action_leaves_a_row_before_it_and_one_behind_it(settings: Settings) -> None:
    """Whoever looks while it runs sees that it runs, and since when, and by whom."""
    with audited(settings, Action.ERASE, {"users": 2}) as found:
        assert [row[:4] for row in rows_of(settings, Action.ERASE)] == [("begun", "anna", os_user(), {"users": 2})]
        found["rows"] = 7
    begun, done = rows_of(settings, Action.ERASE)
    assert done[:4] == ("done", "anna", os_user(), {"rows": 7})
    assert begun[4] is None and done[4] is not None


def test_who_is_the_user_of_the_system_unless_it_is_said(settings: Settings) -> None:
    """By the number of the process, not by a variable that anybody may set; a container's user has no name."""
    nameless = settings.model_copy(update={"audit": Settings().audit})
    with audited(nameless, Action.REPLAY, {}):
        pass
    assert {row[1] for row in rows_of(settings, Action.REPLAY)} == {pwd.getpwuid(os.getuid()).pw_name}


@pytest.mark.parametrize("error", [TallyError("canary"), RuntimeError("canary"), KeyboardInterrupt()])
def test_what_failed_says_so_without_what_it_was_about(settings: Settings, error: BaseException) -> None:
    """A message may name a user; its class does not."""
    with pytest.raises(type(error)), audited(settings, Action.ERASE, {}) as found:
        found["rows"] = 3
        raise error
    _, failed = rows_of(settings, Action.ERASE)
    assert (failed[0], failed[3]) == ("failed", {"rows": 3, "error": type(error).__name__})


@pytest.mark.parametrize("dsn", [NOWHERE, "", "none"])
def test_nothing_is_done_where_its_row_cannot_be_written(fresh_database: str, dsn: str) -> None:
    """Postgres away, none named, or one without the table: the body is not entered."""
    settings = Settings().model_copy(update={"postgres": Settings().postgres.model_copy(update={"dsn": dsn})})
    if dsn == "none":
        settings = load_settings({"TALLY_POSTGRES_DSN": fresh_database})
    with pytest.raises((AuditError, SettingsError)) as refusal, audited(settings, Action.ERASE, {}):
        pytest.fail("it was done")
    assert len(str(refusal.value).splitlines()) == 1


def test_what_is_noted_has_a_limit(settings: Settings) -> None:
    """A list of a million users is to be erased in parts, each with its row."""
    largest = {"users": "x" * (DETAIL_BYTES_MAX - len('{"users":""}'))}
    with audited(settings, Action.ERASE, largest):
        pass
    with pytest.raises(SettingsError, match="in parts"), audited(settings, Action.ERASE, {"users": largest["users"] + "x"}):
        pytest.fail("it was done")


def test_an_end_that_cannot_be_noted_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """All was done, and the row of the beginning stands alone: as after a kill."""
    usual = audit.add_row

    def refuse_ends(connection: psycopg.Connection, row: audit.Row) -> Any:
        if row.begun is not None:
            raise psycopg.OperationalError("canary")
        return usual(connection, row)

    monkeypatch.setattr(audit, "add_row", refuse_ends)
    with pytest.raises(AuditError, match="all was done"), audited(settings, Action.ERASE, {}):
        pass
    assert [row[0] for row in rows_of(settings, Action.ERASE)] == ["begun"]


@pytest.fixture
def application(settings: Settings) -> Iterator[str]:
    """A role that may do everything to the table but own it."""
    with psycopg.connect(settings.postgres.dsn, autocommit=True) as connection:
        connection.execute(f"DROP ROLE IF EXISTS {APPLICATION}")
        connection.execute(f"CREATE ROLE {APPLICATION}")
        connection.execute(f"GRANT USAGE ON SCHEMA tally TO {APPLICATION}")
        connection.execute(f"GRANT ALL ON tally.audit TO {APPLICATION}")
        yield APPLICATION
        connection.execute(f"DROP OWNED BY {APPLICATION}")
        connection.execute(f"DROP ROLE {APPLICATION}")


@pytest.mark.parametrize("how", ["the owner", "an application", "a replica"])
@pytest.mark.parametrize("change", CHANGES)
def test_no_row_is_changed_or_removed_by_anybody(settings: Settings, application: str, change: str, how: str) -> None:
    """Also by who owns the table, is superuser, and says that triggers are for others; an application may only add."""
    before = rows_of(settings, Action.MIGRATE)
    assert before
    first = {"an application": f"SET ROLE {application}", "a replica": "SET session_replication_role = replica"}
    with psycopg.connect(settings.postgres.dsn, autocommit=True) as connection:
        connection.execute(first.get(how, "SELECT 1"))
        connection.execute("INSERT INTO tally.audit (action, stage, who, os_user, detail) VALUES ('x', 'done', '', '', '{}')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="never changed or removed"):
            connection.execute(change)
    assert rows_of(settings, Action.MIGRATE) == before


def test_a_migration_leaves_its_row_in_its_own_transaction(settings: Settings) -> None:
    """Who changed the schema, from what to what; a migration that is rolled back leaves none."""
    rows = rows_of(settings, Action.MIGRATE)
    assert rows and {row[:2] for row in rows} == {("done", os_user())}
    assert all(before[3]["to"] == after[3]["from"] for before, after in pairwise(rows))
    assert rows[-1][3]["to"] == [head()] and rows[0][3]["from"]


@pytest.mark.parametrize("command", [("agents.erase", "--user", "x", "--yes"), ("agents.replay", "send", "--all")])
@pytest.mark.parametrize("dsn", [NOWHERE, ""])
def test_commands_do_nothing_without_their_row(kafka_servers: str, command: tuple[str, ...], dsn: str) -> None:
    """They ask Postgres first: no worker runs here that could be asked, and no topic exists that could be written."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
    environ |= {"TALLY_KAFKA_SERVERS": kafka_servers, "TALLY_POSTGRES_DSN": dsn, "TALLY_GATEWAY_WORKERS": "http://127.0.0.1:1"}
    ended = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    (line,) = ended.stderr.splitlines()
    assert ended.returncode in (1, 2) and ("nothing was done" in line or "postgres.dsn is empty" in line)
