"""Fixtures of the sinks' tests: a Kafka of their own, a database with the schema, and the process itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # kafka-python reads its own schemas by a deprecated call, once, while it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError

from sinks.migrate import migrate
from stack.kafka import LocalKafka
from streams.topics import DEAD_LETTERS, EVENTS, STREAMS, changelog_of
from tests.support.sinks_process import PARTITIONS, Changelogs, SinksProcess, StartSinks, until
from tests.support.submissions import Submitter

TOPICS = (EVENTS.topic, *(changelog_of(table) for stream in STREAMS for table in stream.tables), DEAD_LETTERS)


@pytest.fixture(scope="module")
def sinks_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A Kafka of this file: the names of the changelogs are fixed, and others' records would be written too."""
    service = LocalKafka(tmp_path_factory.mktemp("kafka"))
    service.start()
    yield service
    service.stop()
    service.remove()


@pytest.fixture
def sinks_servers(sinks_kafka: LocalKafka) -> str:
    """Bootstrap servers with empty topics."""
    admin = KafkaAdminClient(bootstrap_servers=sinks_kafka.servers)
    existing = [topic for topic in admin.list_topics() if topic in TOPICS]
    if existing:
        admin.delete_topics(existing)
    wanted = {topic: {"num_partitions": PARTITIONS, "replication_factor": 1, "configs": {}} for topic in TOPICS}

    def created() -> bool:
        try:
            admin.create_topics(wanted, wait_for_metadata=True)
        except KafkaError:
            return False  # Kafka is still deleting.
        return True

    until(created, "topics")
    admin.close()
    return sinks_kafka.servers


@pytest.fixture
def sinks_dsn(fresh_database: str) -> str:
    """A database with the schema."""
    migrate(fresh_database)
    return fresh_database


@pytest.fixture
def changelogs(sinks_servers: str) -> Iterator[Changelogs]:
    """Where a worker's records go."""
    made = Changelogs(sinks_servers)
    yield made
    made.close()


@pytest.fixture
def submitter(changelogs: Changelogs) -> Submitter:
    """The gateway and the worker, as far as the sinks see them."""
    return Submitter(changelogs)


@pytest.fixture
def start_sinks(sinks_servers: str, sinks_dsn: str, tmp_path: Path) -> Iterator[StartSinks]:
    """Start `python -m sinks`; stopped at the end, and what it logged at ERROR fails the test unless it is expected."""
    started: list[SinksProcess] = []

    def start(**settings: str) -> SinksProcess:
        process = SinksProcess(sinks_servers, sinks_dsn, tmp_path / "sinks.log", **settings)
        started.append(process)
        return process.start()

    yield start
    for process in started:
        process.stop()
    lines = (tmp_path / "sinks.log").read_text().splitlines() if started else []
    assert [line for line in lines if " ERROR sinks." in line and "dead letters aside" not in line] == []
