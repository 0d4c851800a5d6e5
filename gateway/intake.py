"""Gather events into one open batch a partition, send the batches a few milliseconds later, and tell each event's fate.

An event is stored when Kafka acknowledged its batch with `acks=all`, and only then does its future say so. A delivery
that timed out may still be stored later: whoever sends that event again makes a second event of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError, KafkaTimeoutError
from aiokafka.producer.message_accumulator import BatchBuilder

from gateway.connection import Connection
from gateway.request_id import NO_HEADERS, RecordHeaders
from streams.clock import SYSTEM_CLOCK, Clock
from streams.errors import KafkaUnavailableError
from streams.metrics import GatewayMetrics
from streams.partitioner import partition_of
from streams.settings import Settings
from streams.topics import Stream

log = logging.getLogger(__name__)

WAITING_BYTES_MAX = 134_217_728
CHECK_INTERVAL_S = 1.0
FRESH_S = 5.0
RECONNECT_PAUSE_S = (0.2, 1.0)
"""Bounds of the random pause between two tries to connect."""
STUCK_ACKNOWLEDGE_TIMEOUTS = 3
"""After so many time limits without any sign of life a new connection asks the bootstrap servers again: brokers move."""
CLOSE_TIMEOUT_S = 1.0


class Refusal(NamedTuple):
    """Why an event is not known to be stored.

    Attributes:
        code: for programs.
        message: for people; says whether the event may be stored all the same.
    """

    code: str
    message: str


NOT_CONNECTED = Refusal("kafka_unavailable", "kafka is not connected; the event is not stored, send it again")
STALLED = Refusal("kafka_unavailable", "kafka does not acknowledge at present; the event is not stored, send it again")
TOO_MANY_WAITING = Refusal("too_many_waiting", "too many events wait for kafka; the event is not stored, send it again")
NOT_SENT = Refusal("kafka_unavailable", "kafka took nothing within the time limit; the event is not stored, send it again")
UNKNOWN = Refusal(
    "not_acknowledged",
    "kafka did not acknowledge within the time limit; whether the event is stored is unknown: sent again it may count twice",
)

Fate = Refusal | None
"""None: stored."""
Tell = Callable[[Fate], None]
"""Takes an event's fate; called once, and must not raise."""


class Batch:
    """Events of one partition that are sent, and acknowledged, together."""

    __slots__ = ("builder", "bytes", "expiry", "handed_over", "lane", "sent_s", "settled", "tells")

    def __init__(self, builder: BatchBuilder, lane: Lane) -> None:
        self.builder = builder
        self.lane = lane
        self.sent_s = 0.0
        self.bytes = 0
        self.tells: list[Tell] = []
        self.expiry: asyncio.TimerHandle | None = None
        self.handed_over = False
        self.settled = False

    def settle(self, fate: Fate) -> None:
        """Tell every event its fate, once."""
        if self.settled:
            return
        self.settled = True
        if self.expiry is not None:
            self.expiry.cancel()
        for tell in self.tells:
            try:
                tell(fate)
            except Exception:  # One request's bug must not keep the others from their answers.
                log.exception("an event's fate could not be told")


class Lane:
    """The batches of one partition: full ones wait in order, the newest is open."""

    __slots__ = ("due", "open", "partition", "ready", "wake")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.ready: deque[Batch] = deque()
        self.open: Batch | None = None
        self.due = False
        self.wake = asyncio.Event()

    def send_open(self) -> None:
        """Let the open batch go as soon as the lane is free; until then it may still grow."""
        if self.open is not None:
            self.due = True
            self.wake.set()

    def close_open(self) -> None:
        """Put the open batch at the end of those that wait, because it is full."""
        if self.open is not None:
            self.ready.append(self.open)
            self.open = None
            self.due = False
            self.wake.set()

    def drop(self, batch: Batch) -> None:
        """Forget a batch that is not to be sent any more."""
        if self.open is batch:
            self.open = None
            self.due = False
        else:
            self.ready.remove(batch)

    async def next(self) -> Batch:
        """Return the oldest batch that may be sent; waits for one."""
        while True:
            if self.ready:
                return self.ready.popleft()
            if self.due and self.open is not None:
                batch, self.open, self.due = self.open, None, False
                return batch
            self.wake.clear()
            await self.wake.wait()


class Intake:
    """Take events of one stream and write them to its topic, in order within a partition.

    `run` keeps it connected. It survives any outage of Kafka: events wait up to the acknowledge time limit, later ones are
    refused at once until Kafka answers again.
    """

    def __init__(self, stream: Stream, settings: Settings, metrics: GatewayMetrics, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._topic = stream.topic
        self._kafka = settings.kafka
        self._partitions = settings.topics.partitions
        self._linger_s = settings.gateway.linger_ms / 1000
        self._waiting_max = settings.gateway.events_waiting_max
        self._acknowledge_timeout_s = settings.gateway.acknowledge_timeout_s
        self._metrics = metrics
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._lanes = [Lane(partition) for partition in range(self._partitions)]
        self._handed_over: dict[Batch, None] = {}
        self._linger: asyncio.TimerHandle | None = None
        self._connection: Connection | None = None
        self._broken = asyncio.Event()
        self._refusal: Refusal | None = NOT_CONNECTED
        self._answered_s = clock.monotonic_s()
        self._waiting = 0
        self._waiting_bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stored = metrics.events.labels("acknowledged")
        metrics.waiting.set_function(lambda: self._waiting)
        metrics.dependency_up.labels("kafka").set_function(lambda: self.why_not_ready() is None)

    def append(self, key: bytes, value: bytes, tell: Tell, headers: RecordHeaders = NO_HEADERS) -> None:
        """Take one event; *tell* is called with its fate, at once or within the acknowledge time limit."""
        if self._waiting >= self._waiting_max or self._waiting_bytes >= WAITING_BYTES_MAX:
            self._refuse(tell, TOO_MANY_WAITING)
        elif self._refusal is not None:
            self._refuse(tell, self._refusal)
        else:
            batch = self._append(self._lanes[partition_of(key, self._partitions)], key, value, headers)
            batch.tells.append(tell)

    def fate_of(self, key: bytes, value: bytes, headers: RecordHeaders = NO_HEADERS) -> asyncio.Future[Fate]:
        """Take one event and return a future of its fate, which never raises."""
        future: asyncio.Future[Fate] = self._loop.create_future()
        # A request that was given up has cancelled its own.
        self.append(key, value, lambda fate: None if future.done() else future.set_result(fate), headers)
        return future

    def why_not_ready(self) -> str | None:
        """Return why events cannot be stored now, or None."""
        if self._refusal is not None:
            return "kafka is not connected" if self._refusal is NOT_CONNECTED else "kafka does not acknowledge"
        age_s = self._clock.monotonic_s() - self._answered_s
        return f"kafka has not answered for {age_s:.0f} s" if age_s > FRESH_S else None

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            SettingsError: the topic has another number of partitions than the setting.
        """
        while True:
            connection = await self._connect()
            senders = [asyncio.create_task(self._send_lane(lane, connection)) for lane in self._lanes]
            try:
                await self._watch(connection)
            finally:
                for sender in senders:
                    sender.cancel()
                await asyncio.gather(*senders, return_exceptions=True)
                await connection.close(CLOSE_TIMEOUT_S)
                for batch in list(self._handed_over):
                    self._release(batch, UNKNOWN)

    async def flush(self, timeout_s: float) -> None:
        """Send what is open now and wait at most *timeout_s* until nothing waits; what is left is told to be unstored."""
        for lane in self._lanes:
            lane.send_open()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        self._give_up()

    def _append(self, lane: Lane, key: bytes, value: bytes, headers: RecordHeaders) -> Batch:
        batch = lane.open or self._open(lane)
        if batch.builder.append(timestamp=None, key=key, value=value, headers=headers) is None:
            lane.close_open()
            batch = self._open(lane)
            batch.builder.append(timestamp=None, key=key, value=value, headers=headers)  # A first record fits, however large.
        size_bytes = len(key) + len(value)
        batch.bytes += size_bytes
        self._waiting += 1
        self._waiting_bytes += size_bytes
        return batch

    def _open(self, lane: Lane) -> Batch:
        assert self._connection is not None
        batch = lane.open = Batch(self._connection.create_batch(), lane)
        batch.expiry = self._loop.call_later(self._acknowledge_timeout_s, self._expire, batch)
        self._idle.clear()
        if self._linger is None:
            # One timer for all partitions: their batches then travel in one request a broker.
            self._linger = self._loop.call_later(self._linger_s, self._send_open_batches)
        return batch

    def _send_open_batches(self) -> None:
        self._linger = None
        for lane in self._lanes:
            lane.send_open()

    def _refuse(self, tell: Tell, refusal: Refusal) -> None:
        self._metrics.events.labels("failed").inc()
        tell(refusal)

    async def _connect(self) -> Connection:
        told = False
        while True:
            try:
                self._connection = await Connection.open(
                    self._kafka,
                    self._topic,
                    partitions=self._partitions,
                    request_timeout_s=self._acknowledge_timeout_s,
                )
            except KafkaUnavailableError as error:
                if not told:
                    log.warning("%s; trying on", error)
                    told = True
                await asyncio.sleep(random.uniform(*RECONNECT_PAUSE_S))  # noqa: S311 - jitter
            else:
                log.info("connected to kafka", extra={"topic": self._topic})
                self._broken.clear()
                self._alive()
                return self._connection

    async def _watch(self, connection: Connection) -> None:
        """Return when the connection is of no use any more."""
        while not self._broken.is_set():
            if await connection.check():
                self._alive()
            if self._is_stuck():
                log.warning("kafka gives no sign of life, connecting anew", extra={"topic": self._topic})
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._broken.wait(), CHECK_INTERVAL_S)

    def _is_stuck(self) -> bool:
        """Say whether neither the metadata nor the oldest batch has been answered for long."""
        oldest = next(iter(self._handed_over), None)
        since_s = self._answered_s if oldest is None else min(self._answered_s, oldest.sent_s)
        return self._clock.monotonic_s() - since_s > STUCK_ACKNOWLEDGE_TIMEOUTS * self._acknowledge_timeout_s

    def _alive(self) -> None:
        self._answered_s = self._clock.monotonic_s()
        self._refusal = None

    async def _send_lane(self, lane: Lane, connection: Connection) -> None:
        while True:
            batch = await lane.next()
            batch.sent_s = self._clock.monotonic_s()
            batch.handed_over = True
            self._handed_over[batch] = None
            try:
                future = await connection.send(batch.builder, lane.partition)
            except KafkaTimeoutError:  # The one before has not left yet: an outage, which is no reason to start anew.
                self._release(batch, NOT_SENT)
            except KafkaError as error:
                self._release(batch, NOT_SENT)
                self._break(error)
            except asyncio.CancelledError:
                self._take_back(batch)
                raise
            else:
                future.add_done_callback(partial(self._acknowledged, batch))

    def _take_back(self, batch: Batch) -> None:
        """Let the next connection send a batch first that this one did not take."""
        if batch.settled:
            return self._release(batch, NOT_SENT)
        batch.handed_over = False
        del self._handed_over[batch]
        return batch.lane.ready.appendleft(batch)

    def _acknowledged(self, batch: Batch, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            return self._release(batch, UNKNOWN)
        error = future.exception()
        if error is not None:
            self._release(batch, UNKNOWN)
            return self._break(error)
        self._alive()
        count = len(batch.tells)
        self._metrics.batch_events.observe(count)
        self._metrics.acknowledge_seconds.observe(self._answered_s - batch.sent_s)
        if not batch.settled:
            self._stored.inc(count)
            self._metrics.body_bytes.inc(batch.bytes)
        return self._release(batch, None)

    def _break(self, error: BaseException) -> None:
        if not self._broken.is_set():
            log.warning("a batch failed, connecting anew: %r", error, extra={"topic": self._topic})
            self._broken.set()

    def _expire(self, batch: Batch) -> None:
        """Give a batch up in the eyes of its events; one that is handed over still weighs until Kafka's answer."""
        if self._refusal is None:
            log.warning("kafka did not acknowledge within %s s", self._acknowledge_timeout_s, extra={"topic": self._topic})
            self._refusal = STALLED
        if batch.handed_over:
            self._metrics.events.labels("failed").inc(len(batch.tells))
            batch.settle(UNKNOWN)
            return
        batch.lane.drop(batch)
        self._release(batch, NOT_SENT)

    def _release(self, batch: Batch, fate: Fate) -> None:
        """Settle a batch and take it off the count of what waits."""
        if fate is not None and not batch.settled:
            self._metrics.events.labels("failed").inc(len(batch.tells))
        batch.settle(fate)
        self._handed_over.pop(batch, None)
        self._waiting -= len(batch.tells)
        self._waiting_bytes -= batch.bytes
        if not self._waiting:
            self._idle.set()

    def _give_up(self) -> None:
        self._refusal = NOT_CONNECTED
        for lane in self._lanes:
            lane.close_open()
            while lane.ready:
                self._release(lane.ready.popleft(), NOT_SENT)
        for batch in self._handed_over:
            batch.settle(UNKNOWN)
