"""Holes in the source topic, made by the broker itself: markers and aborted transactions, and log compaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaProducer

from tests.support.cluster import PARTITIONS, SOURCE, Cluster, a_cluster
from tests.support.comparison import assert_answers_exact, assert_changelogs_exact, wait_counted
from tests.support.eventually import eventually
from tests.support.oracle import oracle_of, read_topic
from tests.support.tags import Tag, some_tags
from tests.support.worker import WorkerProcess

MINUTES = 12
TRANSACTIONS = 12
TRANSACTION_EVENTS = 400
KEYS = 200


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with a_cluster(tmp_path_factory.mktemp("gaps")) as cluster:
        yield cluster


async def transactional(cluster: Cluster) -> AIOKafkaProducer:
    producer = AIOKafkaProducer(bootstrap_servers=cluster.servers, transactional_id="a-foreign-producer", linger_ms=5)
    await producer.start()
    return producer


async def write(producer: AIOKafkaProducer, seed: int, events: int) -> None:
    """Write into the open transaction, spread over the partitions as murmur2 does."""
    await asyncio.gather(
        *[await producer.send(SOURCE, tag.value, key=tag.key) for tag in some_tags(seed, events, minutes=MINUTES)]
    )


def assert_no_lag(cluster: Cluster, worker: WorkerProcess) -> None:
    """The acknowledged position reaches the end, markers included; a hole taken for a loss would be rewound for ever."""
    eventually(lambda: worker.metric("tally_consumer_lag_records") == 0, what="no lag")
    assert worker.metric("tally_rewinds_total") == 0
    assert "was lost before" not in worker.log()


@pytest.mark.timeout(120)
async def test_transactions_count_when_committed_and_never_when_aborted(cluster: Cluster) -> None:
    """Committed, aborted and open ones between plain records; the open one shows nothing before it is committed."""
    producer = await transactional(cluster)
    for number in range(TRANSACTIONS):
        await asyncio.to_thread(cluster.send, some_tags(number, 300, minutes=MINUTES))
        await producer.begin_transaction()
        await write(producer, 100 + number, TRANSACTION_EVENTS)
        await (producer.abort_transaction() if number % 3 == 1 else producer.commit_transaction())
    worker = await asyncio.to_thread(cluster.worker().start)
    await producer.begin_transaction()
    await write(producer, 999, TRANSACTION_EVENTS)

    def compare() -> int:
        oracle = oracle_of(cluster.servers, SOURCE)
        wait_counted(worker, oracle, minutes=MINUTES)
        assert_answers_exact(worker, oracle, minutes=MINUTES, users=100)
        assert_changelogs_exact(cluster.servers, oracle)
        return oracle.records

    before = await asyncio.to_thread(compare)
    await producer.commit_transaction()
    assert await asyncio.to_thread(compare) == before + TRANSACTION_EVENTS
    await producer.begin_transaction()
    await write(producer, 1000, TRANSACTION_EVENTS)
    await producer.abort_transaction()
    await producer.stop()
    assert await asyncio.to_thread(compare) == before + TRANSACTION_EVENTS
    await asyncio.to_thread(assert_no_lag, cluster, worker)


@pytest.mark.timeout(150)
def test_a_compacted_source_is_counted_as_it_is_left(cluster: Cluster) -> None:
    """Compaction leaves holes inside batches, whole batches empty, and whole buckets without a record."""
    cluster.configure(SOURCE, cleanup_policy="compact", segment_bytes=1 << 20, min_cleanable_dirty_ratio=0.001)
    written = compact(cluster)
    worker = cluster.worker().start()
    oracle = oracle_of(cluster.servers, SOURCE)
    assert 0 < oracle.records < written
    wait_counted(worker, oracle, minutes=MINUTES)
    assert_answers_exact(worker, oracle, minutes=MINUTES, users=100)
    assert_changelogs_exact(cluster.servers, oracle)
    assert_no_lag(cluster, worker)
    worker.kill()
    cluster.wipe()
    worker = cluster.worker().start()
    wait_counted(worker, oracle, minutes=MINUTES)
    assert_answers_exact(worker, oracle, minutes=MINUTES, users=100)
    assert_no_lag(cluster, worker)


def compact(cluster: Cluster) -> int:
    """Write few keys again and again until the broker has removed most of it and is still; return how many were written."""
    written = 40_000
    cluster.send(Tag(b"key %d" % (index % KEYS), tag.value) for index, tag in enumerate(some_tags(1, written, minutes=MINUTES)))
    left = [written]

    def still() -> bool:
        left.append(sum(1 for _ in read_topic(cluster.servers, SOURCE)))
        return left[-1] < written // 2 and left[-1] == left[-2] == left[-3]

    eventually(still, within_s=60, what="a compacted log")
    assert sum(cluster.log_ends().values()) == written and len(cluster.log_ends()) == PARTITIONS
    return written
