"""An upgrade that raised the state format is taken back as docs/production.md says; the newer version is a copy of this one.

The copy differs in what such a version would: its number, and the formats that it writes. It reads format 1, as all will.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.postgres import LocalPostgres
from streams.topics import APP_ID, USER_TAGS, changelog_of
from streams.version import VERSION
from tests.support.cluster import Cluster, a_cluster
from tests.support.comparison import assert_answers_exact, wait_counted
from tests.support.erasing import databases
from tests.support.eventually import eventually
from tests.support.sinks_process import SinksProcess, select
from tests.support.tags import some_tags

ROOT = Path(__file__).parents[2]
PROGRAM = ("streams", "tables", "agents", "sinks", "views", "gateway", "dashboard", "stack", "pipeline.py", "faust.conf")
RAISED = (
    ("streams/version.py", f'VERSION = "{VERSION}"', 'VERSION = "9.9.9"'),
    ("streams/state_format.py", "STATE_FORMAT = 1\n", "STATE_FORMAT = 2\n"),
    ("tables/blocks.py", 'FORMAT = b"\\x01"', 'FORMAT = b"\\x02"'),
    ("tables/blocks.py", "if raw[:1] != FORMAT:", 'if raw[:1] not in (b"\\x01", FORMAT):'),
)
MINUTES = 12
EVENTS = 6_000
WITHIN_S = 60.0
TABLES = (USER_TAGS.blocks_table, USER_TAGS.rows_table)
NEWER = f"has format 2, tally {VERSION} reads up to 1: start the version that wrote it again"


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of a version to come."""
    root = tmp_path_factory.mktemp("newer")
    for name in PROGRAM:
        source = ROOT / name
        shutil.copytree(source, root / name) if source.is_dir() else shutil.copy(source, root / name)
    for name, before, after in RAISED:
        text = (root / name).read_text(encoding="utf-8")
        assert text.count(before) == 1, (name, before)
        (root / name).write_text(text.replace(before, after), encoding="utf-8")
    return root


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with a_cluster(tmp_path / "cluster") as made:
        yield made


def totals_in(dsn: str) -> tuple[int, int]:
    """Return how many events Postgres has counted, and their prices."""
    statement = "SELECT coalesce(sum(event_count), 0)::bigint, coalesce(sum(price_sum), 0)::bigint FROM tally.minute_aggregates"
    ((count, total),) = select(dsn, statement)
    return int(count), int(total)


def expected(cluster: Cluster) -> tuple[int, int]:
    oracle = cluster.oracle()
    return oracle.records, sum(oracle.sums.values())


def forget_state(cluster: Cluster) -> None:
    """Delete the changelogs and the group; the broker keeps a member that has left for the length of a session."""
    with cluster.admin() as admin:
        admin.delete_topics([changelog_of(table) for table in TABLES])

        gone = {APP_ID: "OK"}
        eventually(lambda: admin.delete_groups([APP_ID]) == gone, within_s=WITHIN_S, what="the group deleted")


class Scene:
    """A worker and sinks, of whichever version, and the database that they write."""

    def __init__(self, cluster: Cluster, dsn: str) -> None:
        self.cluster, self.dsn = cluster, dsn
        self.worker = cluster.worker()
        self.sinks = SinksProcess(cluster.servers, dsn, cluster.home / "sinks.log")
        self.sent = 0

    def count_more(self) -> None:
        """Send events and wait until the worker has counted all there are."""
        self.sent += 1
        self.cluster.send(some_tags(self.sent, EVENTS, minutes=MINUTES))
        wait_counted(self.worker, self.cluster.oracle(), minutes=MINUTES)

    def wait_stored(self, dsn: str) -> None:
        eventually(lambda: totals_in(dsn) == expected(self.cluster), within_s=WITHIN_S, what="all events in postgres")

    def go_up(self, newer: Path) -> None:
        """Start this version, then the newer one in the documented order, with events for each."""
        self.sinks.start()
        self.worker.start()
        self.count_more()
        self.wait_stored(self.dsn)
        self.sinks.stop()  # the sinks first, for they read what workers write
        self.sinks.root = self.worker.root = newer
        self.sinks.start()
        self.worker.stop()
        self.worker.start()
        self.count_more()
        self.wait_stored(self.dsn)
        self.sinks.stop()
        self.count_more()  # blocks of format 2 that Postgres does not have
        self.worker.stop()

    def assert_refused(self) -> None:
        """This version stops in one line on what the newer one wrote, and puts nothing aside as unreadable."""
        self.worker.root = self.sinks.root = ROOT
        self.worker.start(wait=False)
        assert self.worker.wait_ended() != 0
        assert NEWER in self.worker.log()
        refused = self.sinks.once()
        assert refused.returncode == 1 and NEWER in refused.stderr.splitlines()[-1]

    def come_back(self, empty: str) -> None:
        """Go the long way: without the state, and with an empty database, for the one there belongs to other changelogs."""
        forget_state(self.cluster)
        self.cluster.wipe()
        prepare(self.cluster, empty)
        refused = self.sinks.once()
        assert refused.returncode == 1 and "this database belongs to another Kafka" in refused.stderr
        self.worker.start()
        self.count_more()
        self.sinks.environ["TALLY_POSTGRES_DSN"] = empty
        self.sinks.start()
        self.wait_stored(empty)


@pytest.mark.timeout(600)
def test_raised_state_format_is_taken_back_as_the_docs_say(cluster: Cluster, newer: Path, postgres: LocalPostgres) -> None:
    """Each event counts once, before, between and after; the database of before stays as it was, for reports."""
    with databases(postgres) as (dsn, empty):
        scene = Scene(cluster, dsn)
        try:
            scene.go_up(newer)
            in_postgres = totals_in(dsn)
            assert 0 < in_postgres[0] < expected(cluster)[0]
            scene.assert_refused()
            assert totals_in(dsn) == in_postgres
            scene.come_back(empty)
            assert_answers_exact(scene.worker, cluster.oracle(), minutes=MINUTES)
            assert totals_in(dsn) == in_postgres
        finally:
            scene.sinks.stop()


def prepare(cluster: Cluster, dsn: str) -> None:
    """Make the topics anew, as an operator does."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
    environ |= {"TALLY_KAFKA_SERVERS": cluster.servers, "TALLY_POSTGRES_DSN": dsn}
    command = [sys.executable, "-m", "stack", "prepare"]
    answer = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "created topics" in answer.stdout + answer.stderr
