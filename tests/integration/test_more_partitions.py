"""More partitions are a new installation beside the old one, as docs/production.md says: no event is lost or counts twice."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from streams.partitioner import partition_of
from streams.topics import USER_TAGS
from tests.support.eventually import eventually
from tests.support.job import ROOT, Door, Job, send_all
from tests.support.oracle import Oracle, read_topic
from tests.support.sinks_process import select
from tests.support.tags import START_TEXT, some_tags

BEFORE, AFTER = 2, 4
EVENTS = 3_000
MINUTES = 10
WITHIN_S = 60.0
Minutes = Counter[tuple[str, str]]
"""Events by minute and action."""


class Installation:
    """One job, the events that its gateway took, and what it says of them."""

    def __init__(self, home: Path, partitions: int) -> None:
        self.job = Job(home, settings={"TALLY_TOPICS_PARTITIONS": str(partitions)})
        self.partitions = partitions

    def send(self, bodies: list[bytes]) -> None:
        assert asyncio.run(send_all(self.job.port, bodies)) == len(bodies)

    @property
    def servers(self) -> str:
        return self.job.services()["TALLY_KAFKA_SERVERS"]

    @property
    def dsn(self) -> str:
        return self.job.services()["TALLY_POSTGRES_DSN"]

    def answered(self) -> Minutes:
        """Return what its gateway answers."""
        found: Minutes = Counter()
        with closing(Door(self.job.port)) as door:
            for action in ("VIEW", "BUY"):
                answer = door.aggregates(START_TEXT, MINUTES, ["COUNT"], {"action": action})
                assert answer.status == 200, answer
                found.update({(minute[:16], action): int(count) for minute, _, count in answer.json["rows"] if count != "0"})
        return found

    def reported(self) -> Minutes:
        """Return what its Postgres says."""
        columns = """to_char(minute_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI'), action, sum(event_count)::bigint"""
        rows = select(self.dsn, f"SELECT {columns} FROM tally.minute_aggregates GROUP BY 1, 2")
        return Counter({(minute, action): count for minute, action, count in rows})

    def wait_for(self, bodies: list[bytes]) -> None:
        """Wait until answers and Postgres have exactly these events."""
        wanted = minutes_of(bodies)
        eventually(lambda: self.answered() == wanted, within_s=WITHIN_S, what=f"{len(bodies)} events answered")
        eventually(lambda: self.reported() == wanted, within_s=WITHIN_S, what=f"{len(bodies)} events in postgres")


def minutes_of(bodies: list[bytes]) -> Minutes:
    """Return what these events add up to."""
    oracle, found = Oracle(), Minutes()
    for arrival, body in enumerate(bodies):
        oracle.add(body, arrival)
    for cell, count in oracle.counts.items():
        found[cell[0][:16], cell[1]] += count
    return found


async def send_again(old: Installation, new: Installation) -> int:
    """Send what the old source topic holds into the new one, as a producer of the operator's would; return how much."""
    producer = AIOKafkaProducer(bootstrap_servers=new.servers, acks="all")
    await producer.start()
    try:
        records = list(read_topic(old.servers, USER_TAGS.topic))
        for record in records:
            partition = partition_of(record.key, new.partitions)
            await producer.send(USER_TAGS.topic, record.value, key=record.key, partition=partition)
        await producer.flush()
    finally:
        await producer.stop()
    return len(records)


@pytest.fixture
def installations() -> Iterator[tuple[Installation, Installation]]:
    folder = Path(tempfile.mkdtemp(prefix="tally-partitions-"))
    old, new = Installation(folder / "old", BEFORE), Installation(folder / "new", AFTER)
    try:
        yield old, new
    finally:
        old.job.end()
        new.job.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(600)
def test_new_installation_with_more_partitions_has_each_event_once(installations: tuple[Installation, Installation]) -> None:
    """The number belongs to keys, blocks and offsets, so it is moved to, and never altered in place."""
    old, new = installations
    bodies = [tag.value for tag in some_tags(3, 2 * EVENTS, minutes=MINUTES)]
    first, rest = bodies[:EVENTS], bodies[EVENTS:]
    old.job.start()
    old.send(first)
    old.wait_for(first)

    new.job.start()  # 1. beside the old one
    new.send(rest)  # 2. the balancer sends to the new gateways
    new.wait_for(rest)
    assert old.reported() + new.reported() == minutes_of(bodies), "4. two databases add up where nothing is sent again"
    assert asyncio.run(send_again(old, new)) == len(first)  # 3.
    new.wait_for(bodies)
    old.job.stop()  # 4.
    new.wait_for(bodies)

    altered = {**old.job.environ, "TALLY_TOPICS_PARTITIONS": str(AFTER)}
    answer = subprocess.run(["make", "run"], cwd=ROOT, env=altered, capture_output=True, text=True, timeout=180, check=False)
    assert answer.returncode != 0
    assert f"topics.partitions is {AFTER}, but topic" in answer.stdout + answer.stderr
