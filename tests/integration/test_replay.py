"""Dead letters go back into their topic once, byte for byte, whenever the command is killed and however many run at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from agents.changelog import dead_letter
from stack.postgres import LocalPostgres
from streams.dead_letters import Position, decode_mark
from streams.errors import Reason
from streams.topics import BUCKET_OFFSETS, DEAD_LETTERS, REPLAYS
from tables.fold import Refused
from tests.support.builders import a_record
from tests.support.cluster import PARTITIONS, SOURCE, Cluster, a_cluster
from tests.support.comparison import assert_answers_exact, wait_counted
from tests.support.erasing import databases
from tests.support.eventually import eventually
from tests.support.oracle import Oracle, oracle_of, read_topic
from tests.support.sinks_process import select
from tests.support.tags import some_tags
from tests.support.worker import WorkerProcess

ROOT = Path(__file__).parents[2]
MINUTES = 12
LETTERS = 12
HEADERS: list[tuple[str, bytes | None]] = [("trace", b"\x00\xff"), ("reason", b"the producer's own"), ("empty", None)]
KILLED = -signal.SIGKILL

PROGRAM = """
import os, signal, sys
from aiokafka import AIOKafkaProducer
from agents import replay

replay.TRANSACTION_LETTERS_MAX = 5
commit = AIOKafkaProducer.commit_transaction
commits = 0

async def interrupted(self):
    global commits
    commits += 1
    {before}
    await commit(self)
    {after}

AIOKafkaProducer.commit_transaction = interrupted
sys.exit(replay.main(sys.argv[1:]))
"""
PAUSE = "os.kill(os.getpid(), signal.SIGSTOP)"
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def broken(partition: int, number: int) -> tuple[bytes | None, bytes]:
    """Return key and value of a valid event that the strict worker refuses; one of them has no key."""
    cookie = f"patient-{partition}-{number}"
    value = a_record(cookie=cookie, origin=f"REFUSED {number}", time=f"2022-03-01T00:{number % MINUTES:02}:00.5Z", price=number)
    return (None if number == 0 else cookie.encode()), value


class Scene:
    """A topic that an old worker has read, whose dead letters a new worker would count.

    Attributes:
        letters: positions of the dead letters that may be replayed, by partition.
        reread: the one that the new worker has counted by itself, in an open bucket.
        bad: records that no worker takes.
    """

    def __init__(self, cluster: Cluster, dsn: str) -> None:
        self.cluster, self.dsn = cluster, dsn
        self.letters: dict[int, list[int]] = {}
        self.reread: Position
        self.bad: set[tuple[int, int]] = set()
        for partition in range(PARTITIONS):
            self._fill(partition)
        self._count_strictly()
        self.worker: WorkerProcess = cluster.worker().start()

    def _fill(self, partition: int) -> None:
        """Write letters, then tags past the bucket's end; in partition 1 one letter more, in the open bucket."""
        end = asyncio.run(throw(self.cluster, partition, [broken(partition, number) for number in range(LETTERS)]))
        self.letters[partition] = list(range(end - LETTERS, end))
        end = asyncio.run(throw(self.cluster, partition, [(b"k", b"no JSON")]))
        self.bad.add((partition, end - 1))
        self.cluster.send(some_tags(partition, BUCKET_OFFSETS + 100, minutes=MINUTES), partition=partition)
        if partition == 1:
            end = asyncio.run(throw(self.cluster, partition, [broken(partition, 99)]))
            self.reread = Position(SOURCE, partition, end - 1)

    def _count_strictly(self) -> None:
        worker = self.cluster.worker(app="tests.support.strict_pipeline").start()
        expected = PARTITIONS * (LETTERS + 1) + 1
        eventually(lambda: len(list(read_topic(self.cluster.servers, DEAD_LETTERS))) == expected, what="the dead letters")
        committed = dict.fromkeys(range(PARTITIONS), BUCKET_OFFSETS)
        eventually(lambda: self.cluster.committed() == committed, what="commits past the first buckets")
        worker.stop()

    def oracle(self) -> Oracle:
        """Return what must be answered: everything in the topic but the originals of the dead letters."""
        dead = {(partition, offset) for partition, offsets in self.letters.items() for offset in offsets}
        return oracle_of(self.cluster.servers, SOURCE, skip=dead | self.bad)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "agents.replay", "--url", self.worker.url, *arguments]

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run the command to its end and return what it says."""
        ended = subprocess.run(
            self.command(*arguments), cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def start(self, *arguments: str, before: str = "pass", after: str = "pass") -> subprocess.Popen[str]:
        """Start the command with transactions of five, and code around its commits."""
        program = PROGRAM.format(before=before, after=after)
        command = [sys.executable, "-c", program, *self.command(*arguments)[3:]]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    @property
    def environ(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
        return {**own, "TALLY_KAFKA_SERVERS": self.cluster.servers, "TALLY_POSTGRES_DSN": self.dsn}

    def copies(self, partition: int) -> Counter[tuple[Any, ...]]:
        """Return how often each record stands behind the first fill of a partition: key, value and headers."""
        records = (record for record in read_topic(self.cluster.servers, SOURCE) if record.partition == partition)
        return Counter(
            (record.key, record.value, tuple(record.headers))
            for record in records
            if record.offset > BUCKET_OFFSETS and b"patient" in record.value and b"patient-1-99" not in record.value
        )

    def assert_counted_once(self) -> None:
        """The worker answers with every event that is there once, and with no original of a dead letter."""
        oracle = self.oracle()
        wait_counted(self.worker, oracle, minutes=MINUTES)
        assert_answers_exact(self.worker, oracle, minutes=MINUTES, users=100)

    def marks(self) -> dict[Position, Position]:
        return dict(decode_mark(record.key, record.value) for record in read_topic(self.cluster.servers, REPLAYS))

    def assert_sent_once(self, partition: int, *, letters: int = LETTERS) -> None:
        """Each letter lies once more in its partition, as it came, where its mark says."""
        copies = self.copies(partition)
        assert set(copies.values()) <= {1}
        assert len(copies) == letters
        assert set(copies) <= {(*broken(partition, number), tuple(HEADERS)) for number in range(LETTERS)}
        marked = {source.offset: position for source, position in self.marks().items() if source.partition == partition}
        assert len(marked) == letters
        values = {
            record.offset: record.value for record in read_topic(self.cluster.servers, SOURCE) if record.partition == partition
        }
        assert all(values[source] == values[position.offset] for source, position in marked.items())


async def throw(cluster: Cluster, partition: int, records: list[tuple[bytes | None, bytes]]) -> int:
    """Append records with headers, as another's producer would; return the end of the partition."""
    producer = AIOKafkaProducer(bootstrap_servers=cluster.servers, acks="all")
    await producer.start()
    try:
        for key, value in records:
            sent = await producer.send_and_wait(SOURCE, value, key=key, partition=partition, headers=HEADERS)
    finally:
        await producer.stop()
    return int(sent.offset) + 1


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, postgres: LocalPostgres) -> Iterator[Scene]:
    with a_cluster(tmp_path_factory.mktemp("replay")) as cluster, databases(postgres) as (dsn, _):
        scene = Scene(cluster, dsn)
        yield scene
        scene.worker.stop()


def test_list_counts_by_reason_and_show_tells_one(scene: Scene) -> None:
    """What an operator looks at first: how many of what, then one with its own headers and payload."""
    text = scene.run("list", "--reason", "schema")
    assert f"{PARTITIONS * LETTERS + 1} dead letters" in text and "schema  count" in text
    assert f"{PARTITIONS} dead letters" in scene.run("list", "--reason", "not_json")
    assert "0 dead letters" in scene.run("list", "--until", "2022-01-01")
    shown = scene.run("show", SOURCE, "3", str(scene.letters[3][1]))
    for part in ("patient-3-1", "header trace", "the producer's own", "\\x00\\xff", "header empty", "(none)", "schema"):
        assert part in shown
    assert "no dead letter" in scene.run("show", SOURCE, "3", "1000000", code=1)


def test_chosen_ones_are_sent_byte_for_byte_and_a_second_run_sends_nothing(scene: Scene) -> None:
    """Key, value and the record's own headers, into the same partition; what would fail again stays where it is."""
    dry = scene.run("send", "--partition", "0", "--dry-run")
    assert f"{LETTERS} would be sent, 1 fails" in dry and not scene.copies(0)
    assert f"{LETTERS} sent, 1 fails" in scene.run("send", "--partition", "0")
    scene.assert_sent_once(0)
    again = scene.run("send", "--partition", "0")
    assert "0 sent, 1 fails" in again and f"{LETTERS} replayed" in again
    scene.assert_sent_once(0)
    scene.assert_counted_once()


def test_an_event_that_its_open_bucket_has_counted_already_is_not_sent(scene: Scene) -> None:
    """After a fix the workers read their open buckets again: an event there counts without a replay, and would count twice."""
    place = ("--partition", "1", "--offset", str(scene.reread.offset))
    eventually(lambda: "0 sent, 1 counted" in scene.run("send", *place), what="the event counted by the new worker")
    assert scene.reread not in scene.marks()
    scene.assert_counted_once()


def test_each_replay_is_noted(scene: Scene) -> None:
    """security.md 16: what was chosen before it is sent, what became of it behind that; looking leaves nothing."""
    statement = "SELECT stage, detail FROM tally.audit WHERE action = 'replay' ORDER BY recorded_at"
    before = len(select(scene.dsn, statement))
    scene.run("send", "--partition", "0", "--reason", "not_json", "--dry-run")
    scene.run("list")
    assert len(select(scene.dsn, statement)) == before
    scene.run("send", "--partition", "0", "--reason", "not_json")
    begun, done = select(scene.dsn, statement)[before:]
    assert (begun[0], begun[1]["partition"], begun[1]["reasons"]) == ("begun", 0, ["not_json"])
    assert done == ("done", {"fails": 1})


def test_killed_at_any_moment_the_next_run_sends_the_rest(scene: Scene) -> None:
    """Before a commit nothing of the transaction is there; after it all of it, though nobody was told."""
    moments = ((KILL, "pass", 0), ("pass", KILL, 5), (KILL, "pass", 5), (f"commits == 2 and {KILL}", "pass", 10))
    for before, after, letters in moments:
        process = scene.start("send", "--partition", "2", "--reason", "schema", before=before, after=after)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == KILLED, output
        scene.assert_sent_once(2, letters=letters)
    assert "2 sent" in scene.run("send", "--partition", "2")
    scene.assert_sent_once(2)
    scene.assert_counted_once()


def test_two_at_once_send_nothing_twice(scene: Scene) -> None:
    """The second takes the transactional id: what the first has open is aborted, and it is told so when it wakes."""
    first = scene.start("send", "--partition", "3", "--reason", "schema", before=f"commits == 2 and {PAUSE}")
    eventually(lambda: stopped(first.pid), what="the first to be stopped before its second commit")
    assert f"{LETTERS - 5} sent" in scene.run("send", "--partition", "3")
    first.send_signal(signal.SIGCONT)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 1, output
    assert "another replay has taken over" in output
    scene.assert_sent_once(3)
    scene.assert_counted_once()


def test_what_the_sinks_put_aside_is_not_sent(scene: Scene) -> None:
    """The worker has counted it: sent again it would count twice."""
    refused = Refused(17, Reason.REFUSED_BY_POSTGRES, "22021")
    record = next(record for record in read_topic(scene.cluster.servers, SOURCE) if record.value and b"user-" in record.value)
    letter = dead_letter(SOURCE, record.partition, refused, record)
    headers = [*letter.headers[:-1], ("stage", b"sinks")]

    async def put_aside() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=scene.cluster.servers)
        await producer.start()
        await producer.send_and_wait(DEAD_LETTERS, letter.value, key=letter.key, headers=headers)
        await producer.stop()

    asyncio.run(put_aside())
    said = scene.run("send", "--reason", "refused_by_postgres")
    assert "0 sent, 1 not_a_source_record" in said and "do not send it again" in said


def test_where_follows_a_letter_to_its_replay(scene: Scene) -> None:
    """Asked by the offset of the dead letter, the answer names the one that counts; without Postgres it says so."""
    scene.run("send", "--partition", "1", "--offset", str(scene.letters[1][4]))
    position = scene.marks()[Position(SOURCE, 1, scene.letters[1][4])]
    environ = {name: value for name, value in scene.environ.items() if name != "TALLY_POSTGRES_DSN"}
    command = [sys.executable, "-m", "sinks.where", "--url", scene.worker.url, "--partition", "1"]

    def where(offset: int) -> Any:
        asked = [*command, "--offset", str(offset)]
        ended = subprocess.run(asked, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=True)
        return json.loads(ended.stdout)[0]

    found = where(scene.letters[1][4])
    assert (found["state"], found["replayed_to"]) == ("replayed", str(position))
    assert where(scene.letters[1][5])["state"] == "dead_letter"
    eventually(lambda: where(position.offset)["state"] == "counted", what="the replayed event counted")
    assert where(position.offset)["says"] == "counted; Postgres was not asked"
    assert where(position.offset + 1)["state"] == "no_event"  # the marker of the transaction


def test_nothing_is_sent_unless_it_is_said_what(scene: Scene) -> None:
    """A bare `send` after a typo must not empty the bin into the topic."""
    assert "--all" in scene.run("send", code=2)


def stopped(pid: int) -> bool:
    """Say whether a process is stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
