"""Submissions are counted and written exactly once while a worker, the sinks and Kafka are killed in the midst of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from sinks.migrate import migrate
from streams.clock import SYSTEM_CLOCK
from streams.event_time import format_instant, parse_instant
from streams.topics import DEAD_LETTERS, EVENTS, changelog_of
from tests.support.cluster import PARTITIONS, Cluster, a_cluster
from tests.support.eventually import eventually
from tests.support.gateway_process import Gateway, running_gateway
from tests.support.job import minutes_from
from tests.support.sinks_process import SinksProcess, applied, select
from tests.support.submission_oracle import SubmissionOracle
from tests.support.submission_stream import KEYS, PRODUCTS, SubmissionStream
from tests.support.worker import WorkerProcess, get

SEED = 7
MINUTE_MS = 60_000
MINUTES = 9
CAUGHT_UP_WITHIN_S = 60.0
IN_BETWEEN = 300
"""Submissions that are acknowledged between two faults, and while one lasts that does not stop the gateway."""
TOPICS = (EVENTS.topic, *map(changelog_of, EVENTS.tables), DEAD_LETTERS)
Row = tuple[Any, ...]


class Scene:
    """A whole job but for its manager, which this is: Kafka, two workers, the sinks, a gateway, and a stream into it."""

    def __init__(self, cluster: Cluster, dsn: str, gateway: Gateway, workers: list[WorkerProcess], sinks: SinksProcess) -> None:
        now_ms = SYSTEM_CLOCK.now_ms()
        self.start_ms = now_ms - now_ms % MINUTE_MS - MINUTES * MINUTE_MS
        self.cluster, self.dsn, self.gateway, self.workers, self.sinks = cluster, dsn, gateway, workers, sinks
        self.stream = SubmissionStream(cluster.servers, gateway.port, seed=SEED, minute_ms=self.start_ms, minutes=MINUTES)

    def wait_more(self) -> None:
        """Wait until the stream has gone on for a while."""
        target = len(self.stream.acknowledged) + IN_BETWEEN
        eventually(lambda: len(self.stream.acknowledged) >= target, within_s=CAUGHT_UP_WITHIN_S, what="more acknowledged")

    def count_logged(self) -> int:
        """Return how many submissions Postgres knows of."""
        return int(select(self.dsn, "SELECT count(*) FROM tally.txn_log WHERE state = 'DONE'")[0][0])

    def wait_written(self) -> None:
        """Wait until everything that Kafka has is in Postgres; the open buckets' last versions come within a second or so."""

        def written() -> bool:
            done = applied(self.dsn)
            ends = {(topic, n): end for topic in TOPICS for n, end in self.cluster.log_ends(topic).items()}
            behind = {place: end - done.get(place, 0) for place, end in ends.items() if end > done.get(place, 0)}
            assert not behind, f"behind: {behind}"
            return True

        eventually(written, within_s=CAUGHT_UP_WITHIN_S, what="everything in Postgres")


@contextmanager
def a_scene(home: Path, dsn: str) -> Iterator[Scene]:
    """Run the job; everything of it is gone at the end."""
    with a_cluster(home / "cluster") as cluster:
        workers = [cluster.worker(index=index) for index in range(2)]
        sinks = SinksProcess(cluster.servers, dsn, home / "sinks.log").start()
        urls = ",".join(worker.url for worker in workers)
        try:
            with running_gateway(cluster.servers, gateway_workers=urls, events_recent_events_max="50") as gateway:
                for worker in workers:
                    worker.start(wait=False)
                for worker in workers:
                    worker.wait_ready()
                eventually(lambda: get(gateway.url("/ready"))[0] == 200, what="the gateway ready")
                yield Scene(cluster, dsn, gateway, workers, sinks)
        finally:
            sinks.stop()


@pytest.fixture
def scene(tmp_path: Path, fresh_database: str) -> Iterator[Scene]:
    migrate(fresh_database)
    with a_scene(tmp_path, fresh_database) as scene:
        yield scene


def kill_one_after_the_other(scene: Scene) -> None:
    """Kill a worker, whose partitions then move, the sinks, Kafka, and at last a worker and the sinks together."""
    first, second = scene.workers
    scene.wait_more()
    first.kill()
    eventually(lambda: len(get(f"{second.url}/ready")[1]["partitions"]) == PARTITIONS, within_s=60, what="one owner of all")
    scene.wait_more()
    first.start()
    scene.wait_more()
    scene.sinks.kill()
    scene.wait_more()
    scene.sinks.start()
    written = scene.count_logged()
    eventually(lambda: scene.count_logged() > written + IN_BETWEEN, within_s=60, what="the sinks going on")
    refused = scene.stream.asked_again
    scene.cluster.kafka.kill()
    eventually(lambda: scene.stream.asked_again > refused, what="the gateway refusing")
    scene.cluster.kafka.start()
    scene.wait_more()
    second.kill()
    scene.sinks.kill()
    second.start()
    scene.sinks.start()
    scene.wait_more()


def counts_of(worker: WorkerProcess, start: str, filters: dict[str, str]) -> list[int]:
    """Return how many datapoints a worker says there are, minute by minute."""
    query = urlencode({"time_range": minutes_from(start, MINUTES), "aggregates": "COUNT", **filters})
    status, answer = get(f"{worker.url}/v1/aggregates?{query}")
    assert status == 200, answer
    return [int(row[-1]) for row in answer["rows"]]


def wait_counted(scene: Scene, oracle: SubmissionOracle, start: str) -> None:
    """Wait until as many are counted as there are; whether they are the right ones is for the comparison."""
    for worker in scene.workers:
        eventually(
            lambda worker=worker: sum(counts_of(worker, start, {})) >= oracle.count(),  # type: ignore[misc]
            within_s=CAUGHT_UP_WITHIN_S,
            what=f"{oracle.count()} datapoints at worker {worker.index}",
        )


def assert_answers_exact(scene: Scene, oracle: SubmissionOracle, start: str) -> None:
    """Compare every cell, at each worker, and the timelines of all users."""
    minutes = [format_instant(scene.start_ms + number * MINUTE_MS)[:16] for number in range(MINUTES)]
    for worker in scene.workers:
        for kind in EVENTS.kinds:
            for product in PRODUCTS:
                for key in KEYS:
                    filters = {"kind": kind, "product": product, "datapoint": key}
                    expected = [oracle.totals[minute, kind, product, key] for minute in minutes]
                    assert counts_of(worker, start, filters) == expected, filters
    for number, (user, events) in enumerate(oracle.timelines().items()):
        if user:
            status, answer = get(f"{scene.workers[number % 2].url}/v1/timelines/{quote(user)}")
            assert (status, answer["complete"]) == (200, True)
            assert sorted(map(shown, answer["events"] + answer["transactions"])) == sorted(map(shown, events)), user


def shown(event: dict[str, Any]) -> Row:
    """Return what tells an event of a timeline from others."""
    datapoints = [(member["key"], member["value"]) for member in event["data"]]
    return event["id"], event["kind"], event["product"], event["time"], datapoints


def assert_rows_exact(dsn: str, oracle: SubmissionOracle) -> None:
    """Compare every row of Postgres: datapoints, the log of submissions, dead letters, aggregates."""
    columns = "source_partition, source_offset, position, event_id, kind, product, user_id"
    time = "(extract(epoch FROM occurred_at) * 1000)::bigint"
    rows = select(dsn, f"SELECT {columns}, {time}, datapoint, value FROM tally.events ORDER BY 1, 2, 3")
    assert rows == [row for first in sorted(oracle.firsts) for row in datapoints_of(*first)]
    columns = "source_partition, coalesce(user_id, ''), txn_id, state, attempts, source_offset, last_offset, error"
    log = select(dsn, f"SELECT {columns} FROM tally.txn_log")
    assert {row[:3]: (*row[3:7], row[7] and row[7].partition(":")[0]) for row in log} == expected_log(oracle)
    assert len(log) == len(oracle.attempts)
    letters = select(dsn, "SELECT source_topic, reason, source_partition, source_offset FROM tally.dead_letters")
    assert sorted(letters) == [(EVENTS.topic, "time", *place) for place in sorted(oracle.refused)]
    minute = "to_char(minute_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI')"
    cells = select(dsn, f"SELECT {minute}, kind, product, datapoint, event_count FROM tally.event_aggregates")
    assert {cell[:4]: cell[4] for cell in cells} == oracle.totals


def datapoints_of(partition: int, offset: int, event: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of a submission."""
    head = event["id"], event["kind"], event["product"], event["user"] or None, parse_instant(event["time"])
    for position, member in enumerate(event["data"]):
        yield partition, offset, position, *head, member["key"], member["value"]


def expected_log(oracle: SubmissionOracle) -> dict[Row, Row]:
    """Return what the log must say of each submission: whatever else was sent of it, DONE with the one that counts."""
    places = {(first.partition, first.event["user"], first.event["id"]): first.offset for first in oracle.firsts}
    return {
        key: ("DONE", len(offsets), places[key], offsets[-1], None)
        if key in places
        else ("FAILED", len(offsets), offsets[0], offsets[-1], "time")
        for key, offsets in oracle.attempts.items()
    }


def test_submissions_count_once_while_a_worker_the_sinks_and_kafka_are_killed(scene: Scene) -> None:
    """P2, P4, P12, P14: what was acknowledged is there, once, however often it came; oracle: the source topic, read anew."""
    scene.stream.start()
    try:
        kill_one_after_the_other(scene)
    finally:
        scene.stream.finish()
    oracle, start = SubmissionOracle.of(scene.cluster.servers, EVENTS.topic), format_instant(scene.start_ms)[:16]
    assert scene.stream.acknowledged <= {key[1:] for key in oracle.attempts}
    assert len(oracle.duplicates) > len(oracle.firsts) // 10 and oracle.refused
    wait_counted(scene, oracle, start)
    scene.wait_written()
    assert_answers_exact(scene, oracle, start)
    assert_rows_exact(scene.dsn, oracle)
