"""Wherever an event is, the question by position, or by user and time, is answered with that place."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from aiokafka import AIOKafkaProducer
from kafka import KafkaProducer, TopicPartition

from sinks.migrate import migrate
from stack.postgres import LocalPostgres
from streams.topics import EVENTS
from tests.support.builders import a_record, a_submission, record_bytes
from tests.support.cluster import PARTITIONS, SOURCE, Cluster, a_cluster
from tests.support.eventually import eventually
from tests.support.gateway_process import running_gateway
from tests.support.sinks_process import SinksProcess
from tests.support.tags import Tag, some_tags
from tests.support.worker import get

ROOT = Path(__file__).parents[2]
MINUTES = 12
USER = "ann/ü ?&"
TIME = "2022-03-01T00:05:07.25Z"
EVENT = Tag(USER.encode(), a_record(cookie=USER, time=TIME))
PARTITION = 1
NEVER_S = 60


class Scene:
    """A partition with one of everything, and how to ask. A worker counts; sinks are started by the test that wants them."""

    def __init__(self, cluster: Cluster, dsn: str) -> None:
        self.cluster = cluster
        self.dsn = dsn
        self.worker = cluster.worker().start()
        self.event = self.send(EVENT)

    @property
    def end(self) -> int:
        return self.cluster.log_ends()[PARTITION]

    def send(self, tag: Tag) -> int:
        """Append one record to the partition and return its offset."""
        offset = self.end
        self.cluster.send([tag], partition=PARTITION)
        return offset

    def ask(self, **fields: object) -> tuple[int, Any]:
        """Ask the worker's endpoint."""
        return get(f"{self.worker.url}/event?{urlencode(fields)}")

    def where(self, *arguments: object, url: str | None = None) -> list[dict[str, Any]]:
        """Run the command and return its answers."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}
        environ = {**own, "TALLY_KAFKA_SERVERS": self.cluster.servers, "TALLY_POSTGRES_DSN": self.dsn}
        command = [sys.executable, "-m", "sinks.where", "--url", url or self.worker.url, *map(str, arguments)]
        ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")
        answers: list[dict[str, Any]] = json.loads(ended.stdout)
        return answers

    def at(self, offset: int, **fields: Any) -> dict[str, Any]:
        (answer,) = self.where("--partition", PARTITION, "--offset", offset, **fields)
        return answer

    def state(self, offset: int) -> str:
        return str(self.at(offset)["state"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, postgres: LocalPostgres) -> Iterator[Scene]:
    migrate(postgres.dsn)
    with a_cluster(tmp_path_factory.mktemp("where")) as cluster:
        yield Scene(cluster, postgres.dsn)


@pytest.fixture
def sinks(scene: Scene, tmp_path: Path) -> Iterator[SinksProcess]:
    """The sinks; they stop with the test that asked for them."""
    process = SinksProcess(scene.cluster.servers, scene.dsn, tmp_path / "sinks.log")
    yield process
    process.stop()


def test_endpoint_says_which_block_has_counted_a_position(scene: Scene) -> None:
    """By position a worker names the blocks of the bucket that reach it; the minute is that of the event alone here."""
    eventually(lambda: scene.ask(partition=PARTITION, offset=scene.event)[1]["state"] == "counted", what="the event counted")
    status, answer = scene.ask(partition=PARTITION, offset=scene.event)
    assert status == 200
    throughs = {block["minute"]: block["through"] for block in answer["blocks"]}
    assert throughs["2022-03-01T00:05:00"] >= scene.event
    assert (answer["bucket"], answer["complete"]) == (0, True)
    status, answer = scene.ask(partition=PARTITION, offset=10**9)
    assert (status, answer["state"], answer["blocks"]) == (200, "beyond_end", [])


def test_endpoint_finds_the_position_of_a_users_event(scene: Scene) -> None:
    """By user and time, to the millisecond, in whatever partition a producer has put it; and nothing of what it holds."""
    eventually(lambda: scene.ask(cookie=USER, time=TIME)[1]["state"] == "counted", what="the event counted")
    status, answer = scene.ask(cookie=USER, time=TIME)
    (event,) = answer["events"]
    assert event.pop("through") >= scene.event
    assert event == {"partition": PARTITION, "offset": scene.event, "minute": "2022-03-01T00:05:00", "bucket": 0}
    assert (status, answer["complete"]) == (200, True)
    assert not {"VIEW", "CL", "Trousers", USER} & set(json.dumps(answer, ensure_ascii=False).replace('"', " ").split())
    assert scene.ask(cookie=USER, time="2022-03-01T00:05:07.251Z")[1]["events"] == []


@pytest.mark.parametrize(
    "query",
    [
        "",
        "partition=0",
        "partition=4&offset=0",
        "partition=-1&offset=0",
        "partition=0&offset=x",
        "partition=0&offset=0&offset=1",
        f"partition=0&offset={2**63}",
        f"partition=0&offset={'9' * 5000}",
        "partition=0&offset=0&cookie=a",
        "cookie=a",
        "cookie=a&time=2022-03-01",
        "cookie=a&time=2022-02-30T00:00:00Z",
        "cookie=%ff&time=2022-03-01T00:00:00Z",
    ],
)
def test_endpoint_refuses_what_is_no_question(scene: Scene, query: str) -> None:
    """One sentence of JSON and 400; no trace."""
    status, answer = get(f"{scene.worker.url}/event?{query}")
    assert (status, answer["error"]["code"]) == (400, "bad_query")


def test_any_worker_answers_for_all_partitions(scene: Scene) -> None:
    """The one that is asked asks the owner."""
    scene.cluster.send(some_tags(1, 400, minutes=MINUTES))
    other = scene.cluster.worker(index=1).start()

    def both_own_some() -> bool:
        return all(0 < len(get(f"{url}/ready")[1]["partitions"]) < PARTITIONS for url in (scene.worker.url, other.url))

    eventually(both_own_some, within_s=60, what="two owners")
    for url in (scene.worker.url, other.url):
        for partition in range(PARTITIONS):
            status, answer = get(f"{url}/event?partition={partition}&offset=0")
            assert (status, answer["state"]) == (200, "counted")
        found = get(f"{url}/event?{urlencode({'cookie': USER, 'time': TIME})}")
        assert [event["offset"] for event in found[1]["events"]] == [scene.event]
    other.stop()
    eventually(lambda: scene.ask(partition=0, offset=0)[0] == 200, within_s=60, what="the first worker alone")


def test_counted_then_in_postgres_and_the_gateway_passes_the_question_on(scene: Scene, sinks: SinksProcess) -> None:
    """Before the sinks run it is only counted, with their lag; after them it is in Postgres, asked either way."""
    event = scene.send(Tag(b"berta", a_record(cookie="berta", time=TIME)))
    bad = scene.send(Tag(b"berta", b'{"time":"%b","cookie":1}' % TIME.encode()))
    eventually(lambda: scene.ask(partition=PARTITION, offset=bad)[1]["state"] == "counted", what="both counted")
    answer = scene.at(event)
    assert (answer["state"], answer["minute"]) == ("counted", "2022-03-01T00:05:00")
    assert answer["block_through"] >= event and answer["postgres"]["lag"] > 0
    assert (scene.at(bad)["state"], scene.state(10**9)) == ("dead_letter", "never_written")
    sinks.start()
    eventually(lambda: scene.state(event) == "in_postgres", within_s=60, what="the event in Postgres")
    answer = scene.at(bad)
    assert answer["state"] == "dead_letter" and "schema" in answer["says"]
    with running_gateway(scene.cluster.servers, gateway_workers=scene.worker.url) as gateway:
        eventually(lambda: get(gateway.url("/ready"))[0] == 200, what="the gateway ready")
        assert scene.at(event, url=gateway.url(""))["state"] == "in_postgres"
        assert get(gateway.url("/event?partition=9&offset=0"))[0] == 400
        answers = scene.where("--user", "berta", "--time", TIME, url=gateway.url(""))
    states = {answer["source"]: answer["state"] for answer in answers}
    assert states == {f"{SOURCE}/{PARTITION}/{event}": "in_postgres", f"{SOURCE}/{PARTITION}/{bad}": "dead_letter"}
    assert scene.where("--user", "nobody", "--time", TIME) == []


async def transact(scene: Scene, tag: Tag, look: Callable[[int], None]) -> int:
    """Write a tag in a transaction, look at its offset while that is open, commit; return the offset."""
    producer = AIOKafkaProducer(bootstrap_servers=scene.cluster.servers, transactional_id="where")
    await producer.start()
    try:
        await producer.begin_transaction()
        sent = await producer.send_and_wait(SOURCE, tag.value, key=tag.key, partition=PARTITION)
        await asyncio.to_thread(look, sent.offset)
        await producer.commit_transaction()
    finally:
        await producer.stop()
    return int(sent.offset)


def test_holes_and_open_transactions_are_told_apart(scene: Scene) -> None:
    """A marker's offset holds no event and never will; what is in an open transaction may still become one."""

    def undecided(offset: int) -> None:
        assert scene.state(offset) == "undecided"

    offset = asyncio.run(transact(scene, Tag(b"cecil", a_record(cookie="cecil", time=TIME)), undecided))
    eventually(lambda: scene.state(offset) == "counted", what="the event counted")
    assert scene.state(offset + 1) == "no_event"


def test_what_retention_removed_is_forgotten_unless_postgres_has_it(scene: Scene, sinks: SinksProcess) -> None:
    """The topic no longer has the record; its row still tells of it, and nothing of a marker's offset."""
    sinks.start()
    offset = asyncio.run(transact(scene, Tag(b"dora", a_record(cookie="dora", time=TIME)), lambda offset: None))
    eventually(lambda: scene.state(offset) == "in_postgres", within_s=60, what="the event in Postgres")
    with scene.cluster.admin() as admin:
        admin.delete_records({TopicPartition(SOURCE, PARTITION): scene.end})
    assert scene.state(offset) == "in_postgres"
    assert scene.state(offset + 1) == "forgotten"


def test_submissions_are_found_and_duplicates_told(scene: Scene, sinks: SinksProcess) -> None:
    """Of `events.v1`: by position, and by user and time in any partition; the one that was sent again is said to be so."""
    sinks.start()
    fields = {"user": "eve", "time": TIME}
    raws = [
        record_bytes(event)
        for event in (
            a_submission("a", "b", id="1", **fields), a_submission("a", id="1", **fields), a_submission(id="2", **fields),
            a_submission(id="3", **fields, kind="TRADE"),
        )
    ]  # fmt: skip
    with closing(KafkaProducer(bootstrap_servers=scene.cluster.servers)) as producer:
        sent = [producer.send(EVENTS.topic, key=b"PCR", value=raw, partition=PARTITION) for raw in raws]
        first, again, empty, bad = (future.get(timeout=20).offset for future in sent)

    def states(*arguments: object) -> dict[int, str]:
        found = scene.where("--topic", EVENTS.topic, *arguments)
        return {int(answer["source"].rpartition("/")[2]): answer["state"] for answer in found}

    expected = {first: "in_postgres", empty: "counted", bad: "dead_letter"}
    by_user = ("--user", "eve", "--time", TIME)
    eventually(lambda: states(*by_user) == expected, within_s=60, what="the submissions in Postgres")
    at = [states("--partition", PARTITION, "--offset", offset) for offset in (first, again, empty, bad)]
    assert at == [{first: "in_postgres"}, {again: "duplicate"}, {empty: "counted"}, {bad: "dead_letter"}]
    with running_gateway(scene.cluster.servers, gateway_workers=scene.worker.url) as gateway:
        eventually(lambda: get(gateway.url("/ready"))[0] == 200, what="the gateway ready")
        status, answer = get(gateway.url(f"/v1/event?{urlencode({'user': 'eve', 'time': TIME})}"))
    assert (status, sorted(event["offset"] for event in answer["events"])) == (200, [first, empty])


def test_acknowledged_but_not_counted_yet_waits(scene: Scene) -> None:
    """A worker that sends its open buckets seldom has not counted what just came; the answer says how far behind it is."""
    scene.worker.stop()
    scene.worker = slow = scene.cluster.worker(WORKER_PARTIAL_INTERVAL_S=NEVER_S).start()
    scene.cluster.send(some_tags(2, 50, minutes=MINUTES), partition=PARTITION)
    eventually(lambda: slow.metric("tally_consumer_lag_records") == 0, what="the first batch, which sends the partial blocks")
    offset = scene.send(Tag(b"late", a_record(cookie="late", time=TIME)))
    answer = scene.at(offset)
    (found,) = scene.where("--user", "late", "--time", TIME)
    slow.stop()
    scene.worker = scene.cluster.worker().start()
    assert answer["state"] == "waiting" and "1 behind" in answer["says"]
    assert (found["state"], found["source"]) == ("waiting", f"{SOURCE}/{PARTITION}/{offset}")
