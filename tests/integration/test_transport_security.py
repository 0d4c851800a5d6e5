"""Kafka behind TLS and SASL, Postgres behind TLS: every process goes through, and nobody is trusted for nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest

from stack.postgres import LocalPostgres
from tests.support.certificates import Certificates, make_certificates
from tests.support.eventually import eventually
from tests.support.gateway_process import Gateway
from tests.support.job import Door
from tests.support.secure_services import PASSWORD, USER, SecureKafka, SecurePostgres, postgres_with_tls
from tests.support.sinks_process import SinksProcess
from tests.support.tags import START_TEXT, some_tags
from tests.support.worker import WorkerProcess

ROOT = Path(__file__).parents[2]
EVENTS = 300
MINUTES = 10
CAUGHT_UP_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A folder that Postgres may read under another user too."""
    folder = Path(tempfile.mkdtemp(prefix="tally-tls-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def certificates(home: Path) -> Certificates:
    return make_certificates(home / "certificates")


@pytest.fixture(scope="module")
def kafka(home: Path, certificates: Certificates) -> Iterator[SecureKafka]:
    """A broker whose plain listener is used by the test alone, to make the user."""
    service = SecureKafka(home / "kafka", certificates)
    service.start()
    service.add_user()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def by_password(kafka: SecureKafka, certificates: Certificates, home: Path) -> dict[str, str]:
    """Settings of a process that has a name, and its password in a file."""
    secret = home / "kafka-password"
    secret.write_text(PASSWORD)
    return {
        "TALLY_KAFKA_SERVERS": kafka.servers_of("SECURE"),
        "TALLY_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "TALLY_KAFKA_CA_FILE": str(certificates.authority),
        "TALLY_KAFKA_SASL_USERNAME": USER,
        "TALLY_KAFKA_SASL_PASSWORD_FILE": str(secret),
    }


def run(settings: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the product until it ends."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")} | {
        "TALLY_STACK_READY_TIMEOUT_S": "2",
        **settings,
    }
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_whole_job_goes_through_tls_and_a_password(
    by_password: dict[str, str], home: Path, postgres: LocalPostgres, fresh_database: str
) -> None:
    """security.md: topics, gateway, worker, sinks and the reading tools, none of which has another way to Kafka."""
    prepared = run({**by_password, "TALLY_POSTGRES_DSN": fresh_database}, "stack", "prepare")
    assert prepared.returncode == 0, prepared.stderr
    servers = by_password["TALLY_KAFKA_SERVERS"]
    with ExitStack() as stack:
        worker = WorkerProcess(servers, home / "job", settings=by_password).start(wait=False)
        stack.callback(worker.kill)
        sinks = SinksProcess(servers, fresh_database, home / "sinks.log", **by_password).start()
        stack.callback(sinks.stop)
        named = {name.removeprefix("TALLY_").lower(): value for name, value in by_password.items()}
        gateway = Gateway(servers, gateway_workers=worker.url, **named)
        stack.callback(gateway.kill)
        worker.wait_ready()
        with closing(Door(gateway.port)) as door:
            eventually(lambda: door.ask("GET", "/ready").status == 200, what="the gateway ready")
            for tag in some_tags(1, EVENTS, minutes=MINUTES):
                assert door.ask("POST", "/user_tags", tag.value).status == 204
            eventually(lambda: counted(door) == EVENTS, within_s=CAUGHT_UP_WITHIN_S, what="all of them counted")
        eventually(lambda: stored(fresh_database) == EVENTS, within_s=CAUGHT_UP_WITHIN_S, what="all of them in Postgres")
        assert sinks.terminate() == 0
    listed = run(by_password, "agents.replay", "list")
    assert listed.returncode == 0, listed.stderr


def counted(door: Door) -> int:
    rows = [
        row
        for action in ("VIEW", "BUY")
        for row in door.aggregates(START_TEXT, MINUTES, ("COUNT",), {"action": action}).json["rows"]
    ]
    return sum(int(row[-1]) for row in rows)


def stored(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT coalesce(sum(event_count), 0)::bigint FROM tally.minute_aggregates").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_both_kinds_of_password_let_in(mechanism: str, by_password: dict[str, str], fresh_database: str) -> None:
    """PLAIN is what hosted brokers speak."""
    settings = {**by_password, "TALLY_KAFKA_SASL_MECHANISM": mechanism, "TALLY_POSTGRES_DSN": fresh_database}
    answer = run(settings, "stack", "prepare")
    assert answer.returncode == 0, answer.stderr


def test_a_certificate_of_ours_lets_in(kafka: SecureKafka, certificates: Certificates, fresh_database: str) -> None:
    """Mutual TLS; without the certificate the broker does not talk."""
    settings = {
        "TALLY_KAFKA_SERVERS": kafka.servers_of("MUTUAL"),
        "TALLY_KAFKA_SECURITY_PROTOCOL": "SSL",
        "TALLY_KAFKA_CA_FILE": str(certificates.authority),
        "TALLY_POSTGRES_DSN": fresh_database,
    }
    assert run(settings, "stack", "prepare").returncode == 1
    settings["TALLY_KAFKA_CERT_FILE"] = str(certificates.certificate("client"))
    settings["TALLY_KAFKA_KEY_FILE"] = str(certificates.key("client"))
    answer = run(settings, "stack", "prepare")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"TALLY_KAFKA_CA_FILE": "stranger"}, "kafka.servers: no Kafka answers"),
        ({"TALLY_KAFKA_SASL_PASSWORD": "another"}, "kafka at"),
        ({"TALLY_KAFKA_CA_FILE": "/nonexistent"}, "kafka.ca_file is '/nonexistent': No such file or directory"),
        ({"TALLY_KAFKA_SASL_PASSWORD": ""}, "kafka.sasl_password is empty: SASL_SSL needs it; set TALLY_KAFKA_SASL_PASSWORD"),
        ({"TALLY_KAFKA_SERVERS": "localhost"}, "kafka.servers: no Kafka answers"),
    ],
    ids=["stranger", "password", "no file", "no password", "no port"],
)
def test_what_is_wrong_is_one_line_without_a_secret(
    wrong: dict[str, str], line: str, by_password: dict[str, str], certificates: Certificates, fresh_database: str
) -> None:
    """A broker whose certificate nobody we trust has signed is not talked to; a wrong password is told, and not shown."""
    settings = {**by_password, "TALLY_POSTGRES_DSN": fresh_database, **wrong}
    if "TALLY_KAFKA_SASL_PASSWORD" in wrong:
        del settings["TALLY_KAFKA_SASL_PASSWORD_FILE"]
    if wrong.get("TALLY_KAFKA_CA_FILE") == "stranger":
        settings["TALLY_KAFKA_CA_FILE"] = str(certificates.stranger)
    answer = run(settings, "stack", "prepare")
    assert answer.returncode in (1, 2)
    (told,) = answer.stderr.splitlines()
    assert line in told
    assert PASSWORD not in told


def test_sinks_reach_postgres_by_verified_tls(by_password: dict[str, str], home: Path, certificates: Certificates) -> None:
    """The URL's own parameters: `verify-full` takes the authority that signed, and no other. Migrations and sinks alike."""
    binaries = postgres_with_tls()
    if binaries is None:
        pytest.skip("NO POSTGRES WITH TLS: that of the wheel has none; apt-get install postgresql")
    service = SecurePostgres(home / "postgres", certificates, binaries=binaries)
    service.start()
    try:
        dsn = service.verified_dsn(certificates.authority)
        answer = run({**by_password, "TALLY_POSTGRES_DSN": dsn}, "stack", "prepare")
        assert answer.returncode == 0, answer.stderr
        refused = run({**by_password, "TALLY_POSTGRES_DSN": service.verified_dsn(certificates.stranger)}, "stack", "prepare")
        assert refused.returncode == 1
        assert "postgres.dsn: your Postgres does not answer or does not let us in" in refused.stderr
        sinks = SinksProcess(by_password["TALLY_KAFKA_SERVERS"], dsn, home / "tls-sinks.log", **by_password).start()
        try:
            eventually(lambda: sinks.get("/ready")[0] == 200, what="the sinks ready")
            assert encrypted(dsn, "tally-sinks") == {True}
        finally:
            sinks.stop()
    finally:
        service.stop()
        service.remove()


def encrypted(dsn: str, application: str) -> set[bool]:
    """Return whether the connections of an application are encrypted, by what the server says."""
    asked = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = %s"
    with psycopg.connect(dsn) as connection:
        return {row[0] for row in connection.execute(asked, [application])}
