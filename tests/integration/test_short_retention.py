"""A source topic that forgets faster than its buckets fill: nothing is lost while the worker lives, and a loss is loud."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from agents.guard import EXIT_CODE
from streams.topics import BUCKET_OFFSETS
from tests.support.cluster import SOURCE, Cluster, a_cluster
from tests.support.comparison import (
    BLOCKS,
    assert_answers_exact,
    assert_changelogs_exact,
    changelog_values,
    newest_progress,
    wait_counted,
)
from tests.support.eventually import eventually
from tests.support.tags import some_tags
from tests.support.worker import WorkerProcess

RETENTION_MS = 60_000
SEGMENT_MS = 2_000
EVENT_INTERVAL_S = 1.0
MINUTES = 12
FIRST_BUCKET, SECOND_BUCKET = 0, 1
"""Partitions whose open bucket is their first, nothing committed, and one after a commit."""
FORGOTTEN_WITHIN_S = 150


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with a_cluster(tmp_path_factory.mktemp("retention")) as cluster:
        cluster.configure(SOURCE, retention_ms=RETENTION_MS, segment_ms=SEGMENT_MS)
        yield cluster


def trickle(cluster: Cluster, seeds: Iterator[int], *, until: Callable[[], bool]) -> None:
    """Send one event a second to either partition until something is so."""
    deadline_s = time.monotonic() + FORGOTTEN_WITHIN_S
    while not until():
        assert time.monotonic() < deadline_s, f"log starts {cluster.log_starts()}, ends {cluster.log_ends()}"
        for partition in (FIRST_BUCKET, SECOND_BUCKET):
            cluster.send(some_tags(next(seeds), 1, minutes=MINUTES), partition=partition)
        time.sleep(EVENT_INTERVAL_S)  # the rate of the traffic, not a wait for anything


def log_starts_lie_in_the_open_buckets(cluster: Cluster) -> bool:
    starts = cluster.log_starts()
    return starts[FIRST_BUCKET] > 0 and starts[SECOND_BUCKET] > BUCKET_OFFSETS


def compare(cluster: Cluster, worker: WorkerProcess) -> None:
    oracle = cluster.oracle()
    wait_counted(worker, oracle, minutes=MINUTES)
    assert_answers_exact(worker, oracle, minutes=MINUTES, users=60)
    assert_changelogs_exact(cluster.servers, oracle)


def everything_is_in_the_changelog(cluster: Cluster) -> bool:
    progress = newest_progress(changelog_values(cluster.servers, BLOCKS))
    return all(progress[partition] + 1 == end for partition, end in cluster.log_ends().items() if end)


@pytest.mark.timeout(480)
def test_events_that_the_source_forgot_stay_counted_and_uncounted_ones_stop_the_start(cluster: Cluster) -> None:
    """A19. Killed, wiped, and down for longer than the retention; a ledger of our own says what is right."""
    seeds = itertools.count()
    cluster.send(some_tags(1_000, 300, minutes=MINUTES), partition=FIRST_BUCKET)
    cluster.send(some_tags(1_001, BUCKET_OFFSETS + 300, minutes=MINUTES), partition=SECOND_BUCKET)
    worker = cluster.worker().start()
    trickle(cluster, seeds, until=lambda: log_starts_lie_in_the_open_buckets(cluster))

    worker.kill()
    worker = cluster.worker().start()
    trickle(cluster, seeds, until=iter([False, False, False, True]).__next__)
    compare(cluster, worker)

    worker.kill()
    cluster.wipe()
    worker = cluster.worker().start()
    trickle(cluster, seeds, until=iter([False, False, False, True]).__next__)
    compare(cluster, worker)

    eventually(lambda: everything_is_in_the_changelog(cluster), what="everything in the changelog")
    worker.stop()
    lose_events(cluster)
    worker = cluster.worker().start(wait=False)
    assert worker.wait_ended() == EXIT_CODE
    assert "the source holds nothing before offset" in worker.log()
    assert "TALLY_WORKER_ACCEPT_LOST_EVENTS=true" in worker.log()

    worker = cluster.worker(WORKER_ACCEPT_LOST_EVENTS="true").start()
    cluster.send(some_tags(1_002, 500, minutes=MINUTES))
    compare(cluster, worker)
    worker.stop()


def lose_events(cluster: Cluster) -> None:
    """Send events while no worker runs and wait until the topic has forgotten some of them; strike those from the ledger."""
    counted = cluster.log_ends()
    cluster.send(some_tags(1_003, 80, minutes=MINUTES), partition=FIRST_BUCKET)
    cluster.send(some_tags(1_004, 80, minutes=MINUTES), partition=SECOND_BUCKET)

    def forgotten() -> bool:
        starts = cluster.log_starts()
        return all(starts[partition] > counted[partition] for partition in (FIRST_BUCKET, SECOND_BUCKET))

    eventually(forgotten, within_s=FORGOTTEN_WITHIN_S, what="events that nobody counted forgotten")
    for partition, start in cluster.log_starts().items():
        for offset in range(counted[partition], start):
            cluster.correct(partition, offset, None)
