"""The whole job as `make run` starts it, under traffic and killed in the middle of it, compared with plain recomputation."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2
from kafka import KafkaConsumer, TopicPartition

from streams.event_time import format_instant, parse_instant
from streams.settings import load_settings
from streams.topics import USER_TAGS
from tests.support.eventually import eventually
from tests.support.job import Door, Job, send_all
from tests.support.oracle import Oracle

MINUTE = "2022-03-01T00:00"
LATER = "2022-03-01T00:10"
START_MS = parse_instant(f"{MINUTE}:00Z")
SPAN_MS = 18 * 60_000
SEED = 2022
HOTTEST = "cookie-hot"
COOKIES = 20_000
GATEWAY_EVENTS = 60_000
DIRECT_EVENTS = 200_000
MORE_GATEWAY_EVENTS = 10_000
MORE_DIRECT_EVENTS = 40_000
PROFILES = 1_000
CELLS_SAMPLED = 6
BOTH = ("COUNT", "SUM_PRICE")
NAMES = ("action", "origin", "brand_id", "category_id")
EVENTS_A_TURN = 200
"""Of those sent straight into Kafka, before the others have their turn."""
CAUGHT_UP_WITHIN_S = 120.0
STARTED_AGAIN_WITHIN_S = 60.0

Totals = dict[str, tuple[int, int]]
"""Count and sum of prices by minute."""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that Postgres may use under another user as well."""
    folder = Path(tempfile.mkdtemp(prefix="tally-job-"))
    yield folder / "home"
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(job: Job) -> Iterator[Job]:
    """Run the job; whatever happens, nothing of it is left at the end."""
    try:
        yield job.start()
    finally:
        job.end()


def some_events(count: int, *, seed: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield cookie and event of 18 minutes in no order of time, at the spec's cardinalities; a few cookies are busy."""
    chance = random.Random(seed)
    for number in range(count):
        cookie = HOTTEST if chance.random() < 0.05 else f"cookie-{int(COOKIES * chance.random() ** 3)}"
        at = format_instant(START_MS + chance.randrange(SPAN_MS))
        time = at if number % 7 else at[:19] + "Z"
        event = (
            f'{{"time":"{time}","cookie":"{cookie}","country":"PL","device":"{chance.choice(("PC", "MOBILE", "TV"))}",'
            f'"action":"{"BUY" if chance.random() < 0.2 else "VIEW"}","origin":"ORIGIN_{int(1_000 * chance.random() ** 2)}",'
            f'"product_info":{{"product_id":{chance.randrange(100_000)},"brand_id":"Brand_{int(250 * chance.random() ** 2)}",'
            f'"category_id":"Category_{chance.randrange(67)}","price":{chance.randrange(33_000)}}}}}'
        )
        yield cookie.encode(), event.encode()


async def produce(servers: str, count: int, *, seed: int) -> int:
    """Send events straight into Kafka, in batches, as a fast producer of one's own does; return how many."""
    partitions = load_settings({}).topics.partitions
    async with AIOKafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True) as producer:
        batches = [producer.create_batch() for _ in range(partitions)]
        sending = []
        for number, (cookie, event) in enumerate(some_events(count, seed=seed)):
            partition = (murmur2(cookie) & 0x7FFF_FFFF) % partitions
            if batches[partition].append(key=cookie, value=event, timestamp=None) is None:
                sending.append(await producer.send_batch(batches[partition], USER_TAGS.topic, partition=partition))
                batches[partition] = producer.create_batch()
                batches[partition].append(key=cookie, value=event, timestamp=None)
            if number % EVENTS_A_TURN == 0:
                await asyncio.sleep(0)
        for partition, batch in enumerate(batches):
            sending.append(await producer.send_batch(batch, USER_TAGS.topic, partition=partition))
        await asyncio.gather(*sending)
    return count


@contextmanager
def traffic(job: Job, *, direct: int, gateway: int, seed: int) -> Iterator[None]:
    """Send events by the gateway and straight into Kafka at once; all of them are acknowledged at the end of the block."""
    servers = job.services()["TALLY_KAFKA_SERVERS"]
    bodies = (event for _, event in some_events(gateway, seed=seed))

    async def send() -> list[int]:
        return list(await asyncio.gather(produce(servers, direct, seed=seed + 1), send_all(job.port, bodies)))

    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(asyncio.run, send())
        yield
        assert sending.result() == [direct, gateway]


def questions(oracle: Oracle) -> list[dict[str, str]]:
    """Return all filter combinations of both actions, with the values of a sample of cells and some that nobody has."""
    chance = random.Random(SEED)
    sample = chance.sample(sorted(oracle.counts), CELLS_SAMPLED)
    values = [dict(zip(NAMES[1:], cell[2:], strict=True)) for cell in sample] + [dict.fromkeys(NAMES[1:], "nobody")]
    asked = {
        tuple(({"action": action} | {name: cell[name] for name in NAMES[1:] if name in given}).items())
        for cell, action in product(values, ("VIEW", "BUY"))
        for given in ({name for name, is_given in zip(NAMES[1:], flags, strict=True) if is_given} for flags in FLAGS)
    }
    return [dict(filters) for filters in sorted(asked)]


FLAGS = tuple(product((False, True), repeat=3))


def totals_of(oracle: Oracle, asked: Sequence[dict[str, str]]) -> list[Totals]:
    """Return what each question should find, in one pass over the cells."""
    wanted: dict[tuple[str | None, ...], int] = {tuple(map(filters.get, NAMES)): number for number, filters in enumerate(asked)}
    found: list[Totals] = [{} for _ in asked]
    for (minute, action, *rest), count in oracle.counts.items():
        price = oracle.sums[minute, action, *rest]
        for flags in FLAGS:
            key = (action, *(value if is_given else None for value, is_given in zip(rest, flags, strict=True)))
            if key in wanted:
                before = found[wanted[key]].get(minute, (0, 0))
                found[wanted[key]][minute] = (before[0] + count, before[1] + price)
    return found


def check_queries(door: Door, oracle: Oracle, *, profiles: int) -> None:
    """Compare every (minute, filter combination) of a sample, and every profile of one, the hottest included."""
    asked = questions(oracle)
    for filters, expected in zip(asked, totals_of(oracle, asked), strict=True):
        for start in (MINUTE, LATER):
            answer = door.aggregates(start, 10, BOTH, filters)
            assert answer.status == 200, answer
            rows = {row[0][:16]: (int(row[-2]), int(row[-1])) for row in answer.json["rows"]}
            assert rows == {minute: expected.get(minute, (0, 0)) for minute in rows}, filters
            assert len(rows) == 10
    everybody = Counter[str]()
    for (cookie, _), events in oracle.users.items():
        everybody[cookie] += len(events)
    hottest = [cookie for cookie, _ in everybody.most_common(50)]
    assert hottest[0] == HOTTEST
    assert everybody[HOTTEST] > 2_000
    for cookie in {*hottest, *random.Random(SEED).sample(sorted(everybody), profiles - len(hottest))}:
        assert door.profile(cookie).json == oracle.profile(cookie, 0, 1 << 60), cookie


def check_postgres(dsn: str, oracle: Oracle) -> None:
    """Compare every cell of the view, and events by user; one row an event."""
    with psycopg.connect(dsn) as connection:
        cells = connection.execute(
            "SELECT to_char(minute_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI'), action, origin, brand_id, category_id,"
            " event_count, price_sum FROM tally.minute_aggregates"
        ).fetchall()
        assert {row[:5]: row[5:] for row in cells} == oracle.totals()
        assert len(cells) == len(oracle.totals())
        distinct = "SELECT count(*), count(DISTINCT (source_partition, source_offset)) FROM tally.user_events"
        assert connection.execute(distinct).fetchone() == (oracle.records, oracle.records)
        users = connection.execute("SELECT cookie, action, count(*), sum(price)::bigint FROM tally.user_events GROUP BY 1, 2")
        found = {row[:2]: row[2:] for row in users}
        assert connection.execute("SELECT count(*) FROM tally.dead_letters").fetchone() == (0,)
    expected: defaultdict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for user, events in oracle.users.items():
        expected[user] = (len(events), sum(event["product_info"]["price"] for _, _, event in events))
    assert found == expected


@dataclass
class TopicOracle(Oracle):
    """The oracle of a topic that grows: `positions` are the next offsets to read."""

    positions: dict[int, int] = field(default_factory=dict)


def read_on(servers: str, oracle: TopicOracle) -> None:
    """Add what the source topic holds beyond what the oracle has read; not by aiokafka, which the worker's code has changed."""
    with closing(KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)) as consumer:
        partitions = [TopicPartition(USER_TAGS.topic, number) for number in range(load_settings({}).topics.partitions)]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, oracle.positions.get(partition.partition, 0))
        while any(oracle.positions.get(partition.partition, 0) < end for partition, end in ends.items()):
            for partition, records in consumer.poll(timeout_ms=1_000).items():
                for record in records:
                    oracle.add(record.value, record.offset)
                oracle.positions[partition.partition] = records[-1].offset + 1


def check_everything(job: Job, oracle: TopicOracle, *, profiles: int = PROFILES) -> None:
    """Wait until nothing lags, then compare all of it with the source topic."""
    services = job.services()
    read_on(services["TALLY_KAFKA_SERVERS"], oracle)
    with closing(Door(job.port)) as door:

        def counted() -> bool:
            answers = [
                door.aggregates(start, 10, ("COUNT",), {"action": a}) for start, a in product((MINUTE, LATER), ("VIEW", "BUY"))
            ]
            return sum(int(row[-1]) for answer in answers for row in answer.json["rows"]) == oracle.records

        def stored() -> bool:
            with psycopg.connect(services["TALLY_POSTGRES_DSN"]) as connection:
                row = connection.execute(
                    "SELECT sum(event_count), (SELECT count(*) FROM tally.user_events) FROM tally.minute_aggregates"
                )
                return row.fetchone() == (oracle.records, oracle.records)

        eventually(counted, within_s=CAUGHT_UP_WITHIN_S, what=f"{oracle.records} events counted")
        check_queries(door, oracle, profiles=profiles)
        eventually(stored, within_s=CAUGHT_UP_WITHIN_S, what=f"{oracle.records} events in Postgres")
    check_postgres(services["TALLY_POSTGRES_DSN"], oracle)


def kill(job: Job, *words: str) -> None:
    """Kill one process of the job as a crash would, and wait until the manager has started it again."""
    (pid,) = job.pids(*words)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: job.pids(*words) not in ([], [pid]), within_s=STARTED_AGAIN_WITHIN_S, what=f"{words} started again")


@pytest.mark.timeout(600)
def test_job_counts_every_event_exactly_once_through_kills_and_restarts(home: Path) -> None:
    """A2, A4, A8, A10, issue point 12: HTTP and Postgres equal the source topic after traffic, kills, and a second start."""
    job, oracle = Job(home), TopicOracle()
    with running(job):
        with traffic(job, direct=DIRECT_EVENTS, gateway=GATEWAY_EVENTS, seed=SEED):
            second = job.again()
            assert second.returncode != 0
            assert "tally already runs in" in second.stderr
            assert "Traceback" not in second.stderr
        check_everything(job, oracle)
        assert oracle.records == DIRECT_EVENTS + GATEWAY_EVENTS
        with traffic(job, direct=MORE_DIRECT_EVENTS, gateway=MORE_GATEWAY_EVENTS, seed=SEED + 10):
            kill(job, "-m faust", "worker")
            kill(job, "-m sinks")
        check_everything(job, oracle)
        assert oracle.records == DIRECT_EVENTS + GATEWAY_EVENTS + MORE_DIRECT_EVENTS + MORE_GATEWAY_EVENTS
        job.stop()
        assert job.pids() == []
        job.start()
        check_everything(job, oracle, profiles=100)
        assert oracle.records == DIRECT_EVENTS + GATEWAY_EVENTS + MORE_DIRECT_EVENTS + MORE_GATEWAY_EVENTS
        job.stop()
        assert job.pids() == []
