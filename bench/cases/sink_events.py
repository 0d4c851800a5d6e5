"""What the sinks cost a datapoint: a million of transactions of Labs, and native events, from Kafka into a fresh Postgres.

The rows are those that a worker makes; the records themselves lie in the source topic, for the transaction log: its PENDING and
DONE, the counts of the reports (one datapoint in ten is one of theirs) and the rows are all in the figures. CPU is that of all
threads of the sinks' process, from the commit by which a tenth of both topics is written to the one with nine tenths. What
Postgres then holds must be what was sent, and all of it DONE.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import psycopg
from aiokafka import AIOKafkaProducer

from agents.changelog import ChangelogRecord, send_groups
from bench.backlogs import run_folder
from bench.case import Case, Figure
from bench.cases.sink import Moment, empty_postgres, moment
from bench.processes import peak_rss_mib
from bench.programs import running
from bench.progress import MEMORY_UNIT, BenchError
from bench.workloads import scale
from stack.kafka import LocalKafka
from stack.ports import free_port
from stack.topics import create_topics
from streams.clock import SYSTEM_CLOCK
from streams.codecs import Codec, Decoded
from streams.settings import load_settings
from streams.topics import EVENTS, changelog_of
from tables.blocks import Minutes
from tables.duplicates import Judged
from tables.fold import Fold
from tables.profiles import INDEX, INVERSE, ORDER, RowCodec, encode_spans

ROWS_TOPIC = changelog_of(EVENTS.rows_table)
PARTITIONS = 4
SEED = 1
DATAPOINTS = max(400_000, int(1_000_000 * scale()))
"""Fewer are one transaction of the sinks or two, in which nothing can be measured."""
RUN_RECORDS = 2_048
USERS, POSTS, KEYS = 20_000, 1_000, 200
TIME = "2024-01-01T00:00:00.000Z"
WARM_SHARE, END_SHARE = 0.1, 0.9
"""The last transaction waits for records that never come, until its time is over; so what is measured ends before."""
POLL_S = 0.02
WITHIN_S = 300.0
CPU_UNIT = "µs CPU/row"
CHECK = """
SELECT (SELECT count(*) FROM tally.events), (SELECT count(DISTINCT event_id) FROM tally.events),
       (SELECT count(*) FROM tally.txn_log WHERE state = 'DONE' AND attempts = 1),
       (SELECT coalesce(sum(clicks), 0)::bigint FROM tally.clicks_per_post)
"""


Places = dict[tuple[str, int], int]
"""An offset of each topic and partition."""


class Shape(NamedTuple):
    """What the submissions are: their kind, and how many datapoints each has."""

    kind: str
    datapoints: int

    @property
    def submissions(self) -> int:
        """How many there are."""
        return DATAPOINTS // self.datapoints


class Filled(NamedTuple):
    """What Kafka holds: the next offset of each partition of both topics, and how many datapoints a report counts."""

    ends: Places
    clicks: int

    def shares(self, done: Places) -> list[float]:
        """Return of each topic the share that is written."""
        found = []
        for topic in (EVENTS.topic, ROWS_TOPIC):
            places = [place for place in self.ends if place[0] == topic]
            found.append(sum(done.get(place, 0) for place in places) / sum(self.ends[place] for place in places))
        return found


def measure(shape: Shape) -> Iterator[Figure]:
    """Fill a Kafka, and run the sinks into a fresh Postgres."""
    with run_folder() as home, empty_postgres(home) as dsn:
        kafka = LocalKafka(home / "kafka")
        kafka.start()
        try:
            create_topics(kafka.servers, load_settings({"TALLY_TOPICS_PARTITIONS": str(PARTITIONS)}))
            filled = asyncio.run(fill(kafka.servers, shape))
            port = str(free_port())
            settings = {"TALLY_KAFKA_SERVERS": kafka.servers, "TALLY_POSTGRES_DSN": dsn, "TALLY_SINKS_PORT": port}
            with running("sinks", settings=settings, log=home / "sinks.log") as process:
                first, last = watch(process, dsn, filled)
                peak_mib = peak_rss_mib(process.pid)
        finally:
            kafka.kill()
        check(dsn, shape, clicks=filled.clicks)
    yield from figures(first, last)
    yield Figure("peak memory", peak_mib, MEMORY_UNIT)


def figures(first: Moment, last: Moment) -> Iterator[Figure]:
    """Yield what two moments say."""
    rows = last.cells - first.cells
    yield Figure("CPU", (last.sinks_s - first.sinks_s) / rows * 1e6, CPU_UNIT)
    yield Figure("CPU of their process of Postgres", (last.postgres_s - first.postgres_s) / rows * 1e6, CPU_UNIT)
    yield Figure("wall", rows / (last.at_s - first.at_s), "rows/s", more_is_better=True)


def watch(process: subprocess.Popen[bytes], dsn: str, filled: Filled) -> tuple[Moment, Moment]:
    """Return the moments of the commits that ended the warm-up and the measured part, once everything is written.

    A moment's progress is the mean of both topics: one may be a little ahead of the other.

    Raises:
        BenchError: the sinks ended, or were not done in time.
    """
    limits = [WARM_SHARE, END_SHARE]
    moments: list[Moment] = []
    deadline_s = SYSTEM_CLOCK.monotonic_s() + WITHIN_S
    with psycopg.connect(dsn, autocommit=True) as connection:
        while process.poll() is None and SYSTEM_CLOCK.monotonic_s() < deadline_s:
            shares = filled.shares(applied(connection))
            if limits and min(shares) >= limits[0]:
                moments.append(moment(process, connection, int(DATAPOINTS * sum(shares) / len(shares))))
                limits.pop(0)
            if min(shares) >= 1 and not limits:
                return moments[0], moments[1]
            time.sleep(POLL_S)
    raise BenchError(f"the sinks did not write everything: exit code {process.poll()}")


def applied(connection: psycopg.Connection) -> Places:
    """Return the next offset of each partition that is read."""
    rows = connection.execute("SELECT topic, partition, next_offset FROM tally.sink_offsets").fetchall()
    return {(topic, partition): offset for topic, partition, offset in rows}


def check(dsn: str, shape: Shape, *, clicks: int) -> None:
    """Compare what Postgres holds with what was sent.

    Raises:
        BenchError: they differ.
    """
    expected = (shape.submissions * shape.datapoints, shape.submissions, shape.submissions, clicks)
    with psycopg.connect(dsn) as connection:
        found = connection.execute(CHECK).fetchone()
    if found != expected:
        raise BenchError(f"postgres holds {found}, sent were {expected}")


async def fill(servers: str, shape: Shape) -> Filled:
    """Write the records as a gateway would, and their rows as workers would."""
    random_, ends, clicks = random.Random(SEED), dict[tuple[str, int], int](), 0
    fold = Fold(Codec(EVENTS), RowCodec(EVENTS))
    producer: Any = AIOKafkaProducer(bootstrap_servers=servers, acks="all", compression_type="zstd", max_batch_size=1 << 20)
    await producer.start()
    try:
        for number, first in enumerate(range(0, shape.submissions, RUN_RECORDS)):
            partition, count = number % PARTITIONS, min(RUN_RECORDS, shape.submissions - first)
            raws = [submission(random_, shape, each) for each in range(first, first + count)]
            clicks += sum(raw.count(b'"post.click"') for raw in raws)
            base = ends.get((EVENTS.topic, partition), 0)
            records = [ChangelogRecord(b"MOBILE_BACKEND", raw) for raw in raws]
            spans = [ChangelogRecord(*span) for span in encode_spans(rows_of(fold, raws, base))]
            for topic, written in ((EVENTS.topic, records), (ROWS_TOPIC, spans)):
                for sent in await send_groups(producer, topic, partition, [[record] for record in written]):
                    ends[topic, partition] = (await sent.acknowledgment).offset + sent.records
    finally:
        await producer.stop()
    return Filled(ends, clicks)


def submission(random_: random.Random, shape: Shape, number: int) -> bytes:
    """Return a record of the source: ids and texts as long as usual ones."""
    event = {
        "kind": shape.kind, "id": random_.randbytes(32).hex(), "product": "MOBILE_BACKEND", "time": TIME, "source": "",
        "user": f"user-{random_.randrange(USERS)}", "properties": "{}",
        "data": [datapoint(random_, shape, number + position) for position in range(shape.datapoints)],
    }  # fmt: skip
    return msgspec.json.encode(event)


def datapoint(random_: random.Random, shape: Shape, number: int) -> dict[str, str]:
    """Return a datapoint; of transactions one in ten is one that a report counts."""
    if shape.kind == "EVENT":
        return {"key": f"page.view.{random_.randrange(KEYS)}", "value": ""}
    if number % 10 == 0:
        return {"key": "post.click", "value": f"post-{random_.randrange(POSTS)}"}
    return {"key": f"portal.view.{random_.randrange(KEYS)}", "value": str(random_.randrange(10_000))}


def rows_of(fold: Fold, raws: Sequence[bytes], base: int) -> list[bytes]:
    """Return keys and values of the rows of contiguous records, places in the index among them."""

    def judge(decoded: Decoded) -> Judged:
        entries = [
            b"%b%b\0%b" % (INDEX, event.user.encode(), event.id.encode()) + ORDER.pack(INVERSE - at_ms, INVERSE - offset)
            for offset, event, _, at_ms in zip(*decoded, strict=True)
        ]
        return Judged(decoded, entries)

    minutes = Minutes()
    rows: list[bytes] = []
    if fold.fold(raws, base, minutes, rows, judge=judge):
        raise BenchError("a record of the workload is refused")
    return rows


TRANSACTIONS, NATIVE = Shape("TRANSACTION", 10), Shape("EVENT", 1)
CASES = (
    Case("sink_transactions", "transactions of 10 datapoints into Postgres", partial(measure, TRANSACTIONS)),
    Case("sink_events", "native events into Postgres", partial(measure, NATIVE)),
)
