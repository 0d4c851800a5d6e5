"""Whatever a fetch does, every event counts once: faults in a tenth of the hand-outs, and kill -9 in between."""

from __future__ import annotations

import itertools
import random
import time
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
STILL_S = 0.5
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
    """Wait until all is counted; a batch dropped at the very end of a log is only missed when the next one comes.

    That next one is sent when nothing has moved for a while, and not before: one with each look would keep a slow worker
    behind for ever.
    """
    nudges = itertools.count()
    seen, moved_s = -1, time.monotonic()

    def all_counted() -> bool:
        nonlocal seen, moved_s
        now_s, events = time.monotonic(), counted(worker, minutes=MINUTES)
        if events != seen:
            seen, moved_s = events, now_s
        elif events < cluster.events and now_s - moved_s > STILL_S:
            cluster.send(some_tags(next(nudges), NUDGE_EVENTS, minutes=MINUTES))
            moved_s = now_s
        assert events == cluster.events, f"{events} of {cluster.events} counted"
        return True

    eventually(all_counted, within_s=90, what="everything counted")
