"""Users are erased while partitions go from worker to worker: whoever has them at the end has nothing of the users.

The command asks one worker after another, and is held between two of them until the partitions lie elsewhere.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from stack.postgres import LocalPostgres
from streams.topics import BUCKET_OFFSETS
from tests.support.cluster import PARTITIONS, Cluster, a_cluster
from tests.support.comparison import assert_answers_exact, wait_counted
from tests.support.disk_search import files_with, segments_with
from tests.support.erasing import COMMAND_WITHIN_S, EVENTS_EACH, MINUTES, ROOT, ROWS, databases, events_of, profile
from tests.support.eventually import eventually
from tests.support.sinks_process import SinksProcess
from tests.support.tags import some_tags
from tests.support.worker import get

JOINED, LEFT, KILLED = "jQwXzKvHpYbUtNcEsRaMoLdG", "lHxPzFwQkVnBjTyOgSuCrIeD", "kBtRmJzXvWqGpNfHyCdLsUaE"
"""Random letters, as in tests/support/erasing.py; each is erased while a worker does that."""
MOVED_WITHIN_S = 90.0
SWEPT_WITHIN_S = 30.0
ASKS_MAX = 1_000
PROGRAM = """
import sys
from agents import erase, erase_workers

usual = erase_workers.Workers._ask

def held(self, url, body):
    answer = usual(self, url, body)
    print("asked", url, flush=True)
    sys.stdin.readline()
    return answer

erase_workers.Workers._ask = held
sys.exit(erase.main(sys.argv[1:]))
"""


class Scene:
    """Three workers, of which the third starts later, and rows of the users on every disk."""

    def __init__(self, cluster: Cluster, dsn: str) -> None:
        self.cluster, self.dsn = cluster, dsn
        self.workers = [cluster.worker(index=index) for index in range(3)]
        for partition in range(PARTITIONS):  # a closed bucket and an open one; producers that partition otherwise too
            cluster.send(some_tags(partition, BUCKET_OFFSETS, minutes=MINUTES), partition=partition)
            for user in (JOINED, LEFT, KILLED):
                cluster.send(events_of(user, 100 * partition, EVENTS_EACH), partition=partition)
        first = self.workers[0].start()
        wait_counted(first, cluster.oracle(), minutes=MINUTES)
        first.kill()
        cluster.wipe()  # a worker that recovers from nothing writes its files
        for worker in self.workers[:2]:
            worker.start(wait=False)
        self.wait_owned(0, 1)

    def owned(self, index: int) -> list[int]:
        """Return the partitions that a worker answers for; none while it does not."""
        try:
            status, answer = get(f"{self.workers[index].url}/ready")
        except OSError:
            return []
        return list(answer["partitions"]) if status == 200 else []

    def wait_owned(self, *indexes: int) -> None:
        """Wait until these workers have all partitions, and each some."""

        def shared() -> bool:
            owned = [self.owned(index) for index in indexes]
            return all(owned) and sorted(partition for each in owned for partition in each) == list(range(PARTITIONS))

        eventually(shared, within_s=MOVED_WITHIN_S, what=f"all partitions with workers {indexes}")

    def erase(self, user: str, move: Callable[[], None]) -> str:
        """Erase a user; partitions are moved when one worker has done its part. Return what the command says."""
        command = [sys.executable, "-c", PROGRAM, "--user", user, "--yes", "--worker", self.workers[0].url]
        process = subprocess.Popen(
            command, cwd=ROOT, env=self.workers[0].environ | {"TALLY_POSTGRES_DSN": self.dsn}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"asked {self.workers[0].url}\n"
            move()
            said, _ = process.communicate("\n" * ASKS_MAX, timeout=COMMAND_WITHIN_S)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, said
        return said

    def on_disks(self, user: str, *indexes: int) -> list[str]:
        """Return the files of these workers that hold a part of a user's name."""
        folders = [self.cluster.home / "workers" / f"worker-{index}" for index in indexes]
        return [f"{folder.name}/{name}" for folder in folders for name in files_with(folder, user)]

    def in_changelog(self, user: str) -> list[str]:
        """Return the segments of the rows' changelog that hold a part of a user's name."""
        return segments_with(self.cluster.kafka.data, ROWS, user)

    def assert_forgotten(self, user: str, *indexes: int) -> None:
        """Nothing of the user is answered, or lies on a disk of these workers; the erasure is read by who recovered."""
        for index in indexes:
            assert profile(self.workers[index], user) == (200, {"cookie": user, "views": [], "buys": []})
        eventually(lambda: not self.on_disks(user, *indexes), within_s=SWEPT_WITHIN_S, what=f"no byte of {user} on a disk")
        eventually(lambda: not self.in_changelog(user), within_s=SWEPT_WITHIN_S, what=f"no byte of {user} in a changelog")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, postgres: LocalPostgres) -> Iterator[Scene]:
    """The job; its sinks must run, because the command waits for them."""
    with a_cluster(tmp_path_factory.mktemp("erase-rebalance")) as cluster, databases(postgres) as (dsn, _):
        sinks = SinksProcess(cluster.servers, dsn, cluster.home / "sinks.log").start()
        try:
            yield Scene(cluster, dsn)
        finally:
            sinks.stop()


@pytest.mark.timeout(600)
def test_users_are_gone_whoever_joins_leaves_or_dies_meanwhile(scene: Scene) -> None:
    """A partition that is taken over in the middle is read from a changelog that still has the rows."""
    assert scene.on_disks(JOINED, 0) and scene.on_disks(JOINED, 1) and scene.in_changelog(JOINED)
    third = scene.workers[2]

    def join() -> None:
        third.start(wait=False)
        scene.wait_owned(0, 1, 2)

    def leave() -> None:
        scene.workers[1].stop()
        scene.wait_owned(0, 2)

    scene.erase(JOINED, join)
    scene.assert_forgotten(JOINED, 0, 1, 2)
    scene.erase(LEFT, leave)
    scene.assert_forgotten(LEFT, 0, 2)
    scene.erase(KILLED, third.kill)  # its partitions have no owner for a session's length: the command waits
    scene.assert_forgotten(KILLED, 0)
    for worker in scene.workers[1:]:  # what they had is read again from their disks and the changelog
        worker.start(wait=False)
    scene.wait_owned(0, 1, 2)
    oracle = scene.cluster.oracle()
    for rows in [each for each in oracle.users if each[0] in (JOINED, LEFT, KILLED)]:
        del oracle.users[rows]
    for worker in scene.workers:
        wait_counted(worker, oracle, minutes=MINUTES)
        assert_answers_exact(worker, oracle, minutes=MINUTES)
        for user in (JOINED, LEFT, KILLED):
            assert profile(worker, user) == (200, {"cookie": user, "views": [], "buys": []})
