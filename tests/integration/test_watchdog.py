"""A worker that is stuck ends, and its next start counts on: nobody has to notice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.guard import EXIT_CODE
from tests.support.cluster import Cluster, a_cluster
from tests.support.comparison import assert_answers_exact, wait_counted
from tests.support.tags import some_tags

MINUTES = 5
SEND_INTERVAL_S = 0.2
ENDS_WITHIN_S = 90.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with a_cluster(tmp_path_factory.mktemp("watchdog")) as cluster:
        yield cluster


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("way", "line"),
    [
        ("coordinator", "the worker stops: its group does not know it, for"),
        ("loop", "the worker stops: its event loop has not answered for 5 s"),
    ],
)
def test_stuck_worker_ends_and_the_next_start_counts_on(cluster: Cluster, tmp_path: Path, way: str, line: str) -> None:
    """#523: agents stop after an outage of the broker while the process lives, and `/ready` alone restarts nothing."""
    stuck = cluster.worker(app="tests.support.stuck_pipeline", WORKER_STALL_TIMEOUT_S="5")
    stuck.environ |= {"STUCK": way, "STUCK_FILE": str(tmp_path / "stuck")}
    stuck.start()
    cluster.send(some_tags(1, 500, minutes=MINUTES))
    wait_counted(stuck, cluster.oracle(), minutes=MINUTES)

    (tmp_path / "stuck").touch()
    deadline_s = time.monotonic() + ENDS_WITHIN_S
    for seed in range(2, 10_000):
        cluster.send(some_tags(seed, 10, minutes=MINUTES))
        if stuck.has_ended(within_s=SEND_INTERVAL_S):
            break
        assert time.monotonic() < deadline_s, stuck.log()[-2_000:]
    assert stuck.wait_ended() == EXIT_CODE
    assert line in stuck.log()

    worker = cluster.worker().start()
    wait_counted(worker, cluster.oracle(), minutes=MINUTES)
    assert_answers_exact(worker, cluster.oracle(), minutes=MINUTES, users=60)
    assert "the worker stops" not in worker.log().split(line)[-1]
    worker.stop()
