"""Kafka behind TLS, SASL and rights, Postgres behind TLS: every process goes through, and nobody is trusted for nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import TopicAuthorizationFailedError

from stack.postgres import LocalPostgres
from stack.topics import create_topics
from streams.certificates import ends_s
from streams.kafka_access import access
from streams.settings import load_settings
from streams.topics import DEAD_LETTERS, REPLAYS, SESSIONS, STREAMS, USER_TAGS, changelog_of
from tests.support.analytics_door import body_of
from tests.support.certificates import Certificates, make_certificates
from tests.support.events_door import a_batch, an_event
from tests.support.eventually import eventually
from tests.support.gateway_process import Gateway
from tests.support.job import Door
from tests.support.secure_services import PASSWORD, USER, SecureKafka, SecurePostgres, documented_rights, postgres_with_tls
from tests.support.sinks_process import SinksProcess
from tests.support.stack_fixtures import REQUIRE_VARIABLE
from tests.support.tags import START_TEXT, some_tags
from tests.support.worker import WorkerProcess

ROOT = Path(__file__).parents[2]
EVENTS = 300
MINUTES = 10
RIGHTS = documented_rights((ROOT / "docs" / "production.md").read_text(encoding="utf-8"))
PRINCIPALS = ("gateway", "worker", "sinks", "operator")
SOURCES = tuple(stream.topic for stream in STREAMS)
CHANGELOGS = tuple(changelog_of(table) for stream in STREAMS for table in stream.tables)
TOPICS = (*SOURCES, SESSIONS, DEAD_LETTERS, REPLAYS, *CHANGELOGS)
REFUSED = [
    (principal, operation, topic)
    for principal in PRINCIPALS
    for operation in ("Read", "Write")
    for topic in TOPICS
    if not any(right.principal == principal and right.covers(operation, topic) for right in RIGHTS)
]
"""What the documented rights do not let anybody do."""
REFUSED_WITHIN_S = 30.0
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
    service.add_users(USER, *PRINCIPALS)
    service.grant(RIGHTS)
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


def of(principal: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a process with a name of its own."""
    return {**settings, "TALLY_KAFKA_SASL_USERNAME": principal}


def client_of(principal: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """Return how a client is let in under a name."""
    kafka = load_settings(of(principal, settings)).kafka
    return {"bootstrap_servers": kafka.servers, **access(kafka)}


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
    """security.md: each process under a name that may do what production.md lists; each tells until when it has that way."""
    prepared = run({**of("operator", by_password), "TALLY_POSTGRES_DSN": fresh_database}, "stack", "prepare")
    assert prepared.returncode == 0, prepared.stderr
    servers = by_password["TALLY_KAFKA_SERVERS"]
    with ExitStack() as stack:
        worker = WorkerProcess(servers, home / "job", settings=of("worker", by_password)).start(wait=False)
        stack.callback(worker.kill)
        sinks = SinksProcess(servers, fresh_database, home / "sinks.log", **of("sinks", by_password)).start()
        stack.callback(sinks.stop)
        named = {name.removeprefix("TALLY_").lower(): value for name, value in of("gateway", by_password).items()}
        gateway = Gateway(servers, gateway_workers=worker.url, **named)
        stack.callback(gateway.kill)
        worker.wait_ready()
        with closing(Door(gateway.port)) as door:
            eventually(lambda: door.ask("GET", "/ready").status == 200, what="the gateway ready")
            for tag in some_tags(1, EVENTS, minutes=MINUTES):
                assert door.ask("POST", "/user_tags", tag.value).status == 204
            send_as_products(door)
            eventually(lambda: counted(door) == EVENTS, within_s=CAUGHT_UP_WITHIN_S, what="all of them counted")
        eventually(lambda: stored(fresh_database) == EVENTS, within_s=CAUGHT_UP_WITHIN_S, what="all of them in Postgres")
        eventually(lambda: of_products(fresh_database) == ["DONE", "DONE", "time"], what="what products sent in Postgres")
        eventually(lambda: has_records(client_of("operator", by_password), SESSIONS), what="the session told to other gateways")
        (end_s,) = ends_s(Path(by_password["TALLY_KAFKA_CA_FILE"]).read_text())
        for port in (worker.port, sinks.port, gateway.port):
            with closing(Door(port)) as door:
                assert door.metric("tally_certificate_expiry_timestamp_seconds", file="kafka_ca") == end_s
        where = ("--partition", "0", "--offset", "0")
        asked = run(of("operator", by_password), "sinks.where", "--url", gateway.url("").rstrip("/"), *where)
        assert '"state": "counted"' in asked.stdout, asked.stdout + asked.stderr
        assert sinks.terminate() == 0
    told = run({**of("operator", by_password), "TALLY_POSTGRES_DSN": fresh_database}, "agents.replay", "send", "--all")
    assert told.returncode == 0, told.stderr


def send_as_products(door: Door) -> None:
    """Send what takes the other rights of the gateway: an event, one that is dropped, and a transaction of a session."""
    is_json = {"Content-Type": "application/json"}
    assert door.ask("POST", "/v1/events", a_batch(an_event(), an_event(time="yesterday")), is_json).status == 200
    assert door.ask("POST", "/analytics", body_of(pennkey="judtin"), is_json | {"X-Session-Id": "of judtin"}).status == 200


def of_products(dsn: str) -> list[str]:
    """Return the states of all submissions, and the reasons of all dead letters."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT state FROM tally.txn_log UNION ALL SELECT reason FROM tally.dead_letters").fetchall()
    return sorted(text for (text,) in found)


def has_records(client: Mapping[str, Any], topic: str) -> bool:
    """Say whether somebody has written to a topic."""
    with closing(KafkaConsumer(**client)) as consumer:
        places = [TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic) or ()]
        return any(end > 0 for end in consumer.end_offsets(places).values())


@pytest.fixture(scope="module")
def topics(by_password: dict[str, str]) -> None:
    """All topics, made by who may."""
    create_topics(by_password["TALLY_KAFKA_SERVERS"], load_settings(by_password))


def test_rights_are_those_that_were_meant() -> None:
    """The table says who may do what, and the tests below take it from there: here is what it must not lose."""
    assert {right.principal for right in RIGHTS} == set(PRINCIPALS)
    assert {("gateway", "Read", topic) for topic in TOPICS if topic != SESSIONS} <= set(REFUSED)
    assert {("gateway", "Write", topic) for topic in (REPLAYS, *CHANGELOGS)} <= set(REFUSED)
    assert {(principal, "Write", topic) for principal in ("worker", "sinks") for topic in SOURCES} <= set(REFUSED)
    assert {("sinks", "Read", USER_TAGS.topic), ("sinks", "Read", SESSIONS), ("worker", "Read", SESSIONS)} <= set(REFUSED)
    assert {("sinks", "Write", topic) for topic in CHANGELOGS} <= set(REFUSED)


@pytest.mark.usefixtures("topics")
@pytest.mark.parametrize(("principal", "operation", "topic"), REFUSED)
def test_nobody_may_more_than_is_listed(principal: str, operation: str, topic: str, by_password: dict[str, str]) -> None:
    """Whoever takes over the gateway reads nobody's events, and whoever takes over a worker forges none."""
    client = client_of(principal, by_password)
    with pytest.raises(TopicAuthorizationFailedError):
        if operation == "Write":
            with closing(KafkaProducer(**client)) as producer:
                producer.send(topic, b"forged", partition=0).get(REFUSED_WITHIN_S)
        else:
            read(client, topic)


def read(client: dict[str, Any], topic: str) -> None:
    """Read from a topic.

    Raises:
        TopicAuthorizationFailedError: the broker does not tell of it, or does not give what it holds.
    """
    with closing(KafkaAdminClient(**client)) as admin:
        (told,) = admin.describe_topics([topic])
    if told["error_code"] == TopicAuthorizationFailedError.errno:  # a consumer would ask again for ever
        raise TopicAuthorizationFailedError(topic)
    with closing(KafkaConsumer(**client)) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek(TopicPartition(topic, 0), 0)
        consumer.poll(timeout_ms=int(REFUSED_WITHIN_S * 1000))


@pytest.mark.usefixtures("topics")
@pytest.mark.parametrize("principal", ["gateway", "worker", "sinks"])
def test_processes_make_no_topics(principal: str, by_password: dict[str, str]) -> None:
    """Topics, with their partitions and their retention, are an operator's."""
    with closing(KafkaAdminClient(**client_of(principal, by_password))) as admin, pytest.raises(TopicAuthorizationFailedError):
        admin.create_topics({"tally-more": {"num_partitions": 1, "replication_factor": 1}})


def test_nothing_is_said_in_clear(by_password: dict[str, str], fresh_database: str) -> None:
    """The listener takes TLS only: neither a password in clear nor none."""
    for protocol in ("PLAINTEXT", "SASL_PLAINTEXT"):
        settings = {**by_password, "TALLY_KAFKA_SECURITY_PROTOCOL": protocol, "TALLY_POSTGRES_DSN": fresh_database}
        answer = run(settings, "stack", "prepare")
        assert answer.returncode == 1
        assert "kafka.servers: no Kafka answers" in answer.stderr


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
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail("a postgres with TLS is required: apt-get install postgresql")
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
