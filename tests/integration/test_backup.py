"""Backup and restore of Postgres: a dump taken in midstream, put into an empty database, and the sinks go on exactly."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from stack.postgres import LocalPostgres, find_binaries
from tests.support.sinks_process import (
    PARTITIONS,
    Changelogs,
    StartSinks,
    Traffic,
    applied,
    expected_rows,
    merged,
    stored_rows,
    stored_totals,
    until,
)

DUMP_TIMEOUT_S = 60
EVENTS = 21_000
ALL = [Traffic(partition, EVENTS, seed=22) for partition in range(PARTITIONS)]


@pytest.fixture
def empty_dsn(postgres: LocalPostgres) -> Iterator[str]:
    """URL of a second, empty database; dropped at the end."""
    name = f"restored_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.dsn_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres.dsn_of(name)
    with psycopg.connect(postgres.dsn_of("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def run(program: str, *words: str) -> None:
    """Run a program of Postgres, of the same version as the server."""
    path = find_binaries(program) / program
    answer = subprocess.run(
        [path, *words], capture_output=True, text=True, timeout=DUMP_TIMEOUT_S, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    assert answer.returncode == 0, answer.stderr


def test_restored_database_goes_on_exactly(
    start_sinks: StartSinks, changelogs: Changelogs, sinks_dsn: str, empty_dsn: str, tmp_path: Path
) -> None:
    """production.md: rows and `sink_offsets` are of one snapshot, so what the dump lacks is read again, and nothing twice."""
    sinks = start_sinks()
    changelogs.send_all(ALL)
    until(lambda: len(applied(sinks_dsn)) > 0, "something applied")
    dump = tmp_path / "tally.dump"
    run("pg_dump", "--format=custom", f"--file={dump}", "--dbname", sinks_dsn)
    until(lambda: changelogs.are_in(sinks_dsn), "applied")
    assert sinks.terminate() == 0
    run("pg_restore", "--exit-on-error", "--no-owner", "--dbname", empty_dsn, str(dump))
    restored = applied(empty_dsn)
    assert restored
    start_sinks(TALLY_POSTGRES_DSN=empty_dsn)
    until(lambda: changelogs.are_in(empty_dsn), "applied after the restore")
    assert stored_totals(empty_dsn) == stored_totals(sinks_dsn) == merged(ALL)
    assert list(stored_rows(empty_dsn)) == list(expected_rows(ALL))
