"""The proxy before the real Postgres and Kafka: what their clients see when the line fails."""

from __future__ import annotations

import gc
import logging
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaTimeoutError

from stack.kafka import LocalKafka
from stack.ports import LOOPBACK
from tests.support.proxy import Proxy
from tests.support.stack_fixtures import running

TIMEOUT_S = 20.0
SILENCE_S = 0.3


def through(dsn: str, proxy: Proxy) -> str:
    """Return the URL of the same database by way of the proxy."""
    parts = urlsplit(dsn)
    credentials = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{credentials}@{LOOPBACK}:{proxy.port}"))


@pytest.mark.parametrize(("when", "rows"), [("before", 0), ("after", 1)])
def test_commit_whose_answer_is_lost_was_executed(fresh_database: str, when: Literal["before", "after"], rows: int) -> None:
    """F17: to the client both look the same, so it must ask Postgres what is true."""
    upstream_port = urlsplit(fresh_database).port
    assert upstream_port is not None
    with psycopg.connect(fresh_database, autocommit=True) as direct, Proxy(upstream_port) as proxy:
        direct.execute("CREATE TABLE kept (number int)")
        proxy.cut_when(lambda seen: b"COMMIT" in seen, "up", when=when, times=1)
        connection = psycopg.connect(through(fresh_database, proxy))
        connection.execute("INSERT INTO kept VALUES (1)")
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
        connection.close()
        assert proxy.cuts == 1
        assert direct.execute("SELECT count(*) FROM kept").fetchone() == (rows,)


@pytest.fixture(scope="module")
def proxied_kafka() -> Iterator[tuple[LocalKafka, Proxy]]:
    """A Kafka of its own with a proxy before its second listener."""
    home = Path(tempfile.mkdtemp(prefix="tally-proxied-"))
    with Proxy(0) as proxy:
        for kafka in running(LocalKafka(home / "kafka", advertised_port=proxy.port)):
            proxy.upstream_port = kafka.proxied_port
            yield kafka, proxy
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # kafka-python leaves a socket each refused try
def test_kafka_client_stays_on_the_proxys_path(
    proxied_kafka: tuple[LocalKafka, Proxy], caplog: pytest.LogCaptureFixture
) -> None:
    """A broker tells its clients where it is; told its own port, they would walk around every fault."""
    caplog.set_level(logging.CRITICAL, logger="kafka")  # kept log records would keep the sockets of their errors
    kafka, proxy = proxied_kafka
    admin = KafkaAdminClient(bootstrap_servers=kafka.servers)
    topic = f"proxied-{uuid.uuid4().hex}"
    admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    admin.close()
    assert proxy.accepted == 0, "who comes by the first listener stays direct"
    producer = KafkaProducer(bootstrap_servers=f"{LOOPBACK}:{proxy.port}", acks="all", reconnect_backoff_max_ms=200)
    producer.send(topic, b"before").get(TIMEOUT_S)
    proxy.down()
    late = producer.send(topic, b"during")
    with pytest.raises(KafkaTimeoutError):
        late.get(SILENCE_S)
    assert values_of(kafka.servers, topic) == [b"before"]
    proxy.heal()
    late.get(TIMEOUT_S)
    producer.close()
    del producer, late
    gc.collect()  # or those sockets would warn in another test
    assert values_of(kafka.servers, topic) == [b"before", b"during"]


def values_of(servers: str, topic: str) -> list[bytes]:
    """Return all values that the topic holds now, read by the direct listener."""
    partition = TopicPartition(topic, 0)
    consumer = KafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest", consumer_timeout_ms=20_000)
    consumer.assign([partition])
    count = consumer.end_offsets([partition])[partition]
    values = [record.value for _, record in zip(range(count), consumer, strict=False)]
    consumer.close()
    return values
