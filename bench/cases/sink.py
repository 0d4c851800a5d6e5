"""What the sinks cost a cell: two million cells of the spec's cardinality, from their changelog into a fresh Postgres.

The blocks are those that a worker makes, final versions only, four partitions. CPU is that of all threads of the sinks'
process, from the commit that passes a tenth of the cells to the one that passes nine tenths; decoding, and fetching from Kafka,
are in it. What Postgres then holds must add up to the events that were folded.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from aiokafka import AIOKafkaProducer

from agents.changelog import ChangelogRecord, send_groups
from bench.backlogs import bench_home, run_folder
from bench.case import Case, Figure
from bench.console import tell
from bench.processes import cpu_s, peak_rss_mib
from bench.programs import ROOT, running
from bench.progress import MEMORY_UNIT, BenchError
from bench.workloads import scale
from load.events import events
from sinks.migrate import migrate
from sinks.postgres import APPLICATION_NAME
from stack.kafka import LocalKafka
from stack.ports import free_port
from stack.postgres import LocalPostgres
from stack.topics import create_topics
from streams.clock import SYSTEM_CLOCK
from streams.codecs import Codec
from streams.partitioner import partition_of
from streams.settings import load_settings
from streams.topics import BUCKET_OFFSETS, USER_TAGS, changelog_of
from tables.blocks import PROGRESS, BlockKey, OpenBucket, decode_block
from tables.fold import Fold

TOPIC = changelog_of(USER_TAGS.blocks_table)
PARTITIONS = 4
SEED = 1
BUCKETS = max(40, int(560 * scale()))
EVENTS = BUCKETS * BUCKET_OFFSETS
WARM_SHARE, END_SHARE = 0.1, 0.9
"""The last transaction waits for records that never come, until its time is over; so what is measured ends before."""
POLL_S = 0.02
WITHIN_S = 180.0
CPU_UNIT = "µs CPU/cell"
MANIFEST = "blocks.json"


@dataclass
class Changelog:
    """What the topic holds: by partition, the offsets of the blocks and how many cells lie up to each; and the sums."""

    offsets: list[list[int]]
    cells: list[list[int]]
    price_sum: int

    @property
    def cell_count(self) -> int:
        """All cells."""
        return sum(counts[-1] for counts in self.cells)

    def cells_before(self, partition: int, next_offset: int) -> int:
        """Return how many cells a partition holds before an offset."""
        index = bisect_right(self.offsets[partition], next_offset - 1)
        return self.cells[partition][index - 1] if index else 0

    def is_whole(self, done: dict[int, int]) -> bool:
        """Say whether the next offset of each partition lies behind its last block."""
        return all(done.get(partition, 0) > offsets[-1] for partition, offsets in enumerate(self.offsets))


@dataclass(frozen=True)
class Moment:
    """How far the sinks were, and what they and their server process had used by then, seconds."""

    cells: int
    at_s: float
    sinks_s: float
    postgres_s: float


def measure() -> Iterator[Figure]:
    """Run a Kafka that holds the changelog, a fresh Postgres, and the sinks."""
    with run_folder() as home, filled_kafka(home) as (servers, changelog), empty_postgres(home) as dsn:
        port = str(free_port())
        settings = {"TALLY_KAFKA_SERVERS": servers, "TALLY_POSTGRES_DSN": dsn, "TALLY_SINKS_PORT": port}
        with running("sinks", settings=settings, log=home / "sinks.log") as process:
            first, last = watch(process, dsn, changelog)
            peak_mib = peak_rss_mib(process.pid)
        check(dsn, changelog)
    yield from figures(first, last)
    yield Figure("peak memory", peak_mib, MEMORY_UNIT)


def figures(first: Moment, last: Moment) -> Iterator[Figure]:
    """Yield what two moments say."""
    cells = last.cells - first.cells
    yield Figure("CPU", (last.sinks_s - first.sinks_s) / cells * 1e6, CPU_UNIT, goal=1.0)
    yield Figure("CPU of their process of Postgres", (last.postgres_s - first.postgres_s) / cells * 1e6, CPU_UNIT)
    yield Figure("wall", cells / (last.at_s - first.at_s), "cells/s", goal=300_000, more_is_better=True)


@contextmanager
def filled_kafka(home: Path) -> Iterator[tuple[str, Changelog]]:
    """Run a Kafka that holds the changelog; yield its servers, and what it holds."""
    shutil.copytree(template(), home / "kafka")
    kafka = LocalKafka(home / "kafka")
    kafka.start()
    try:
        yield kafka.servers, Changelog(**json.loads((home / "kafka" / MANIFEST).read_text(encoding="utf-8")))
    finally:
        kafka.kill()


@contextmanager
def empty_postgres(home: Path) -> Iterator[str]:
    """Run a Postgres with the schema and no rows, and yield the URL of its database."""
    postgres = LocalPostgres(home / "postgres")
    try:
        postgres.start()
        migrate(postgres.dsn)
        yield postgres.dsn
    finally:
        postgres.kill()
        postgres.remove()


def watch(process: subprocess.Popen[bytes], dsn: str, changelog: Changelog) -> tuple[Moment, Moment]:
    """Return the moments of the commits that ended the warm-up and the measured part, once everything is written.

    Raises:
        BenchError: the sinks ended, or were not done in time.
    """
    shares = [WARM_SHARE, END_SHARE]
    moments: list[Moment] = []
    deadline_s = SYSTEM_CLOCK.monotonic_s() + WITHIN_S
    with psycopg.connect(dsn, autocommit=True) as connection:
        while process.poll() is None and SYSTEM_CLOCK.monotonic_s() < deadline_s:
            done = applied(connection)
            cells = sum(changelog.cells_before(*place) for place in done.items())
            if shares and cells >= shares[0] * changelog.cell_count:
                moments.append(moment(process, connection, cells))
                shares.pop(0)
            if changelog.is_whole(done) and not shares:
                return moments[0], moments[1]
            time.sleep(POLL_S)
    raise BenchError(f"the sinks did not write all cells: exit code {process.poll()}")


def moment(process: subprocess.Popen[bytes], connection: psycopg.Connection, cells: int) -> Moment:
    """Return what was used so far."""
    row = connection.execute("SELECT max(pid) FROM pg_stat_activity WHERE application_name = %s", [APPLICATION_NAME]).fetchone()
    assert row is not None
    return Moment(cells, SYSTEM_CLOCK.monotonic_s(), cpu_s(process.pid), cpu_s(row[0]))


def applied(connection: psycopg.Connection) -> dict[int, int]:
    """Return the next offset of each partition of the changelog."""
    statement = "SELECT partition, next_offset FROM tally.sink_offsets WHERE topic = %s"
    return dict(connection.execute(statement, [TOPIC]).fetchall())


def check(dsn: str, changelog: Changelog) -> None:
    """Compare what Postgres holds with what was folded.

    Raises:
        BenchError: they differ.
    """
    with psycopg.connect(dsn) as connection:
        statement = "SELECT count(*), sum(event_count)::bigint, sum(price_sum)::bigint FROM tally.minute_cells"
        found = connection.execute(statement).fetchone()
    if found != (changelog.cell_count, EVENTS, changelog.price_sum):
        raise BenchError(f"postgres holds {found}, folded were {changelog.cell_count, EVENTS, changelog.price_sum}")


def template() -> Path:
    """Return the folder of a stopped Kafka that holds the changelog; filled once, and anew when its makers change."""
    makers = (ROOT / name for name in ("load/events.py", "tables/blocks.py", "tables/fold.py", "stack/kafka-coordinates.txt"))
    digest = hashlib.sha256(b"".join(maker.read_bytes() for maker in (*makers, Path(__file__)))).hexdigest()[:12]
    folder = bench_home() / f"blocks-{EVENTS}-{digest}"
    if folder.exists():
        return folder
    for old in bench_home().glob("blocks-*"):
        shutil.rmtree(old, ignore_errors=True)
    tell(f"  filling a changelog with {EVENTS:,} events; kept for the next run")
    with run_folder() as home:
        kafka = LocalKafka(home / "kafka")
        kafka.start()
        try:
            create_topics(kafka.servers, load_settings({"TALLY_TOPICS_PARTITIONS": str(PARTITIONS)}))
            changelog = asyncio.run(fill(kafka.servers))
        finally:
            kafka.stop()
        (home / "kafka" / MANIFEST).write_text(json.dumps(vars(changelog)), encoding="utf-8")
        (home / "kafka").rename(folder)
    return folder


async def fill(servers: str) -> Changelog:
    """Write the changelog as workers would, and return what it holds."""
    changelog = Changelog([[] for _ in range(PARTITIONS)], [[] for _ in range(PARTITIONS)], 0)
    producer: Any = AIOKafkaProducer(bootstrap_servers=servers, acks="all", compression_type="zstd", max_batch_size=1 << 20)
    await producer.start()
    try:
        for partition, records in changelog_records():
            (sent,) = await send_groups(producer, TOPIC, partition, [records])
            note(changelog, partition, (await sent.acknowledgment).offset, records)
    finally:
        await producer.stop()
    return changelog


def changelog_records() -> Iterator[tuple[int, list[ChangelogRecord]]]:
    """Yield partition and records of each whole bucket: its blocks, then the progress."""
    fold = Fold(Codec(USER_TAGS), None)
    waiting: list[list[bytes | None]] = [[] for _ in range(PARTITIONS)]
    numbers, left = [0] * PARTITIONS, BUCKETS
    for event in events(SEED, count=2 * EVENTS):
        partition = partition_of(event.cookie, PARTITIONS)
        waiting[partition].append(event.body)
        if len(waiting[partition]) == BUCKET_OFFSETS:
            bucket = OpenBucket(numbers[partition], sums=len(USER_TAGS.sums))
            fold.fold(waiting[partition], bucket.number * BUCKET_OFFSETS, bucket.minutes, [])
            yield partition, [ChangelogRecord(*record) for record in bucket.emit(bucket.end - 1, stored=lambda *_: ())]
            waiting[partition].clear()
            numbers[partition] += 1
            left -= 1
            if not left:
                return


def note(changelog: Changelog, partition: int, offset: int, records: list[ChangelogRecord]) -> None:
    """Remember where the blocks of one batch lie, and what they add up to."""
    for at, record in enumerate(records, offset):
        assert record.key is not None
        assert record.value is not None
        if BlockKey.decode(record.key).minute != PROGRESS:
            block = decode_block(record.value)
            cells = changelog.cells[partition]
            changelog.offsets[partition].append(at)
            cells.append((cells[-1] if cells else 0) + len(block))
            changelog.price_sum += int(block.sums[0].sum())


CASE = Case("sink", "cells into Postgres", measure)
