"""A job that users are erased from, with kills on the way: what was found on its disks before, between and after."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
from aiokafka import AIOKafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from sinks.migrate import migrate
from stack.postgres import LocalPostgres
from streams.dead_letters import BOUNDARY_KEY, read_dead_letter
from streams.event_time import format_instant
from streams.partitioner import partition_of
from streams.topics import BUCKET_OFFSETS, DEAD_LETTERS, EVENTS, USER_TAGS, changelog_of
from tests.support.builders import a_record, a_submission, record_bytes
from tests.support.cluster import PARTITIONS, SOURCE, Cluster
from tests.support.comparison import wait_counted
from tests.support.disk_search import files_with, segments_with
from tests.support.eventually import eventually
from tests.support.job import ALWAYS
from tests.support.oracle import Oracle, oracle_of, read_topic
from tests.support.sinks_process import SinksProcess, applied, select
from tests.support.tags import START_MINUTE, Tag, some_tags
from tests.support.worker import WorkerProcess, get

ROOT = Path(__file__).parents[2]
MINUTES = 12
GONE = "qzWvKxJhUbYtNcEpRaMdLsGi"
BACK = "oFtXwHjPzQnVkBySgCuRmEaD"
"""Random letters: no other text shares ten of them, so a compressed block must hold one whole."""
OTHERS = "somebody-else"
ROWS = changelog_of(USER_TAGS.rows_table)
TIMELINE = changelog_of(EVENTS.rows_table)
EVENTS_EACH = 60
STALE = 77
KILLED = -signal.SIGKILL
COMMAND_WITHIN_S = 300.0
SEGMENTS_GONE_WITHIN_S = 60.0

PROGRAM = """
import os, signal, sys
from agents import erase, erase_letters, erase_topics, erase_workers

def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

{fault}
sys.exit(erase.main(sys.argv[1:]))
"""
POSTGRES_PROGRAM = """
import os, signal, sys
from sinks import erase

erase.Erasing._rewrite = lambda self: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(erase.main(sys.stdin))
"""
FAULTS = {
    "before the changelog is compacted": "erase.Erase._holds = die",
    "while it is configured to be compacted": "erase_topics.sleep = die",
    "when others' dead letters lie there twice": "erase_topics.Topics.delete_before = die",
}


def events_of(user: str, first: int, count: int, **fields: Any) -> list[Tag]:
    """Return events of a user, at different times, the first of which has the price *first*."""
    made = []
    for number in range(first, first + count):
        time_ = format_instant((START_MINUTE * 60 + number % (MINUTES * 60)) * 1000 + number % 1000)
        action = "BUY" if number % 3 == 0 else "VIEW"
        made.append(Tag(user.encode(), a_record(cookie=user, time=time_, action=action, price=number, **fields)))
    return made


class Trickle(threading.Thread):
    """Sends events of a user one after another while the users are erased.

    Attributes:
        offsets: where each lies, in order.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster = cluster
        self._ended = threading.Event()
        self.offsets: list[int] = []

    def run(self) -> None:
        asyncio.run(self._send())

    async def _send(self) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self._cluster.servers, acks="all")
        await producer.start()
        partition = partition_of(BACK.encode(), PARTITIONS)
        number = 1_000
        while not self._ended.is_set():
            (tag,) = events_of(BACK, number, 1)
            sent = await producer.send_and_wait(SOURCE, tag.value, key=tag.key, partition=partition)
            self.offsets.append(sent.offset)
            number += 1
            await asyncio.sleep(0.02)
        await producer.stop()

    def end(self) -> None:
        self._ended.set()
        self.join()


class Scene:
    """A job that has counted, stored and put aside events of two users among others'; then both are erased, with kills.

    Attributes:
        found: files that held a part of the users' names before and after, by place.
        ended: exit codes of the runs that were killed.
        said: what the last run said.
    """

    def __init__(self, cluster: Cluster, postgres: LocalPostgres, dsn: str) -> None:
        self.cluster, self.postgres, self.dsn = cluster, postgres, dsn
        self.found: dict[str, dict[str, list[str]]] = {}
        self.before: dict[str, Any] = {}
        self.dry_run = ""
        self.empty = ""
        self.ended: dict[str, int] = {}
        self._fill()
        self.worker: WorkerProcess = cluster.worker().start()
        self.sinks = self._start_sinks(dsn)
        wait_counted(self.worker, self.oracle(), minutes=MINUTES)
        self.wait_sinks(dsn)
        self._to_disk()

    def _fill(self) -> None:
        cluster = self.cluster
        cluster.send(events_of(GONE, 0, EVENTS_EACH) + events_of(BACK, 0, EVENTS_EACH))
        for partition in range(PARTITIONS):  # a closed bucket and an open one
            cluster.send(some_tags(partition, BUCKET_OFFSETS, minutes=MINUTES), partition=partition)
        cluster.send(events_of(GONE, 100, EVENTS_EACH) + events_of(BACK, 100, EVENTS_EACH))
        elsewhere = (partition_of(GONE.encode(), PARTITIONS) + 1) % PARTITIONS
        cluster.send(events_of(GONE, 200, 5), partition=elsewhere)  # by a producer that partitions otherwise
        self.bad = [
            (GONE.encode(), a_record(cookie=GONE, action="NONE")),
            (None, a_record(cookie=GONE, device="TOASTER")),
            (b"k", a_record(cookie=BACK)[:-2]),
            (OTHERS.encode(), a_record(cookie=OTHERS, action="NONE")),
            (None, b"no JSON"),
        ]
        asyncio.run(self._send_bad())

    async def _send_bad(self) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.cluster.servers, acks="all")
        await producer.start()
        for partition in range(PARTITIONS):
            for key, value in self.bad:
                await producer.send_and_wait(SOURCE, value, key=key, partition=partition)
        for user, times in product((GONE, BACK), range(2)):  # the second one is a duplicate
            submission = record_bytes(a_submission("opened", user=user, id=f"of {user}"))
            key = user.encode() if times else b"product"
            await producer.send_and_wait(EVENTS.topic, submission, key=key, partition=0)
        await producer.send_and_wait(DEAD_LETTERS, b"not one of ours", key=b"stranger", partition=0)
        await producer.stop()

    def _start_sinks(self, dsn: str) -> SinksProcess:
        return SinksProcess(self.cluster.servers, dsn, self.cluster.home / f"sinks-{dsn[-6:]}.log").start()

    def _to_disk(self) -> None:
        """Have every store written: a worker that recovers from nothing flushes, and Postgres at a checkpoint."""
        self.worker.kill()
        shutil.rmtree(self.tables)
        self.worker.start()
        store = self.tables / f"{USER_TAGS.rows_table}-0.db"
        shutil.copytree(store, self.tables / f"{USER_TAGS.rows_table}-{STALE}.db")  # as of a partition that has moved away
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("ANALYZE")
            connection.execute("CHECKPOINT")

    @property
    def tables(self) -> Path:
        (folder,) = (self.cluster.home / "workers" / "worker-0").rglob("tables")
        return folder

    def search(self, *users: str) -> dict[str, list[str]]:
        """Return the files that hold a part of a user's name, by place."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        places: dict[str, list[str]] = {"rocksdb": [], "changelog": [], "dead letters": [], "postgres": []}
        for user in users:
            places["rocksdb"] += files_with(self.tables, user)
            places["changelog"] += segments_with(self.cluster.kafka.data, ROWS, user)
            places["changelog"] += segments_with(self.cluster.kafka.data, TIMELINE, user)
            places["dead letters"] += segments_with(self.cluster.kafka.data, DEAD_LETTERS, user)
            places["postgres"] += [self._named(file) for file in files_with(self.postgres.data, user, without=("pg_wal",))]
        return places

    def _named(self, file: str) -> str:
        """Return a file of Postgres with the name of what lies in it, so that a find says where to look."""
        database, _, node = file.removeprefix("base/").partition("/")
        statement = (
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_database d ON d.datname = current_database() "
            "WHERE d.oid::text = %s AND pg_relation_filenode(c.oid)::text = %s"
        )
        names = [
            name
            for dsn in (self.dsn, self.empty)
            if dsn
            for (name,) in select(dsn, statement, database, node.partition(".")[0])
        ]
        return f"{file} ({', '.join(names)})"

    def search_when_deleted(self, *users: str) -> dict[str, list[str]]:
        """Search when Kafka has removed the segments before the boundary: it looks for such every few seconds."""
        folder = self.cluster.kafka.data
        eventually(
            lambda: not any(segments_with(folder, DEAD_LETTERS, user) for user in users),
            within_s=SEGMENTS_GONE_WITHIN_S,
            what="segments of dead letters removed",
        )
        return self.search(*users)

    def oracle(self, *, erased: bool = False) -> Oracle:
        """Return what must be answered: everything but the bad; once erased, without the profiles."""
        bad = {value for _, value in self.bad}
        skip = {(record.partition, record.offset) for record in read_topic(self.cluster.servers, SOURCE) if record.value in bad}
        oracle = oracle_of(self.cluster.servers, SOURCE, skip=skip)
        if erased:
            self.wait_sinks(self.dsn)
            for user in [each for each in oracle.users if each[0] == GONE]:
                del oracle.users[user]
            for user in [each for each in oracle.users if each[0] == BACK]:
                oracle.users[user] = [event for event in oracle.users[user] if event[1] >= self.first_back]
        return oracle

    @property
    def first_back(self) -> int:
        """Source offset of the first event of the user who came back that is kept."""
        rows = select(self.dsn, "SELECT min(source_offset) FROM tally.user_events WHERE cookie = %s", BACK)
        return int(rows[0][0])

    def wait_sinks(self, dsn: str) -> None:
        """Wait until Postgres has everything that lies in Kafka now."""
        for topic in (ROWS, changelog_of(USER_TAGS.blocks_table), DEAD_LETTERS):
            ends = self.cluster.log_ends(topic)
            eventually(
                lambda topic=topic, ends=ends: all(  # type: ignore[misc]
                    applied(dsn).get((topic, partition), 0) >= end for partition, end in ends.items()
                ),
                within_s=60,
                what=f"{topic} in postgres",
            )

    @property
    def environ(self) -> dict[str, str]:
        return {**self.worker.environ, "TALLY_POSTGRES_DSN": self.dsn}

    def start(self, *arguments: str, fault: str | None = None) -> subprocess.Popen[str]:
        """Start the command; with a fault it kills itself there."""
        program = ["-m", "agents.erase"] if fault is None else ["-c", PROGRAM.format(fault=fault)]
        command = [sys.executable, *program, "--user", GONE, "--user", BACK, *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *arguments: str, fault: str | None = None, code: int = 0) -> str:
        """Run it to its end and return what it says."""
        process = self.start(*arguments, fault=fault)
        said, _ = process.communicate(timeout=COMMAND_WITHIN_S)
        assert process.returncode == code, said
        return said

    def letters(self) -> dict[Any, Any]:
        """Return others' dead letters in Kafka: all that is said of each, by identity; one that lies there twice is one."""
        found: dict[Any, Any] = {}
        for record in read_topic(self.cluster.servers, DEAD_LETTERS):
            if record.key != BOUNDARY_KEY and not any(name.encode() in (record.value or b"") for name in (GONE, BACK)):
                letter = read_dead_letter(record)
                source = ("stranger",) if letter is None or record.key == b"stranger" else letter.source
                said = (record.key, record.value, record.timestamp, None if source == ("stranger",) else record.headers)
                assert found.setdefault(source, said)[:2] == said[:2]  # of one put aside again after a restart, the first
        return found

    def configs(self) -> dict[str, dict[str, str]]:
        """Return what is configured for both topics."""
        topics = (ROWS, DEAD_LETTERS)
        with self.cluster.admin() as admin:
            (found,) = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]).values()
        return {topic: {name: entry["value"] for name, entry in found[topic].items()} for topic in topics}

    def stored_letters(self) -> list[tuple[Any, ...]]:
        """Return others' dead letters in Postgres."""
        names = [GONE.encode(), BACK.encode()]
        statement = (
            "SELECT * FROM tally.dead_letters "
            "WHERE coalesce(position(%s in record_value) + position(%s in record_value), 0) = 0 "
            "ORDER BY source_topic, source_partition, source_offset"
        )
        return select(self.dsn, statement, *names)

    def erase_with_kills(self) -> None:
        """Kill the command at each of its steps, the worker during one, and Postgres' part; then run it once more."""
        for where, fault in FAULTS.items():
            process = self.start("--yes", fault=fault)
            said, _ = process.communicate(timeout=COMMAND_WITHIN_S)
            self.ended[where] = process.returncode
            assert process.returncode == KILLED, (where, said)
        self.ended["the worker, in the middle"] = self._kill_worker()
        self.found["erased"] = self.search_when_deleted(GONE, BACK)
        self.ended["postgres, before the files are written anew"] = self._kill_postgres_part()
        trickle = Trickle(self.cluster)
        trickle.start()
        try:
            eventually(lambda: len(trickle.offsets) > 20, what="events while the users are erased")
            self.said = self.run("--yes")
            sent = len(trickle.offsets)
            eventually(lambda: len(trickle.offsets) > sent + 400, what="events after it")
        finally:
            trickle.end()
        self.trickled = trickle.offsets

    def _kill_worker(self) -> int:
        """Kill the worker when it has done one partition of several; the command waits for it, and ends well."""
        position = len(self.worker.log())
        process = self.start("--yes")
        eventually(lambda: "erased 2 users from partition 0" in self.worker.log()[position:], what="the first partition done")
        self.worker.kill()
        self.worker.start()
        said, _ = process.communicate(timeout=COMMAND_WITHIN_S)
        assert process.returncode == 0, said
        return process.returncode

    def erase_submissions_in(self, dsn: str) -> None:
        """Erase one user from what a database knows of submissions."""
        order = {"users": [GONE], "topic": EVENTS.topic, "before": self.cluster.log_ends(EVENTS.topic)}
        subprocess.run(
            [sys.executable, "-m", "sinks.erase"], input=json.dumps(order), cwd=ROOT,
            env=self.environ | {"TALLY_POSTGRES_DSN": dsn}, text=True, timeout=60, check=True,
        )  # fmt: skip

    def _kill_postgres_part(self) -> int:
        before = ",".join(f'"{partition}":{1 << 40}' for partition in range(PARTITIONS))
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            statement = "INSERT INTO tally.dead_letters SELECT 'again', 0, 0, '', '', '', %s, %s, '[]', now()"
            connection.execute(statement, [GONE.encode(), GONE.encode()])
        ended = subprocess.run(
            [sys.executable, "-c", POSTGRES_PROGRAM], input=f'{{"users":["{GONE}"],"before":{{{before}}}}}', cwd=ROOT,
            env=self.environ, text=True, timeout=60, check=False,
        )  # fmt: skip
        return ended.returncode


@contextmanager
def databases(postgres: LocalPostgres) -> Iterator[tuple[str, str]]:
    """Two databases with the schema: one that is erased from, and one to be filled anew."""
    names = [f"erase_{uuid.uuid4().hex}" for _ in range(2)]
    admin = postgres.dsn_of("postgres")
    for name in names:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        migrate(postgres.dsn_of(name))
    try:
        yield postgres.dsn_of(names[0]), postgres.dsn_of(names[1])
    finally:
        for name in names:
            with psycopg.connect(admin, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def profile(worker: WorkerProcess, user: str) -> tuple[int, Any]:
    """Return what a worker answers for a user."""
    return get(f"{worker.url}/user_profiles/{user}?time_range={ALWAYS}", body=b"")
