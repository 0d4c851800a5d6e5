"""A gateway process of the test's own, its topic, and what was written to it. Fixtures: gateway, client, log_of."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stack.ports import free_port
from streams.clock import SYSTEM_CLOCK
from streams.settings import Settings
from streams.topics import USER_TAGS
from tests.support.builders import a_record

ROOT = Path(__file__).resolve().parents[2]
TOPIC = USER_TAGS.topic
PARTITIONS = 4
BODY_BYTES_MAX = 2_048
ACKNOWLEDGE_TIMEOUT_S = 2.0
QUERY_TIMEOUT_S = 2.0
PATIENCE_S = 60.0

Record = tuple[int, bytes | None, bytes | None]
"""Partition, key, value."""
LogOf = Callable[[], list[Record]]


class Gateway:
    """A gateway process and how to talk to it."""

    def __init__(self, servers: str, **settings: str) -> None:
        self.port = int(settings.pop("gateway_port", 0)) or free_port()
        self.worker_ports = [free_port(), free_port()]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
        environment |= {
            "TALLY_KAFKA_SERVERS": servers,
            "TALLY_GATEWAY_PORT": str(self.port),
            "TALLY_GATEWAY_WORKERS": ",".join(f"http://127.0.0.1:{port}" for port in self.worker_ports),
            "TALLY_GATEWAY_BODY_BYTES_MAX": str(BODY_BYTES_MAX),
            "TALLY_GATEWAY_ACKNOWLEDGE_TIMEOUT_S": str(ACKNOWLEDGE_TIMEOUT_S),
            "TALLY_GATEWAY_QUERY_TIMEOUT_S": str(QUERY_TIMEOUT_S),
            "TALLY_GATEWAY_DRAIN_S": "0",
            "TALLY_TOPICS_PARTITIONS": str(PARTITIONS),
            **{f"TALLY_{name}".upper(): value for name, value in settings.items()},
        }
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would stop a long run
        self.process = subprocess.Popen([sys.executable, "-m", "gateway"], cwd=ROOT, env=environment, stderr=self._log)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def end(self) -> tuple[int, str]:
        """Send SIGTERM; return exit code and log."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Wait for the end; return exit code and log."""
        code = self.process.wait(PATIENCE_S)
        return code, self.read_log()

    def read_log(self) -> str:
        """Return what the process has logged so far."""
        self._log.seek(0)
        return self._log.read()

    def kill(self) -> None:
        """End it in any case, and show its log should the test fail."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        sys.stderr.write(self.read_log())
        self._log.close()


@contextmanager
def running_gateway(servers: str, **settings: str) -> Iterator[Gateway]:
    """Run a gateway of one's own; *settings* are named like `log_requests`."""
    gateway = Gateway(servers, **settings)
    try:
        yield gateway
    finally:
        gateway.kill()


@pytest.fixture(scope="module")
def topic(kafka_servers: str) -> str:
    """The topic of events, made as `make run` makes it."""
    from stack.topics import create_topics

    create_topics(kafka_servers, Settings())
    return TOPIC


@pytest.fixture(scope="module")
def gateway(kafka_servers: str, topic: str) -> Iterator[Gateway]:
    """One gateway for the tests that leave it as it was."""
    with running_gateway(kafka_servers) as process:
        yield process


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the gateway, which takes events by now."""
    async with a_client() as session:
        await eventually(lambda: posts(session, gateway, 204))
        yield session


@pytest.fixture
def log_of(kafka_servers: str, topic: str) -> LogOf:
    """Return what was written to the topic since the test began."""
    start = end_offsets(kafka_servers)
    return lambda: records_since(kafka_servers, start)


def a_client() -> aiohttp.ClientSession:
    """Return a client without a limit of connections."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=PATIENCE_S))


async def eventually(condition: Callable[[], Awaitable[bool]], *, timeout_s: float = PATIENCE_S) -> None:
    """Return as soon as the condition holds."""
    deadline_s = SYSTEM_CLOCK.monotonic_s() + timeout_s
    while not await condition():
        assert SYSTEM_CLOCK.monotonic_s() < deadline_s, "the condition did not come true"
        await asyncio.sleep(0.05)


async def gets(session: aiohttp.ClientSession, gateway: Gateway, path: str, status: int) -> bool:
    """Say whether GET of *path* answers *status* now."""
    try:
        async with session.get(gateway.url(path)) as response:
            return response.status == status
    except aiohttp.ClientError:
        return False


async def posts(session: aiohttp.ClientSession, gateway: Gateway, status: int) -> bool:
    """Say whether an event is answered *status* now."""
    try:
        return (await post(session, gateway, a_record()))[0] == status
    except aiohttp.ClientError:
        return False


async def post(session: aiohttp.ClientSession, gateway: Gateway, body: Any) -> tuple[int, Any]:
    """Send a body; return status and decoded answer."""
    async with session.post(gateway.url("/user_tags"), data=body) as response:
        text = await response.read()
        return response.status, json.loads(text) if text else None


def end_offsets(servers: str, topic: str = TOPIC) -> dict[Any, int]:
    """Return the end of each partition of a topic."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=servers)
    try:
        return dict(consumer.end_offsets([TopicPartition(topic, partition) for partition in range(PARTITIONS)]))
    finally:
        consumer.close()


def records_since(servers: str, start: dict[Any, int]) -> list[Record]:
    """Return everything between *start*, of one topic, and the ends of now, in order within a partition."""
    from kafka import KafkaConsumer

    (topic,) = {partition.topic for partition in start}
    ends = end_offsets(servers, topic)
    consumer = KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
    consumer.assign(list(start))
    for partition, offset in start.items():
        consumer.seek(partition, offset)
    records: list[Record] = []
    try:
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for batch in consumer.poll(timeout_ms=1000).values():
                records += [(record.partition, record.key, record.value) for record in batch]
    finally:
        consumer.close()
    return records
