"""Several workers answer as one: each for all partitions, equal to the oracle, and never with less while partitions move."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from kafka import KafkaProducer

from agents.guard import EXIT_CODE
from streams.event_time import format_instant, parse_instant
from streams.partitioner import partition_of
from streams.topics import USER_TAGS
from tests.support.builders import a_user_tag, record_bytes
from tests.support.eventually import eventually
from tests.support.job import Answer, Door, own_kafka
from tests.support.oracle import Oracle, oracle_of
from tests.support.worker import WorkerProcess

PARTITIONS = 4
MINUTE = "2022-03-01T00:00"
START_MS = parse_instant(f"{MINUTE}:00Z")
SEED = 11
COOKIES = 150
BOTH = ("COUNT", "SUM_PRICE")
CAUGHT_UP_WITHIN_S = 60.0
SENDS_A_TURN = 20
TURN_S = 0.05
"""About 400 events a second: every moment of a rebalance has some."""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[str]:
    """A Kafka of the test's own."""
    with own_kafka(tmp_path / "kafka") as running:
        yield running


@dataclass
class Workers:
    """The workers of a test, by index, and a connection to each."""

    servers: str
    home: Path
    processes: dict[int, WorkerProcess] = field(default_factory=dict)

    def start(self, *indexes: int) -> None:
        """Start workers at once and wait until all of them are ready."""
        for index in indexes:
            worker = self.processes.get(index) or WorkerProcess(self.servers, self.home, index=index)
            self.processes[index] = worker.start(wait=False)
        for index in indexes:
            self.processes[index].wait_ready()

    def ask_each(self) -> list[Door]:
        return [Door(worker.port) for worker in self.processes.values()]


@pytest.fixture
def workers(servers: str, tmp_path: Path) -> Iterator[Workers]:
    """No worker yet; what a test starts is killed at its end."""
    started = Workers(servers, tmp_path / "job")
    yield started
    for worker in started.processes.values():
        worker.kill()


def a_tag(chance: random.Random, **overrides: Any) -> dict[str, Any]:
    """Return an event of ten minutes, in no order of time."""
    fields = {
        "cookie": f"cookie-{int(COOKIES * chance.random() ** 2)}",
        "time": format_instant(START_MS + chance.randrange(600_000)),
        "action": chance.choice(("VIEW", "BUY")),
        "origin": f"o{chance.randrange(3)}",
        "brand_id": f"b{chance.randrange(3)}",
        "category_id": f"c{chance.randrange(3)}",
        "price": chance.randrange(-5, 30_000),
    }
    return a_user_tag(**{**fields, **overrides})


@contextmanager
def a_producer(servers: str) -> Iterator[KafkaProducer]:
    with closing(KafkaProducer(bootstrap_servers=servers, linger_ms=5)) as producer:
        yield producer
        producer.flush()


def produce(servers: str, count: int, *, seed: int) -> None:
    """Send events as a producer of one's own does, with Kafka's default partitioner."""
    chance = random.Random(seed)
    with a_producer(servers) as producer:
        for _ in range(count):
            tag = a_tag(chance)
            producer.send(USER_TAGS.topic, key=tag["cookie"].encode(), value=record_bytes(tag))


def questions() -> Iterator[dict[str, str]]:
    """Yield all filter combinations of both actions."""
    for action, given in product(("VIEW", "BUY"), product((False, True), repeat=3)):
        names = [name for name, is_given in zip(("origin", "brand_id", "category_id"), given, strict=True) if is_given]
        yield {"action": action} | {name: f"{name[0]}1" for name in names}


def differences(door: Door, oracle: Oracle) -> list[str]:
    """Return what a worker answers unlike the oracle: all profiles, and all filter combinations of all minutes."""
    found: list[str] = []
    for filters in questions():
        answer = door.aggregates(MINUTE, 10, BOTH, filters)
        if answer.status != 200 or answer.json != oracle.aggregates(MINUTE, 10, BOTH, filters):
            found.append(f"{filters}: {answer.body!r}"[:500])
    for cookie in sorted({cookie for cookie, _ in oracle.users}):
        answer = door.profile(cookie)
        if answer.status != 200 or answer.json != oracle.profile(cookie, 0, 1 << 60):
            found.append(f"{cookie}: {answer.status}")
    return found


def check_all(workers: Workers) -> None:
    """Check that every worker answers as the oracle of the whole topic does."""
    oracle = oracle_of(workers.servers, USER_TAGS.topic)
    with ExitStack() as stack:
        doors = [stack.enter_context(closing(door)) for door in workers.ask_each()]
        for door in doors:
            eventually(
                lambda door=door: (
                    total_of(door.aggregates(MINUTE, 10, ("COUNT",), {"action": "VIEW"}))  # type: ignore[misc]
                    == sum(number for cell, number in oracle.counts.items() if cell[1] == "VIEW")
                ),
                within_s=CAUGHT_UP_WITHIN_S,
            )
            assert eventually(lambda door=door: differences(door, oracle) == [] or None, within_s=CAUGHT_UP_WITHIN_S)  # type: ignore[misc]


def total_of(answer: Answer) -> int:
    assert answer.status == 200, answer
    return sum(int(row[-1]) for row in answer.json["rows"])


def test_any_worker_answers_for_all_partitions(workers: Workers) -> None:
    """A9: with two workers, and with a third that comes under load; each equals the oracle, profiles and aggregates."""
    workers.start(0, 1)
    produce(workers.servers, 8_000, seed=SEED)
    check_all(workers)
    assert all(owned_by(worker) for worker in workers.processes.values())
    with traffic(workers.servers):
        workers.start(2)
        eventually(lambda: owned_by(workers.processes[2]), what="partitions of the third worker")
    check_all(workers)
    owned = [partition for worker in workers.processes.values() for partition in owned_by(worker)]
    assert sorted(owned) == list(range(PARTITIONS))


def owned_by(worker: WorkerProcess) -> list[int]:
    with closing(Door(worker.port)) as door:
        answer = door.ask("GET", "/ready")
        return list(answer.json["partitions"]) if answer.status == 200 else []


@contextmanager
def sending(servers: str, send_turn: Callable[[Any], None]) -> Iterator[None]:
    """Call *send_turn* with a producer every `TURN_S`, all the while."""
    stopped = threading.Event()

    def run() -> None:
        with a_producer(servers) as producer:
            while not stopped.is_set():
                send_turn(producer)
                producer.flush()
                stopped.wait(TURN_S)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def traffic(servers: str) -> AbstractContextManager[None]:
    """Send events of many cookies all the while."""
    chance = random.Random(SEED)

    def send_turn(producer: Any) -> None:
        for _ in range(SENDS_A_TURN):
            tag = a_tag(chance)
            producer.send(USER_TAGS.topic, key=tag["cookie"].encode(), value=record_bytes(tag))

    return sending(servers, send_turn)


@dataclass
class Watch:
    """What the workers answered while partitions moved, in order: every 200's total, and every other status."""

    totals: list[int] = field(default_factory=list)
    profiles: list[int] = field(default_factory=list)
    refused: list[Answer] = field(default_factory=list)
    shrunk: list[str] = field(default_factory=list)

    def note(self, seen: list[int], answer: Answer, total: int | None, *, what: str) -> None:
        if total is None:
            self.refused.append(answer)
            return
        if seen and total < seen[-1]:
            self.shrunk.append(f"{what}: {total} after {seen[-1]}")
        seen.append(total)


HOT = "cookie-hot"


@contextmanager
def watching(workers: Workers) -> Iterator[Watch]:
    """Ask every worker in turn, again and again, for a total and for a profile."""
    watch, stopped = Watch(), threading.Event()
    doors = workers.ask_each()

    def run() -> None:
        while not stopped.is_set():
            for index, door in enumerate(doors):
                try:
                    answer = door.aggregates(MINUTE, 10, ("COUNT",), {"action": "VIEW"})
                    total = total_of(answer) if answer.status == 200 else None
                    watch.note(watch.totals, answer, total, what=f"aggregates of worker {index} at {time.monotonic():.2f}")
                    answer = door.profile(HOT)
                    newest = answer.json["views"] if answer.status == 200 else None
                    number = None if newest is None else newest[0]["product_info"]["price"] if newest else -1
                    watch.note(watch.profiles, answer, number, what=f"profile of worker {index} at {time.monotonic():.2f}")
                except OSError:
                    continue  # it is down just now

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield watch
    finally:
        stopped.set()
        thread.join()
        for door in doors:
            door.close()


def answers_grow(watch: Watch, *, by: int = 5) -> None:
    """Wait until the workers answer again, several times."""
    already = len(watch.totals)
    eventually(lambda: len(watch.totals) >= already + by, within_s=CAUGHT_UP_WITHIN_S, what="answers again")


def test_no_answer_has_less_while_workers_come_and_go(workers: Workers) -> None:
    """A9, A10, design §10: while a partition has no ready owner it is 503 with Retry-After; a 200 never takes back a count."""
    workers.start(0, 1)
    produce(workers.servers, 6_000, seed=SEED)
    check_all(workers)
    with traffic(workers.servers), hot_profile(workers.servers), watching(workers) as watch:
        answers_grow(watch)
        workers.processes[1].kill()
        answers_grow(watch)
        workers.start(1)
        answers_grow(watch)
        workers.processes[0].stop()
        workers.start(0)
        answers_grow(watch)
    assert watch.shrunk == []
    assert {answer.status for answer in watch.refused} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 and answer.error for answer in watch.refused)
    check_all(workers)


def hot_profile(servers: str) -> AbstractContextManager[None]:
    """Send rising prices of one cookie, so that its newest tells how much of it is shown."""
    numbers = itertools.count(1)

    def send_turn(producer: Any) -> None:
        tag = a_user_tag(cookie=HOT, time="2022-03-01T00:05:00Z", price=next(numbers))
        producer.send(USER_TAGS.topic, key=HOT.encode(), value=record_bytes(tag))

    return sending(servers, send_turn)


def produce_elsewhere(servers: str, cookies: Sequence[str], *, seed: int, event_number: int) -> None:
    """Send events as librdkafka's default partitioner puts them, CRC32, and some without a key anywhere."""
    chance = random.Random(seed)
    with a_producer(servers) as producer:
        for number in range(4_000):
            cookie = chance.choice(cookies)
            # No two of one cookie in one millisecond: across partitions their order of arrival is nobody's.
            tag = a_tag(chance, cookie=cookie, time=format_instant(START_MS + event_number + 2 * number))
            key = None if number % 5 == 0 else cookie.encode()
            partition = chance.randrange(PARTITIONS) if key is None else crc32(key) % PARTITIONS
            producer.send(USER_TAGS.topic, key=key, value=record_bytes(tag), partition=partition)


def test_profiles_are_whole_although_a_producer_partitions_otherwise(workers: Workers) -> None:
    """Design §10: CRC32 and null keys; a metric and one log line a worker name the topic, and a restart forgets nothing."""
    cookies = [f"cookie-{number}" for number in range(40)]
    assert any(crc32(cookie.encode()) % PARTITIONS != partition_of(cookie.encode(), PARTITIONS) for cookie in cookies)
    workers.start(0, 1)
    produce_elsewhere(workers.servers, cookies, seed=SEED, event_number=0)
    check_all(workers)
    seen = [worker.metric("tally_misrouted_records_total") for worker in workers.processes.values()]
    assert sum(seen) > 0
    for worker, number in zip(workers.processes.values(), seen, strict=True):
        lines = [line for line in worker.log().splitlines() if "murmur2 partitioner" in line]
        assert len(lines) == (1 if number else 0)
        assert all(USER_TAGS.topic in line for line in lines)
    for worker in workers.processes.values():
        worker.kill()
    oracle = oracle_of(workers.servers, USER_TAGS.topic)
    workers.start(0, 1)
    for worker in workers.processes.values():
        with closing(Door(worker.port)) as door:
            wrong = [cookie for cookie in cookies if is_less(door.profile(cookie), oracle.profile(cookie, 0, 1 << 60))]
            assert wrong == []
    produce_elsewhere(workers.servers, cookies, seed=SEED + 1, event_number=1)
    check_all(workers)


def is_less(answer: Answer, expected: dict[str, Any]) -> bool:
    """Say whether an answer of success is not the expected one; a 503 is no answer."""
    return answer.status == 200 and answer.json != expected


def test_worker_refuses_topics_with_other_partitions_than_its_settings(servers: str, tmp_path: Path) -> None:
    """Started by hand with another number: it would ask for cookies in partitions that do not hold them."""
    worker = WorkerProcess(servers, tmp_path / "job", settings={"TALLY_TOPICS_PARTITIONS": "3"}).start(wait=False)
    assert worker.wait_ended() == EXIT_CODE
    assert f"topics.partitions is 3, but topic '{USER_TAGS.topic}' has {PARTITIONS} partitions" in worker.log()
