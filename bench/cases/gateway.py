"""What the front door costs: one event a request, `acks=all`, 64 kept connections, from a process of its own.

CPU is that of all threads of the gateway, over a closed loop that keeps all connections busy; latency is taken apart from it,
at a fixed rate that leaves the machine idle half of the time. Every 204 must be a record in the topic, no more and no fewer.

Many events a request are `bench.cases.gateway_batches`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python reads its own schemas so
    from kafka import KafkaConsumer, TopicPartition

from bench.backlogs import run_folder
from bench.case import Case, Figure
from bench.processes import cpu_s, peak_rss_mib
from bench.programs import ROOT, running, wait_ready
from bench.progress import MEMORY_UNIT, BenchError
from load.events import events
from stack.kafka import LocalKafka
from stack.ports import free_port
from stack.topics import create_topics
from streams.settings import load_settings
from streams.topics import USER_TAGS

CPU_UNIT = "µs CPU/request"
RATE_UNIT = "requests/s"
PARTITIONS = 4
CONNECTIONS = 64
WARM_UP_S = 2.0
CLOSED_S = 8.0
OPEN_S = 10.0
OPEN_RATE = 2_000.0
ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Gateway:
    """A gateway that runs, and where its events go."""

    pid: int
    port: int
    servers: str


@dataclass(frozen=True)
class Load:
    """A load generator.

    Attributes:
        module: it is.
        topic: where its events go.
        options: of its command.
        events: of a request.
    """

    module: str
    topic: str
    options: Mapping[str, object]
    events: int = 1


@dataclass(frozen=True)
class Loaded:
    """What one load measured, and what it cost the gateway, CPU seconds."""

    answered: int
    wall_s: float
    gateway_cpu_s: float
    p50_ms: float
    p99_ms: float

    @property
    def cpu_us(self) -> float:
        """CPU of the gateway, µs a request."""
        return self.gateway_cpu_s / self.answered * 1e6


TAGS = Load("bench.tag_load", USER_TAGS.topic, {"connections": CONNECTIONS})


def measure(load: Load, rate: float, figures: Callable[[Loaded, Loaded], Iterator[Figure]]) -> Iterator[Figure]:
    """Run a Kafka and a gateway and put the load on it, without a pause and at a *rate*."""
    with run_folder() as home, empty_kafka(home) as servers, running_gateway(servers, home / "gateway.log") as gateway:
        put_load(gateway, load, seconds=WARM_UP_S)
        busy = checked_load(gateway, load, seconds=CLOSED_S)
        calm = checked_load(gateway, load, seconds=OPEN_S, rate=rate)
        yield from figures(busy, calm)
        yield Figure("peak memory", peak_rss_mib(gateway.pid), MEMORY_UNIT)


def figures(busy: Loaded, calm: Loaded) -> Iterator[Figure]:
    """Yield what two loads say: one that never pauses, one of `OPEN_RATE`."""
    yield Figure("CPU", busy.cpu_us, CPU_UNIT, goal=60)
    yield Figure("requests a core", 1e6 / busy.cpu_us, RATE_UNIT, goal=16_000, more_is_better=True)
    yield Figure("closed loop, wall", busy.answered / busy.wall_s, RATE_UNIT, more_is_better=True)
    yield Figure("closed loop, p99", busy.p99_ms, "ms")
    yield Figure(f"at {OPEN_RATE:,.0f}/s, p50", calm.p50_ms, "ms")
    yield Figure(f"at {OPEN_RATE:,.0f}/s, p99", calm.p99_ms, "ms", goal=15)
    yield Figure(f"at {OPEN_RATE:,.0f}/s, CPU", calm.cpu_us, CPU_UNIT)


@contextmanager
def empty_kafka(home: Path) -> Iterator[str]:
    """Run a Kafka with empty topics and yield its servers."""
    kafka = LocalKafka(home / "kafka")
    kafka.start()
    try:
        create_topics(kafka.servers, load_settings({"TALLY_TOPICS_PARTITIONS": str(PARTITIONS)}))
        yield kafka.servers
    finally:
        kafka.stop()


@contextmanager
def running_gateway(servers: str, log: Path, own: Mapping[str, str] = {}) -> Iterator[Gateway]:
    """Run a gateway with settings of its *own*, and wait until it acknowledges: `/ready` would wait for a worker as well."""
    gateway_port = int(own.get("TALLY_GATEWAY_PORT", 0)) or free_port()
    settings = {
        "TALLY_KAFKA_SERVERS": servers,
        "TALLY_TOPICS_PARTITIONS": str(PARTITIONS),
        "TALLY_GATEWAY_PORT": str(gateway_port),
        "TALLY_WEB_PORT": str(free_port()),
        **own,
    }
    (event,) = events(1, count=1)

    def acknowledges() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{gateway_port}/user_tags", event.body, ANSWER_TIMEOUT_S) as answer:
            return bool(answer.status == 204)

    with running("gateway", settings=settings, log=log) as process:
        wait_ready(process, log, acknowledges)
        yield Gateway(process.pid, gateway_port, servers)


def run_load(module: str, options: Mapping[str, object]) -> dict[str, Any]:
    """Run a load generator with its options and return what it measured.

    Raises:
        BenchError: an event was not acknowledged.
    """
    given = (f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items())
    command = [sys.executable, "-m", module, *given]
    answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if answer.returncode:
        raise BenchError("an event was not acknowledged")
    said: dict[str, Any] = json.loads(answer.stdout)
    return said


def put_load(gateway: Gateway, load: Load, *, seconds: float, rate: float | None = None) -> Loaded:
    """Put a load on a gateway, a closed loop where there is no *rate* (requests a second); return what was measured.

    Raises:
        BenchError: an event was not acknowledged.
    """
    before_s = cpu_s(gateway.pid)
    plan = {"port": gateway.port, "seconds": seconds} | ({} if rate is None else {"rate": rate})
    said = run_load(load.module, {**load.options, **plan})
    return Loaded(int(said["answered"]), said["wall_s"], cpu_s(gateway.pid) - before_s, said["p50_ms"], said["p99_ms"])


def checked_load(gateway: Gateway, load: Load, *, seconds: float, rate: float | None = None) -> Loaded:
    """Put a load on a gateway, and count the records that it left in the topic.

    Raises:
        BenchError: they are not as many as were acknowledged.
    """
    before = records_in_topic(gateway.servers, load.topic)
    loaded = put_load(gateway, load, seconds=seconds, rate=rate)
    acknowledged, written = loaded.answered * load.events, records_in_topic(gateway.servers, load.topic) - before
    if written != acknowledged:
        raise BenchError(f"{acknowledged} events acknowledged, {written} in the topic")
    return loaded


def records_in_topic(servers: str, topic: str) -> int:
    """Return how many records a source topic has ever held."""
    consumer = KafkaConsumer(bootstrap_servers=servers.split(","))
    try:
        places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        return sum(consumer.end_offsets(places).values())
    finally:
        consumer.close()


CASE = Case("gateway", "the front door, one event a request", partial(measure, TAGS, OPEN_RATE, figures))
