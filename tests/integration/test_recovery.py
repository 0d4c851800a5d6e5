"""State comes back exactly: from the changelog, from the disk, from what compaction left, and past a zombie's writes."""

from __future__ import annotations

import itertools
import signal
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import pytest
from kafka import TopicPartition

from stack.ports import free_port
from streams.partitioner import partition_of
from tests.support.builders import a_record
from tests.support.cluster import PARTITIONS, Cluster, a_cluster
from tests.support.comparison import (
    BLOCKS,
    ROWS,
    assert_answers_exact,
    assert_changelogs_exact,
    counted,
    wait_counted,
)
from tests.support.eventually import eventually
from tests.support.oracle import read_topic
from tests.support.tags import Tag, some_tags
from tests.support.worker import WorkerProcess, get

MINUTES = 12
ROUND_EVENTS = 8_000
EMPTIED = 1
STARTING, RESTORING = "Worker]: Starting...", "Restoring state from changelog"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with a_cluster(tmp_path_factory.mktemp("recovery")) as cluster:
        yield cluster


@pytest.fixture
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """For a test that destroys what others compare."""
    with a_cluster(tmp_path_factory.mktemp("recovery")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def seeds() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture(autouse=True)
def _no_worker_left(cluster: Cluster) -> Iterator[None]:
    """Every test starts from whatever the one before left in Kafka and on disk, without a worker."""
    yield
    cluster.close()


def compare(cluster: Cluster, *workers: WorkerProcess) -> None:
    oracle = cluster.oracle()
    for worker in workers:
        wait_counted(worker, oracle, minutes=MINUTES)
        assert_answers_exact(worker, oracle, minutes=MINUTES, users=60, filters_each=1)
    assert_changelogs_exact(cluster.servers, oracle)


@pytest.mark.timeout(120)
def test_a_killed_worker_comes_back_from_its_disk_and_a_wiped_one_from_its_changelog(
    cluster: Cluster, seeds: Iterator[int]
) -> None:
    """A10, A19. Killed in mid-stream each time, and while it recovers; what it sent again has the same bytes and keys."""
    for wiped in (False, True):
        cluster.send(some_tags(next(seeds), ROUND_EVENTS, minutes=MINUTES))
        worker = cluster.worker().start()
        half = cluster.events - ROUND_EVENTS // 2
        wait_more_counted(worker, than=half)
        worker.kill()
        if wiped:
            cluster.wipe()
    for _ in range(2):
        kill_while_restoring(cluster.worker())
    worker = cluster.worker().start()
    compare(cluster, worker)
    worker.stop()
    worker = cluster.worker().start()
    assert RESTORING not in worker.log().rsplit(STARTING, 1)[1], "stopped in order, and yet something to restore"
    compare(cluster, worker)


@pytest.mark.timeout(180)
def test_two_workers_and_a_zombie_count_every_event_once(cluster: Cluster, seeds: Iterator[int]) -> None:
    """A9. One is stopped in mid-stream past its session, its partitions move, it wakes up and goes on writing for a moment."""
    workers = [cluster.worker(index=index).start() for index in range(2)]
    for sleeper in (workers[1], workers[0]):
        awake = workers[1 - workers.index(sleeper)]
        cluster.send(some_tags(next(seeds), ROUND_EVENTS, minutes=MINUTES))
        assert sleeper.process is not None
        sleeper.process.send_signal(signal.SIGSTOP)
        try:
            cluster.send(some_tags(next(seeds), ROUND_EVENTS, minutes=MINUTES))
            wait_owns_all(awake)
        finally:
            sleeper.process.send_signal(signal.SIGCONT)
        cluster.send(some_tags(next(seeds), ROUND_EVENTS, minutes=MINUTES))
        eventually(lambda: shared(workers), within_s=90, what="both at work again")
    compare(cluster, *workers)


def kill_while_restoring(worker: WorkerProcess) -> None:
    """Kill it as soon as it says that it restores; however far it got, the next one goes on from there."""
    begun = worker.log().count(RESTORING)
    worker.start(wait=False)
    eventually(lambda: worker.log().count(RESTORING) > begun, what="it restores")
    worker.kill()


def wait_more_counted(worker: WorkerProcess, *, than: int) -> None:
    eventually(lambda: counted(worker, minutes=MINUTES) > than, what=f"more than {than} counted")


def wait_owns_all(worker: WorkerProcess) -> None:
    eventually(lambda: owns_all(worker), within_s=60, what="the other took over")


def owns_all(worker: WorkerProcess) -> bool:
    status, answer = get(f"{worker.url}/ready", timeout_s=5)
    return status == 200 and len(answer["partitions"]) == PARTITIONS


def shared(workers: list[WorkerProcess]) -> bool:
    """Say whether both are ready and hold a part each; one that ended by itself is started again, as the manager does."""
    for worker in workers:
        assert worker.process is not None
        if worker.process.poll() is not None:
            worker.start(wait=False)
    answers = [get(f"{worker.url}/ready", timeout_s=5) for worker in workers]
    return all(status == 200 for status, _ in answers) and sorted(
        partition for _, answer in answers for partition in answer["partitions"]
    ) == list(range(PARTITIONS))


@pytest.mark.timeout(120)
def test_a_worker_comes_back_at_once_under_another_address(cluster: Cluster, seeds: Iterator[int]) -> None:
    """Faust's assignor asserts its own URL in what the group returns; then the coordinator ends, and the process does not."""
    worker = cluster.worker().start()
    worker.kill()
    cluster.send(some_tags(next(seeds), 100, minutes=MINUTES))
    moved = cluster.worker()
    moved.port = free_port()
    moved.environ["TALLY_WEB_PORT"] = str(moved.port)
    moved.start(wait=False)
    eventually(lambda: get(f"{moved.url}/ready", timeout_s=5)[0] == 200, within_s=25, what="ready at the new address")


@pytest.mark.timeout(180)
def test_a_wiped_worker_recovers_from_what_compaction_left(cluster: Cluster, seeds: Iterator[int]) -> None:
    """Superseded versions and their tombstones are gone; the greatest `through` of each bucket is not."""
    cluster.configure(BLOCKS, segment_ms=1_000, min_cleanable_dirty_ratio=0.001, delete_retention_ms=100)
    worker = cluster.worker().start()
    sizes = [0]

    def compacted() -> bool:
        cluster.send(some_tags(next(seeds), 40, minutes=MINUTES))  # only a closed segment is compacted
        sizes.append(sum(1 for _ in read_topic(cluster.servers, BLOCKS)))
        return sizes[-1] < max(sizes)

    eventually(compacted, within_s=90, what="fewer records in the changelog than before")
    compare(cluster, worker)
    worker.kill()
    cluster.wipe()
    compare(cluster, cluster.worker().start())


@pytest.mark.timeout(120)
def test_an_emptied_changelog_partition_hangs_no_recovery(own_cluster: Cluster, seeds: Iterator[int]) -> None:
    """Faust #597, #176. Retention may empty one; what the disk has stays, and what comes after is kept."""
    cluster = own_cluster
    cluster.send(some_tags(next(seeds), 3_000, minutes=MINUTES))
    worker = cluster.worker().start()
    compare(cluster, worker)
    worker.stop()
    with cluster.admin() as admin:
        admin.delete_records({TopicPartition(ROWS, EMPTIED): cluster.log_ends(ROWS)[EMPTIED]})
    oracle = cluster.oracle()
    worker = cluster.worker().start()
    wait_counted(worker, oracle, minutes=MINUTES)
    assert_answers_exact(worker, oracle, minutes=MINUTES, users=60, filters_each=1)
    worker.kill()
    cluster.wipe()

    worker = cluster.worker().start()
    user = next(
        f"new-{number}" for number in itertools.count() if partition_of(f"new-{number}".encode(), PARTITIONS) == EMPTIED
    )
    cluster.send([Tag(user.encode(), a_record(cookie=user, time="2022-03-01T00:05:00Z"))])
    cluster.send(some_tags(next(seeds), 2_000, minutes=MINUTES))
    oracle = cluster.oracle()
    kept = {
        known: events
        for known, events in oracle.users.items()
        if known[0] == user or partition_of(known[0].encode(), PARTITIONS) != EMPTIED
    }
    oracle = replace(oracle, users=defaultdict(list, kept))  # the others are gone, on purpose
    for _ in range(2):
        wait_counted(worker, oracle, minutes=MINUTES)
        assert_answers_exact(worker, oracle, minutes=MINUTES, users=60, filters_each=1)
        worker.kill()
        worker = cluster.worker().start()
