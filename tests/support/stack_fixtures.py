"""Fixtures: one throw-away Kafka and Postgres for the whole test session, on free ports, beside a running job."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest

with warnings.catch_warnings():
    # kafka-python reads its own schemas by a deprecated call, once, while it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka as kafka_python  # noqa: F401

from stack.errors import StackError
from stack.kafka import LocalKafka
from stack.postgres import LocalPostgres
from stack.service import LocalService

REQUIRE_VARIABLE = "REQUIRE_SERVICES"


@pytest.fixture(scope="session")
def stack_home() -> Iterator[Path]:
    """A folder for the services' data; removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="tally-test-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka(stack_home: Path) -> Iterator[LocalKafka]:
    """A running Kafka with `kill`, `stop` and `start` for fault tests, which leave it running."""
    service = LocalKafka(stack_home / "kafka")
    yield from running(service)


@pytest.fixture(scope="session")
def postgres(stack_home: Path) -> Iterator[LocalPostgres]:
    """A running Postgres with `kill`, `stop` and `start` for fault tests, which leave it running."""
    service = LocalPostgres(stack_home / "postgres")
    yield from running(service)


@pytest.fixture(scope="session")
def kafka_servers(kafka: LocalKafka) -> str:
    """Bootstrap servers of the session's Kafka; topics are the test's own to create, under names of its own."""
    return kafka.servers


@pytest.fixture(scope="session")
def postgres_dsn(postgres: LocalPostgres) -> str:
    """URL of the session's Postgres, database `tally`, which all tests share; see `fresh_database`."""
    return postgres.dsn


@pytest.fixture
def fresh_database(postgres: LocalPostgres) -> Iterator[str]:
    """URL of an empty database of this test alone; dropped at the end, with whoever is still connected."""
    name = f"test_{uuid.uuid4().hex}"
    admin_dsn = postgres.dsn_of("postgres")
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres.dsn_of(name)
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


ServiceT = TypeVar("ServiceT", bound=LocalService)


def running(service: ServiceT) -> Iterator[ServiceT]:
    """Run *service*; one that cannot start skips the test, or fails it where services are required."""
    try:
        service.start()
    except StackError as error:
        service.remove()
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail(f"{service.name} is required and does not start: {error}")
        pytest.skip(f"NO {service.name.upper()}: {error}")
    try:
        yield service
    finally:
        service.stop()
        service.remove()
