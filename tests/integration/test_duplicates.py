"""A log full of submissions that were sent again is counted once each, by workers that are killed and lose their disks."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from kafka import KafkaProducer
from kafka.admin import AlterConfigOp, ConfigResource, ConfigResourceType, KafkaAdminClient

from streams.event_time import format_instant, parse_instant
from streams.topics import EVENTS, changelog_of
from tables.duplicates import duplicate_key
from tables.erasures import offset_of
from tables.profiles import DUPLICATE, decode_span
from tests.support.builders import a_submission, record_bytes
from tests.support.eventually import eventually
from tests.support.job import minutes_from, own_kafka
from tests.support.oracle import read_topic
from tests.support.sent_again import HOUR_MS, WITHIN_MS
from tests.support.submission_oracle import SubmissionOracle
from tests.support.worker import WorkerProcess, get

MINUTE = "2022-03-01T00:00"
MINUTES = 10
START_MS = parse_instant(f"{MINUTE}:00Z")
SUBMISSIONS = 24_000
USERS = 120
PRODUCTS = ("MOBILE_IOS", "WEB", "API")
KEYS = tuple(f"key-{number}" for number in range(12))
CAUGHT_UP_WITHIN_S = 90.0
SEED = 48


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Kafka whose source takes the producer's word for when a record came, so that days pass in seconds, and keeps them."""
    with own_kafka(tmp_path_factory.mktemp("kafka")) as running:
        with closing(KafkaAdminClient(bootstrap_servers=running)) as admin:
            configs = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}
            change = {name: (AlterConfigOp.SET, value) for name, value in configs.items()}
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, EVENTS.topic, configs=change)])
        yield running


@pytest.fixture(scope="module")
def workers(servers: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[WorkerProcess]]:
    home = tmp_path_factory.mktemp("job")
    made = [WorkerProcess(servers, home, index=index) for index in range(2)]
    yield made
    for worker in made:
        worker.kill()


def some_submissions(chance: random.Random, count: int) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield record keys and submissions; half of them came before, near or far, most from the same user."""
    sent: list[tuple[bytes, dict[str, Any]]] = []
    for number in range(count):
        if sent and chance.random() < 0.5:
            yield chance.choice(sent[-2_000:])
            continue
        user, product = f"user-{chance.randrange(USERS)}", chance.choice(PRODUCTS)
        time = format_instant(START_MS + chance.randrange(MINUTES * 60_000))
        fields = {"user": user, "product": product, "time": time, "id": f"{number % (count // 4)}"}
        if chance.random() < 0.5:
            event = a_submission(chance.choice(KEYS), kind="EVENT", **fields)
            sent.append((user.encode(), event))
        else:
            sent.append((product.encode(), a_submission(*chance.choices(KEYS, k=chance.randrange(6)), **fields)))
        yield sent[-1]


def produce(servers: str, chance: random.Random, count: int, *, from_ms: int) -> int:
    """Send submissions over some days; return when the last one came."""
    now_ms = from_ms
    with closing(KafkaProducer(bootstrap_servers=servers, linger_ms=5)) as producer:
        for key, event in some_submissions(chance, count):
            now_ms += chance.randrange(2 * WITHIN_MS // count)
            producer.send(EVENTS.topic, key=key, value=record_bytes(event), timestamp_ms=now_ms)
        producer.flush()
    return now_ms


def counted(worker: WorkerProcess, filters: dict[str, str]) -> int:
    """Return how many datapoints a worker says there are."""
    query = urlencode({"time_range": minutes_from(MINUTE, MINUTES), "aggregates": "COUNT", **filters})
    status, answer = get(f"{worker.url}/v1/aggregates?{query}")
    assert status == 200, answer
    return sum(int(row[-1]) for row in answer["rows"])


def wait_counted(workers: list[WorkerProcess], oracle: SubmissionOracle) -> None:
    """Wait until as many are counted as there are; whether they are the right ones is for the comparison."""
    expected = oracle.count()
    for worker in workers:
        eventually(
            lambda worker=worker: counted(worker, {}) >= expected,  # type: ignore[misc]
            within_s=CAUGHT_UP_WITHIN_S,
            what=f"{expected} datapoints at worker {worker.index}",
        )


def assert_exact(workers: list[WorkerProcess], oracle: SubmissionOracle) -> None:
    """Compare what each worker answers: every cell's total, the filters alone, and every user's timeline."""
    every = [
        {"kind": kind, "product": product, "datapoint": key} for kind in EVENTS.kinds for product in PRODUCTS for key in KEYS
    ]
    for worker in workers:
        for filters in (*every, *({"product": product} for product in PRODUCTS)):
            assert counted(worker, filters) == oracle.count(**filters), filters
        for user, events in oracle.timelines().items():
            status, answer = get(f"{worker.url}/v1/timelines/{quote(user)}")
            assert status == 200 and answer["complete"]
            shown = sorted((parse_instant(event["time"]), event["id"]) for event in answer["events"] + answer["transactions"])
            assert shown == sorted((parse_instant(event["time"]), event["id"]) for event in events), user


def stored_duplicates(servers: str) -> set[tuple[int, int]]:
    """Return the places that the changelog says are duplicates."""
    return {
        (record.partition, offset_of(key))
        for record in read_topic(servers, changelog_of(EVENTS.rows_table))
        for key, _ in decode_span(record.value)
        if key.startswith(DUPLICATE) and key == duplicate_key(offset_of(key))
    }


def wipe(worker: WorkerProcess) -> None:
    """Lose the disk of a worker that is down."""
    shutil.rmtree(Path(worker.environ["TALLY_STACK_HOME"]) / f"worker-{worker.index}")


def test_submissions_that_are_sent_again_count_once_over_kills_and_lost_disks(
    servers: str, workers: list[WorkerProcess]
) -> None:
    """P4, issue 7.1: deterministic across restart, replay, rebalance and a wiped disk; the same two for every life."""
    chance = random.Random(SEED)
    first, second = workers
    first.start(wait=False)
    second.start()
    first.wait_ready()
    now_ms = produce(servers, chance, SUBMISSIONS // 3, from_ms=START_MS)
    second.kill()  # its partitions go to the first, which learns of the index from the changelog
    now_ms = produce(servers, chance, SUBMISSIONS // 3, from_ms=now_ms + HOUR_MS)
    eventually(lambda: first.metric("tally_duplicates_total") > 0, within_s=CAUGHT_UP_WITHIN_S, what="a duplicate")
    first.kill()
    wipe(first)
    first.start(wait=False)
    second.start()
    first.wait_ready()
    produce(servers, chance, SUBMISSIONS // 3, from_ms=now_ms + HOUR_MS)
    oracle = SubmissionOracle.of(servers, EVENTS.topic)
    assert len(oracle.duplicates) > SUBMISSIONS // 10
    wait_counted(workers, oracle)
    assert_exact(workers, oracle)
    for worker in workers:
        worker.kill()
        wipe(worker)
    for worker in workers:
        worker.start(wait=False)
    for worker in workers:
        worker.wait_ready()
    wait_counted(workers, oracle)
    assert_exact(workers, oracle)
    assert stored_duplicates(servers) == oracle.duplicates
