"""Gather events into one open batch a partition, send the batches a few milliseconds later, and tell each event's fate.

An event is stored when Kafka acknowledged its batch with `acks=all`, and only then does its future say so. A delivery
that timed out may still be stored later: whoever sends that event again makes a second event of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError, KafkaTimeoutError

from gateway.connection import Connection
from gateway.lanes import Batch, Fate, Lane, Refusal, Tell, TellMany
from gateway.partitions import indices_of
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


NOT_CONNECTED = Refusal("kafka_unavailable", "kafka is not connected; the event is not stored, send it again")
STALLED = Refusal("kafka_unavailable", "kafka does not acknowledge at present; the event is not stored, send it again")
TOO_MANY_WAITING = Refusal("too_many_waiting", "too many events wait for kafka; the event is not stored, send it again")
NOT_SENT = Refusal("kafka_unavailable", "kafka took nothing within the time limit; the event is not stored, send it again")
UNKNOWN = Refusal(
    "not_acknowledged",
    "kafka did not acknowledge within the time limit; whether the event is stored is unknown: sent again it may count twice",
)


class _Many(NamedTuple):
    """Events of one request, one entry an event in *keys* and *values*."""

    keys: Sequence[bytes]
    values: Sequence[bytes]
    tell: TellMany
    headers: RecordHeaders
    at_ms: int


class Intake:
    """Take events of one stream and write them to its topic, in order within a partition.

    `run` keeps it connected. It survives any outage of Kafka: events wait up to the acknowledge time limit, later ones are
    refused at once until Kafka answers again.
    """

    def __init__(
        self, topic: Stream | str, settings: Settings, metrics: GatewayMetrics, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """Take the events of a stream, or the dead letters where *topic* is a name; nothing happens before `run`."""
        self._topic = topic.topic if isinstance(topic, Stream) else topic
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
        self._results = metrics.events if isinstance(topic, Stream) else metrics.letters
        self._stored = self._results.labels("acknowledged")
        metrics.watch_intake(waiting=lambda: self._waiting, is_up=lambda: self.why_not_ready() is None)

    def append(self, key: bytes, value: bytes, tell: Tell, headers: RecordHeaders = NO_HEADERS) -> None:
        """Take one event; *tell* is called with its fate, at once or within the acknowledge time limit."""
        if self._refusal is None and self._waiting < self._waiting_max and self._waiting_bytes < WAITING_BYTES_MAX:
            batch = self._append(self._lanes[partition_of(key, self._partitions)], key, value, headers)
            batch.tells.append(tell)
        else:
            self._results.labels("failed").inc()
            tell(self.refusal())

    def append_all(
        self, keys: Sequence[bytes], values: Sequence[bytes], tell: TellMany, headers: RecordHeaders = NO_HEADERS
    ) -> None:
        """Take events of one request, all or none of them; their fates come batch by batch, as those of `append` do.

        What waits may grow past its limit by the events of one request.
        """
        refusal = self.refusal()
        if refusal is not None:
            self._results.labels("failed").inc(len(keys))
            tell(refusal, range(len(keys)))
            return
        many = _Many(keys, values, tell, headers, self._clock.now_ms())
        for lane, indices in zip(self._lanes, indices_of(keys, self._partitions), strict=True):
            if indices:
                self._append_many(lane, indices, many)

    def fate_of(self, key: bytes, value: bytes, headers: RecordHeaders = NO_HEADERS) -> asyncio.Future[Fate]:
        """Take one event and return a future of its fate, which never raises."""
        future: asyncio.Future[Fate] = self._loop.create_future()
        # A request that was given up has cancelled its own.
        self.append(key, value, lambda fate: None if future.done() else future.set_result(fate), headers)
        return future

    def refusal(self) -> Refusal | None:
        """Return why an event would be refused now, without being kept, or None."""
        if self._waiting >= self._waiting_max or self._waiting_bytes >= WAITING_BYTES_MAX:
            return TOO_MANY_WAITING
        return self._refusal

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

    def _append_many(self, lane: Lane, indices: Sequence[int], many: _Many) -> None:
        """Append the events at *indices* to the batches of a lane."""
        keys = [many.keys[index] for index in indices]
        values = [many.values[index] for index in indices]
        first = 0
        while first < len(indices):
            batch = lane.open or self._open(lane)
            taken = batch.builder.append_all(keys[first:], values[first:], many.headers, at_ms=many.at_ms)
            if taken:
                size_bytes = sum(map(len, keys[first : first + taken])) + sum(map(len, values[first : first + taken]))
                self._note(batch, many.tell, indices[first : first + taken], size_bytes)
            first += taken
            if first < len(indices):
                lane.close_open()  # A batch that is empty takes a first record, however large.

    def _note(self, batch: Batch, tell: TellMany, indices: Sequence[int], size_bytes: int) -> None:
        """Note that a batch has got the events at *indices*, and who tells their fate."""
        batch.tells.append(lambda fate: tell(fate, indices))
        batch.told_by_others += len(indices) - 1
        batch.bytes += size_bytes
        self._waiting += len(indices)
        self._waiting_bytes += size_bytes

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
        count = batch.count
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
            self._results.labels("failed").inc(batch.count)
            batch.settle(UNKNOWN)
            return
        batch.lane.drop(batch)
        self._release(batch, NOT_SENT)

    def _release(self, batch: Batch, fate: Fate) -> None:
        """Settle a batch and take it off the count of what waits."""
        if fate is not None and not batch.settled:
            self._results.labels("failed").inc(batch.count)
        batch.settle(fate)
        self._handed_over.pop(batch, None)
        self._waiting -= batch.count
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
