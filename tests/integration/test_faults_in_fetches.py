"""Whatever a fetch does, every event counts once: faults in a tenth of the hand-outs, and kill -9 in between."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster, a_cluster
from tests.support.comparison import assert_answers_exact, assert_changelogs_exact, counted
from tests.support.eventually import eventually
from tests.support.tags import some_tags
from tests.support.worker import WorkerProcess

SEED = 20_221_122
MINUTES = 12
ROUND_EVENTS = 52_000
KILLS = 3
NUDGE_EVENTS = 40
"""Enough that every partition gets some."""
WIPED_ROUNDS = (1, 2)
FAULTY = "tests.support.faulty_pipeline"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with a_cluster(tmp_path_factory.mktemp("faults")) as cluster:
        yield cluster


@pytest.mark.timeout(240)
def test_every_count_is_right_whatever_fetches_do_and_whenever_the_worker_dies(cluster: Cluster) -> None:
    """A10. A batch dropped, the position moved, a stray seek, a rewind: each once lost data or counted it twice.

    Three of the four rounds end by kill -9 in mid-stream, two of these with the disk lost too.
    """
    rng = random.Random(SEED)
    for number in range(KILLS):
        cluster.send(some_tags(SEED + number, ROUND_EVENTS, minutes=MINUTES))
        worker = cluster.worker(app=FAULTY).start()
        wait_for(worker, cluster.events - rng.randrange(ROUND_EVENTS // 10, ROUND_EVENTS // 2))
        worker.kill()
        if number in WIPED_ROUNDS:
            cluster.wipe()
    cluster.send(some_tags(SEED + KILLS, ROUND_EVENTS, minutes=MINUTES))
    worker = cluster.worker(app=FAULTY).start()
    drain(cluster, worker)
    assert worker.metric("tally_rewinds_total") > 0, "no fault was noticed: the test tests nothing"
    oracle = cluster.oracle()
    assert_answers_exact(worker, oracle, minutes=MINUTES)
    assert_changelogs_exact(cluster.servers, oracle)


def wait_for(worker: WorkerProcess, events: int) -> None:
    """Wait until the worker has counted that many; near the end of the log a fault may leave fewer for a while."""
    eventually(lambda: counted(worker, minutes=MINUTES) >= events, within_s=60, what=f"{events} events counted")


def drain(cluster: Cluster, worker: WorkerProcess) -> None:
    """Wait until all is counted; a batch dropped at the very end of a log is only missed when the next one comes."""
    nudges = itertools.count()

    def all_counted() -> bool:
        left = cluster.events - counted(worker, minutes=MINUTES)
        if left:
            cluster.send(some_tags(next(nudges), NUDGE_EVENTS, minutes=MINUTES))
        return not left

    eventually(all_counted, within_s=90, what="everything counted")
