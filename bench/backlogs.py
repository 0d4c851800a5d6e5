"""Run a Kafka whose source topic is already full: filled once, kept as a template, and copied for each run."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer

from bench.console import tell
from bench.workloads import Workload, digest_of, events_of
from load.events import GeneratedEvent
from stack.kafka import LocalKafka
from stack.processes import ROOT
from stack.service import check_space
from stack.topics import create_topics
from streams.event_time import MINUTE_MS
from streams.partitioner import partition_of
from streams.settings import Settings, load_settings
from streams.topics import USER_TAGS

BYTES_AN_EVENT = 700
"""Of disk, at most: the topic twice (template and copy), both changelogs, RocksDB."""
BATCH_BYTES = 1 << 20
RETENTION_S = 31_536_000
"""As long as a setting may be: a template must not lose its events while it lies there."""
MANIFEST = "manifest.json"
PROGRESS_EVENTS = 1_000_000
RUN_PREFIX = "run-"


@dataclass(frozen=True)
class Totals:
    """What should be counted of a minute and action."""

    count: int
    price_sum: int


@dataclass(frozen=True)
class Backlog:
    """A running Kafka with a full source topic.

    Attributes:
        servers: bootstrap servers.
        home: a folder of this run, removed at its end; for workers' state and whatever else.
        totals: the right answers, by minute (since 1970) and action.
        user, user_events: a user whose profile can be checked, and how many events it has, by action.
    """

    workload: Workload
    servers: str
    home: Path
    totals: Mapping[tuple[int, str], Totals]
    user: str
    user_events: Mapping[str, int]

    @property
    def settings(self) -> dict[str, str]:
        """What every process that reads this backlog must be told."""
        return {"TALLY_TOPICS_PARTITIONS": str(self.workload.partitions)}


@contextmanager
def filled(workload: Workload) -> Iterator[Backlog]:
    """Run a Kafka that holds the events of *workload*; everything but the template is gone at the end.

    Raises:
        StackError: the disk is too small, or Kafka does not start.
    """
    template = _template(workload)
    with run_folder() as home:
        shutil.copytree(template / "kafka", home / "kafka")
        kafka = LocalKafka(home / "kafka")
        kafka.start()
        try:
            yield _backlog(workload, kafka.servers, home, json.loads((template / MANIFEST).read_text(encoding="utf-8")))
        finally:
            kafka.kill()


def send(workload: Workload, servers: str, home: Path) -> Backlog:
    """Send the events of *workload* to a Kafka that runs already, with its topics, and return what should be counted."""
    return _backlog(workload, servers, home, asyncio.run(_fill(servers, workload)))


@contextmanager
def run_folder() -> Iterator[Path]:
    """Make a folder for one run and remove it at the end; folders of runs that died are removed as well."""
    place = bench_home()
    for left in place.glob(f"{RUN_PREFIX}*"):
        if not Path(f"/proc/{left.name.split('-')[1]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    home = Path(tempfile.mkdtemp(prefix=f"{RUN_PREFIX}{os.getpid()}-", dir=place))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def bench_home() -> Path:
    """Return where benchmarks keep templates and runs: in the folder of the local stack, so that `make clean` finds it."""
    home = ROOT / load_settings().stack.home.expanduser() / "bench"
    home.mkdir(parents=True, exist_ok=True)
    return home


def template_name(workload: Workload, *, kafka: str) -> str:
    """Return the folder of a workload's template; *kafka* is whatever changes with Kafka's version."""
    version = sha256((digest_of(workload) + kafka).encode()).hexdigest()[:10]
    return f"{workload.name}-{workload.events}-{version}"


def _template(workload: Workload) -> Path:
    kafka = (ROOT / "stack" / "kafka-coordinates.txt").read_text(encoding="utf-8")
    place = bench_home() / template_name(workload, kafka=kafka)
    check_space(bench_home(), bytes_min=workload.events * BYTES_AN_EVENT)
    if not place.exists():
        for old in bench_home().glob(f"{workload.name}-{workload.events}-*"):
            shutil.rmtree(old, ignore_errors=True)
        with run_folder() as home:
            _fill_template(workload, home)
            with suppress(OSError):  # somebody else was faster
                home.rename(place)
    return place


def _fill_template(workload: Workload, home: Path) -> None:
    tell(f"  filling a topic with {workload.events:,} events ({workload.name}); kept for the next run")
    kafka = LocalKafka(home / "kafka")
    kafka.start()
    try:
        create_topics(kafka.servers, _topic_settings(workload))
        manifest = asyncio.run(_fill(kafka.servers, workload))
    finally:
        kafka.stop()
    (home / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def _topic_settings(workload: Workload) -> Settings:
    return load_settings({"TALLY_TOPICS_PARTITIONS": str(workload.partitions), "TALLY_TOPICS_RETENTION_S": str(RETENTION_S)})


async def _fill(servers: str, workload: Workload) -> dict[str, Any]:
    """Send the events as a producer with the usual partitioner would; return the manifest."""
    ledger = Ledger()
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", compression_type="lz4", max_batch_size=BATCH_BYTES)
    await producer.start()
    try:
        waiting = []
        batches = [producer.create_batch() for _ in range(workload.partitions)]
        for number, event in enumerate(events_of(workload), 1):
            ledger.add(event)
            partition = partition_of(event.cookie, workload.partitions)
            if batches[partition].append(key=event.cookie, value=event.body, timestamp=None) is None:
                waiting.append(await producer.send_batch(batches[partition], USER_TAGS.topic, partition=partition))
                batches[partition] = producer.create_batch()
                batches[partition].append(key=event.cookie, value=event.body, timestamp=None)
            if not number % PROGRESS_EVENTS:
                tell(f"  {number:,} events")
        waiting += [await producer.send_batch(batch, USER_TAGS.topic, partition=number) for number, batch in enumerate(batches)]
        await asyncio.gather(*waiting)
    finally:
        await producer.stop()
    return ledger.manifest()


class _Product(msgspec.Struct):
    price: int


class _Counted(msgspec.Struct):
    action: str
    product_info: _Product


class Ledger:
    """The right answers, from what was sent."""

    def __init__(self) -> None:
        self._totals: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
        self._user = b""
        self._user_events: defaultdict[str, int] = defaultdict(int)
        self._decode = msgspec.json.Decoder(_Counted).decode

    def add(self, event: GeneratedEvent) -> None:
        """Count one event; the first one's user is the one whose profile is checked."""
        counted = self._decode(event.body)
        totals = self._totals[event.at_ms // MINUTE_MS, counted.action]
        totals[0] += 1
        totals[1] += counted.product_info.price
        self._user = self._user or event.cookie
        if event.cookie == self._user:
            self._user_events[counted.action] += 1

    def manifest(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
        totals = [[minute, action, *values] for (minute, action), values in sorted(self._totals.items())]
        return {"totals": totals, "user": self._user.decode(), "user_events": self._user_events}


def _backlog(workload: Workload, servers: str, home: Path, manifest: Mapping[str, Any]) -> Backlog:
    totals = {(minute, action): Totals(count, total) for minute, action, count, total in manifest["totals"]}
    return Backlog(workload, servers, home, totals, manifest["user"], manifest["user_events"])
