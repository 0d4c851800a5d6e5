"""Send the events of a case, by HTTP and straight into Kafka, at their time whatever the answers do; the ledger knows all."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import defaultdict
from collections.abc import Coroutine
from concurrent.futures import Future
from time import perf_counter
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from load.client import Client, Request
from stack.ports import LOOPBACK
from streams.partitioner import partition_of
from streams.topics import USER_TAGS
from tests.fault.events import an_event
from tests.fault.ledger import Ledger, Outcome, Way
from tests.support.eventually import eventually
from tests.support.tags import Tag

T = TypeVar("T")

LOAD = "load"
"""Its name where processes are named."""
TURN_S = 0.01
HTTP_TIMEOUT_S = 20.0
"""Longer than the gateway may take to say that Kafka does not acknowledge."""
KAFKA_TIMEOUT_S = 40.0
WAITING_MAX = 30_000
BURST_BATCH_EVENTS = 500
BATCH_BYTES_MAX = 1 << 19
EVENTS_A_COOKIE = 50
CALL_TIMEOUT_S = 120.0


def outcome_of(status: int, body: bytes) -> Outcome:
    """Return what an answer of the gateway to an event says.

    >>> [outcome_of(204, b"").value, outcome_of(400, b"").value, outcome_of(0, b"").value]
    ['acknowledged', 'refused', 'unknown']
    """
    if status == 204:
        return Outcome.ACKNOWLEDGED
    if 400 <= status < 500 or (status == 503 and b"is not stored" in body):  # the gateway's own words: a promise too
        return Outcome.REFUSED
    return Outcome.UNKNOWN


class Load:
    """Sends on a thread of its own.

    Attributes:
        sent: events sent since `run_on`.
    """

    def __init__(self, ledger: Ledger, *, servers: str, port: int, seed: int, cookies: int) -> None:
        self.ledger = ledger
        self.seed = seed
        self.cookies = cookies
        self.sent = 0
        self._servers = servers
        self._port = port
        self._waiting = 0
        self._is_over = False
        self._running: Future[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=LOAD, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> Load:
        """Connect."""
        self._thread.start()
        self._call(self._connect())
        return self

    def burst(self, events: int) -> None:
        """Send so many straight into Kafka as fast as it goes; all are answered when this returns."""
        self._call(self._burst(events))

    def run_on(self, rate: int, *, http_share: float) -> None:
        """Begin to send *rate* events a second, until `finish`."""
        self._running = asyncio.run_coroutine_threadsafe(self._send_on(rate, http_share), self._loop)

    def wait_sent(self, events: int, *, within_s: float) -> None:
        """Return when so many were sent since `run_on`."""
        assert self._running is not None
        running = self._running

        def reached() -> bool:
            if running.done():
                running.result()
            return self.sent >= events

        eventually(reached, within_s=within_s, what=f"{events} events sent")

    def finish(self) -> None:
        """Send no more, and return when every event is answered or given up."""
        self._is_over = True
        if self._running is not None:
            self._running.result(CALL_TIMEOUT_S)
        self._call(self._disconnect())

    def close(self) -> None:
        """End the thread, whatever it does; a second call does nothing."""
        if self._thread.is_alive():
            self._is_over = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)

    async def _connect(self) -> None:
        self._client = Client(LOOPBACK, self._port)
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._servers,
            acks="all",
            enable_idempotence=True,
            linger_ms=5,
            max_batch_size=BATCH_BYTES_MAX,
            request_timeout_ms=int(KAFKA_TIMEOUT_S * 1000),
        )
        await self._producer.start()

    async def _disconnect(self) -> None:
        while self._waiting:
            await asyncio.sleep(TURN_S)
        await self._producer.stop()
        await self._client.close()

    async def _burst(self, events: int) -> None:
        partitions = len(await self._producer.partitions_for(USER_TAGS.topic))
        batches: defaultdict[int, list[tuple[int, Tag]]] = defaultdict(list)
        for _ in range(events):
            number = self.ledger.next_number()
            tag = an_event(self.seed, number, cookies=self.cookies)
            self.ledger.sent(number, tag.value, Way.KAFKA)
            partition = partition_of(tag.key, partitions)
            batches[partition].append((number, tag))
            if len(batches[partition]) == BURST_BATCH_EVENTS:
                await self._send_batch(partition, batches.pop(partition))
        for partition, batch in batches.items():
            await self._send_batch(partition, batch)

    async def _send_batch(self, partition: int, events: list[tuple[int, Tag]]) -> None:
        batch = self._producer.create_batch()
        for _, (key, value) in events:
            batch.append(key=key, value=value, timestamp=None)
        batch.close()
        stored = await (await self._producer.send_batch(batch, USER_TAGS.topic, partition=partition))
        for place, (number, _) in enumerate(events, stored.offset):
            self.ledger.answered(number, Outcome.ACKNOWLEDGED, (partition, place))

    async def _send_on(self, rate: int, http_share: float) -> None:
        chooses = random.Random(self.seed)
        started_s = perf_counter()
        while not self._is_over:
            due = int((perf_counter() - started_s) * rate) - self.sent
            for _ in range(due if self._waiting < WAITING_MAX else 0):
                self._send(Way.HTTP if chooses.random() < http_share else Way.KAFKA)
                self.sent += 1
            await asyncio.sleep(TURN_S)

    def _send(self, way: Way) -> None:
        number = self.ledger.next_number()
        key, value = an_event(self.seed, number, cookies=self.cookies)
        self.ledger.sent(number, value, way)
        self._waiting += 1
        if way is Way.HTTP:
            self._post(number, value)
        else:
            task = self._loop.create_task(self._produce(number, key, value))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _post(self, number: int, value: bytes) -> None:
        def done(status: int, body: bytes) -> None:
            self._waiting -= 1
            self.ledger.answered(number, outcome_of(status, body))

        head = b"POST /user_tags HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(value)
        self._client.send(Request(head + value, perf_counter(), HTTP_TIMEOUT_S, done))

    async def _produce(self, number: int, key: bytes, value: bytes) -> None:
        try:
            stored = await (await self._producer.send(USER_TAGS.topic, key=key, value=value))
        except KafkaError:
            self.ledger.answered(number, Outcome.UNKNOWN)
        else:
            self.ledger.answered(number, Outcome.ACKNOWLEDGED, (stored.partition, stored.offset))
        finally:
            self._waiting -= 1


def cookies_for(events: int) -> int:
    """Return how many users make profiles that mostly keep every event of theirs."""
    return max(EVENTS_A_COOKIE, events // EVENTS_A_COOKIE)
