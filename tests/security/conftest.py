"""One job for all tests of this folder: two workers with a token, a gateway, the sinks, and secrets that must show nowhere."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from sinks.migrate import migrate
from stack.postgres import LocalPostgres
from tests.support.eventually import eventually
from tests.support.gateway_process import Gateway, running_gateway
from tests.support.job import Door, own_kafka
from tests.support.sinks_process import SinksProcess
from tests.support.worker import WorkerProcess

BODY_BYTES_MAX = 65_536


@dataclass
class Job:
    """What runs.

    Attributes:
        token, password: secrets of the settings.
    """

    servers: str
    dsn: str
    workers: list[WorkerProcess]
    gateway: Gateway
    sinks: SinksProcess
    door: Door
    token: str
    password: str

    @property
    def logs(self) -> dict[str, str]:
        """What each process has logged so far."""
        logs = {f"worker {worker.index}": worker.log() for worker in self.workers}
        return logs | {"gateway": self.gateway.read_log(), "sinks": self.sinks.log.read_text()}


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory, postgres: LocalPostgres) -> Iterator[Job]:
    """The job; tests use cookies and minutes of their own."""
    home = tmp_path_factory.mktemp("security")
    token, password = secrets.token_hex(24), secrets.token_hex(24)
    with own_kafka(home / "kafka") as servers, own_database(postgres, password) as dsn:
        workers = [
            WorkerProcess(servers, home / "workers", index=index, settings={"TALLY_WEB_TOKEN": token}) for index in range(2)
        ]
        for worker in workers:
            worker.start()
        sinks = SinksProcess(servers, dsn, home / "sinks.log").start()
        settings = {
            "gateway_workers": ",".join(worker.url for worker in workers),
            "gateway_body_bytes_max": str(BODY_BYTES_MAX),
            "gateway_acknowledge_timeout_s": "10",
            "web_token": token,
        }
        try:
            with running_gateway(servers, **settings) as gateway, closing(Door(gateway.port)) as door:
                eventually(lambda: door.ask("GET", "/health").status == 200, within_s=90, what="the gateway ready")
                eventually(lambda: sinks.get("/ready")[0] == 200, within_s=90, what="the sinks ready")
                yield Job(servers, dsn, workers, gateway, sinks, door, token, password)
        finally:
            sinks.stop()
            for worker in workers:
                worker.kill()


class own_database:  # noqa: N801 - used as a function
    """A database of this folder's own, with a role whose password is a secret that is looked for."""

    def __init__(self, postgres: LocalPostgres, password: str) -> None:
        self._admin = postgres.dsn_of("postgres")
        self._name = f"security_{uuid.uuid4().hex}"
        self._password = password
        self._port = postgres.port

    def __enter__(self) -> str:
        with psycopg.connect(self._admin, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {self._name} LOGIN SUPERUSER PASSWORD '{self._password}'")
            connection.execute(f"CREATE DATABASE {self._name} OWNER {self._name}")
        dsn = f"postgresql://{self._name}:{self._password}@127.0.0.1:{self._port}/{self._name}"
        migrate(dsn)
        return dsn

    def __exit__(self, *error: object) -> None:
        with psycopg.connect(self._admin, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {self._name} WITH (FORCE)")
            connection.execute(f"DROP ROLE {self._name}")


@pytest.fixture
def log_folder(tmp_path: Path) -> Path:
    """Where a process of the test's own logs."""
    return tmp_path
