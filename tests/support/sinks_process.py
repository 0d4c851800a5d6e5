"""Changelogs as a worker would write them, `python -m sinks` as a process, and what Postgres then holds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
from kafka import KafkaProducer

from sinks.__main__ import connect, make_loop
from sinks.health import Health
from sinks.loop import SinkLoop
from sinks.observe import Observer
from sinks.postgres import Postgres
from sinks.postgres import connect as connect_postgres
from stack.ports import free_port
from streams.clock import SYSTEM_CLOCK, Clock
from streams.event_time import format_instant
from streams.metrics import SinkMetrics
from streams.settings import Settings
from streams.topics import BUCKET_OFFSETS, USER_TAGS, changelog_of
from tables.blocks import Cells, OpenBucket, pack
from tables.blocks import Record as ChangelogRecord
from tables.profiles import Row, RowCodec, encode_spans

ROOT = Path(__file__).parents[2]
BLOCKS_TOPIC = changelog_of(USER_TAGS.blocks_table)
ROWS_TOPIC = changelog_of(USER_TAGS.rows_table)
START_MS = 1_646_092_800_000
"""2022-03-01: far from the day on which a test runs, as a simulated day is."""
PARTITIONS = 2
MINUTE = START_MS // 60_000
DEADLINE_S = 60.0

Totals = dict[tuple[str, ...], tuple[int, int]]


@dataclass
class Traffic:
    """Events of one source partition, at random by *seed*, and their changelog records.

    Attributes:
        expected: count and sum by (minute in ms, action, origin, brand, category): a plain recomputation.
    """

    partition: int
    events: int
    seed: int = 1
    minutes: int = 5
    rows: list[Row] = field(default_factory=list)
    expected: Totals = field(default_factory=dict)

    def __post_init__(self) -> None:
        random_ = random.Random(self.seed * 1000 + self.partition)
        counts: Counter[tuple[str, ...]] = Counter()
        sums: Counter[tuple[str, ...]] = Counter()
        for offset in range(self.events):
            at_ms = START_MS + random_.randrange(self.minutes * 60_000)
            brand, category = f"brand\\{random_.randrange(30)}", f"cat\t{random_.randrange(5)}"
            origin, price = f"CAMPAIGN_{random_.randrange(9)}\n", random_.randrange(-5, 100_000)
            kind = random_.choice(("VIEW", "BUY"))
            kept = ("CL", "MOBILE", origin, random_.choice((offset, f"p{offset}")), brand, category, price)
            self.rows.append(Row(f"user{offset % 97}", kind, at_ms, offset, format_instant(at_ms), kept))
            cell = (str(at_ms // 60_000), kind, origin, brand, category)
            counts[cell] += 1
            sums[cell] += price
        self.expected = {cell: (count, sums[cell]) for cell, count in counts.items()}

    def block_records(self, *, partial_every: int = 1500) -> list[ChangelogRecord]:
        """Return the records of the blocks: partial ones every so many events, final ones, tombstones, progress."""
        records: list[ChangelogRecord] = []
        for start in range(0, self.events, BUCKET_OFFSETS):
            bucket = OpenBucket(start // BUCKET_OFFSETS, sums=1)
            rows = self.rows[start : start + BUCKET_OFFSETS]
            for row in rows:
                add_row(bucket.minutes.setdefault(row.at_ms // 60_000, {}), row)
                if (row.offset + 1) % partial_every == 0 or row.offset == start + len(rows) - 1:
                    records += bucket.emit(row.offset, stored=lambda first, last: ())
        return records

    def row_records(self, *, span_rows: int = 1000) -> list[ChangelogRecord]:
        """Return the records of the rows, and keep-alives among them."""
        codec, records = RowCodec(USER_TAGS), list[ChangelogRecord]()
        for start in range(0, self.events, span_rows):
            flat = [part for row in self.rows[start : start + span_rows] for part in codec.encode(row)]
            records += [*encode_spans(flat), (b"keep-alive", b"\x90")]
        return records


TRAFFICS = [Traffic(partition, 9_000, seed=7) for partition in range(PARTITIONS)]


def add_row(cells: Cells, row: Row) -> None:
    """Add one event to the cells of its minute."""
    _, _, origin, _, brand, category, price = row.kept
    dimensions = (row.kind, origin, brand, category)
    cells[dimensions] = cells.get(dimensions, 0) + pack(1, price)


def merged(traffics: Iterable[Traffic]) -> Totals:
    """Return the totals of all partitions."""
    totals: Totals = {}
    for traffic in traffics:
        for cell, (count, total) in traffic.expected.items():
            known = totals.get(cell, (0, 0))
            totals[cell] = known[0] + count, known[1] + total
    return totals


class Changelogs:
    """Writes changelog records as a worker does: whole batches, acks=all, zstd."""

    def __init__(self, servers: str) -> None:
        self.producer: Any = KafkaProducer(
            bootstrap_servers=servers, acks="all", compression_type="zstd", linger_ms=5, max_request_size=8 << 20
        )
        self.ends: dict[tuple[str, int], int] = {}

    def send(self, topic: str, partition: int, records: Sequence[tuple[bytes | None, bytes | None]], **fields: Any) -> None:
        """Return when Kafka has all *records*."""
        futures = [self.producer.send(topic, key=key, value=value, partition=partition, **fields) for key, value in records]
        for future in futures:
            self.ends[topic, partition] = future.get(timeout=30).offset + 1

    def are_in(self, dsn: str) -> bool:
        """Say whether Postgres has applied everything that was sent."""
        done = applied(dsn)
        return all(done.get(place, 0) >= end for place, end in self.ends.items())

    def send_all(self, traffics: Iterable[Traffic]) -> None:
        """Write the changelogs of *traffics*."""
        for traffic in traffics:
            self.send(BLOCKS_TOPIC, traffic.partition, traffic.block_records())
            self.send(ROWS_TOPIC, traffic.partition, traffic.row_records())

    def close(self) -> None:
        self.producer.close()


class SinksProcess:
    """`python -m sinks` with its own port and settings; the program lies under `root`."""

    def __init__(self, servers: str, dsn: str, log: Path, **settings: str) -> None:
        self.port = free_port()
        self.log = log
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TALLY_")},
            "TALLY_KAFKA_SERVERS": servers,
            "TALLY_POSTGRES_DSN": dsn,
            "TALLY_SINKS_PORT": str(self.port),
            "TALLY_SINKS_FLUSH_INTERVAL_S": "0.2",
            **settings,
        }
        self.root = ROOT
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> SinksProcess:
        """Start it; it may take seconds until it reads."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "sinks"]
            self.process = subprocess.Popen(command, cwd=self.root, env=self.environ, stdout=log, stderr=log)
        return self

    def once(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it until it ends by itself."""
        command = [sys.executable, "-m", "sinks", *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=60, check=False)

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> int:
        """End it in order and return its exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, timeout_s: float = 20) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Return status and body of a path; 0 while nobody listens."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self.process is not None and self.process.poll() is None:
            self.send_signal(signal.SIGCONT)
            self.send_signal(signal.SIGTERM)  # In order, or the next one waits until the group has missed this one.
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.kill()
                raise


StartSinks = Callable[..., SinksProcess]
"""Starts the sinks with settings of the environment."""


def a_loop(
    servers: str, dsn: str, *, clock: Clock = SYSTEM_CLOCK, metrics: SinkMetrics | None = None, **sinks: Any
) -> SinkLoop:
    """Return the loop of this process, as `python -m sinks` makes it with the settings *sinks*, not yet running."""
    values = {"kafka": {"servers": servers}, "postgres": {"dsn": dsn}, "sinks": {"flush_interval_s": 0.2, **sinks}}
    settings = Settings.model_validate(values)
    stop, postgres = Event(), Postgres(dsn)
    consumer = connect(settings, stop)
    observer = Observer(consumer, postgres, metrics=metrics or SinkMetrics(), health=Health(clock), clock=clock)
    return make_loop(settings, consumer, postgres, observer=observer, stop=stop)


@contextmanager
def running(loop: SinkLoop) -> Iterator[SinkLoop]:
    """Run a loop in a thread, and stop it in order."""
    thread = Thread(target=loop.run)
    thread.start()
    try:
        yield loop
    finally:
        loop.stop.set()
        thread.join()
        loop.consumer.close(autocommit=False, timeout_ms=3_000)
        loop.postgres.close()


def until(condition: Callable[[], bool], what: str, *, timeout_s: float = DEADLINE_S) -> None:
    """Return as soon as *condition* holds; fail after *timeout_s*."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def connected(dsn: str) -> psycopg.Connection:
    """Return a connection of the sinks."""
    return connect_postgres(dsn)


def select(dsn: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(statement, values).fetchall()


def applied(dsn: str) -> dict[tuple[str, int], int]:
    """Return the next offset of each partition that Postgres has."""
    rows = select(dsn, "SELECT topic, partition, next_offset FROM tally.sink_offsets")
    return {(topic, partition): next_offset for topic, partition, next_offset in rows}


def stored_totals(dsn: str) -> Totals:
    """Return what the view says, as `Traffic.expected` writes it."""
    columns = (
        "(extract(epoch FROM minute_at) / 60)::bigint::text, action, origin, brand_id, category_id, event_count, price_sum"
    )
    rows = select(dsn, f"SELECT {columns} FROM tally.minute_aggregates")
    return {tuple(cell): (count, total) for *cell, count, total in rows}


def stored_rows(dsn: str) -> Iterator[tuple[Any, ...]]:
    """Yield (partition, offset, user, ms, kind, product, price) of each event row, in order."""
    columns = (
        "source_partition, source_offset, cookie, (extract(epoch FROM occurred_at) * 1000)::bigint, action, product_id, price"
    )
    yield from select(dsn, f"SELECT {columns} FROM tally.user_events ORDER BY 1, 2")


def expected_rows(traffics: Iterable[Traffic]) -> Iterator[tuple[Any, ...]]:
    """Yield what `stored_rows` should."""
    for traffic in sorted(traffics, key=lambda traffic: traffic.partition):
        for row in traffic.rows:
            yield traffic.partition, row.offset, row.user, row.at_ms, row.kind, str(row.kept[3]), row.kept[6]
