"""Hold one connection to Kafka for writing: whole batches to chosen partitions, each once while the connection lives."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from gateway.batch_builder import RunBuilder
from streams.errors import KafkaUnavailableError
from streams.kafka_access import access
from streams.partitioner import check_partitions
from streams.settings import Kafka

BATCH_BYTES_MAX = 262_144
"""Before compression. At 16,000 events/s a batch of 3 ms is under 20 KiB; a full one means that Kafka is slow."""
CONNECT_TIMEOUT_S = 10.0
CHECK_TIMEOUT_S = 3.0


class Connection:
    """An idempotent producer of one topic.

    aiokafka sends one request at a time to each broker and retries until it knows the result, so order is kept and
    nothing is written twice. It never gives a batch up; a batch that fails all the same has used up sequence numbers, and
    Kafka would refuse every later batch of its partition: after one failure the connection is of no use any more.
    """

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    @classmethod
    async def open(cls, kafka: Kafka, topic: str, *, partitions: int, request_timeout_s: float) -> Connection:
        """Connect to the brokers of *kafka*.

        Raises:
            KafkaUnavailableError: no broker answers, or the topic does not exist (yet); try again.
            SettingsError: the topic has another number of partitions than *partitions*, or the settings let nobody in.
        """
        producer = AIOKafkaProducer(
            bootstrap_servers=kafka.servers,
            **access(kafka),
            acks="all",
            enable_idempotence=True,
            max_request_size=BATCH_BYTES_MAX,
            request_timeout_ms=round(request_timeout_s * 1000),
        )
        connection = cls(producer, topic)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await producer.start()
                # Of all topics: asking for this one by name may make a broker create it, with partitions of its choice.
                cluster = await producer.client.fetch_all_metadata()
            found = len(cluster.partitions_for_topic(topic) or ())
            if not found:
                raise KafkaUnavailableError(f"topic {topic!r} does not exist yet")
            check_partitions(topic, found, partitions)
        except (KafkaError, OSError, TimeoutError) as error:
            await connection.close(0)
            raise KafkaUnavailableError(f"kafka at {kafka.servers} does not answer") from error
        except BaseException:
            await connection.close(0)
            raise
        return connection

    def create_batch(self) -> RunBuilder:
        """Return an empty batch; it may be sent by another connection too."""
        return RunBuilder(BATCH_BYTES_MAX)

    async def send(self, builder: RunBuilder, partition: int) -> asyncio.Future[Any]:
        """Hand a batch over as soon as the one before is on its way; the future ends with Kafka's acknowledgment.

        A batch whose hand-over was cancelled or raised has not been sent and will not be.

        Raises:
            KafkaError: the batch could not be handed over in time, or the connection is broken.
        """
        future: asyncio.Future[Any] = await self._producer.send_batch(builder, self._topic, partition=partition)
        return future

    async def check(self) -> bool:
        """Ask a broker for the topic's partitions; True when one answered in time."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return bool(await self._producer.client.force_metadata_update())
        except TimeoutError:
            return False

    async def close(self, timeout_s: float) -> None:
        """Wait at most *timeout_s* for what was handed over, then let go; the result of the rest stays unknown."""
        stop = asyncio.ensure_future(self._producer.stop())
        done, _ = await asyncio.wait([stop], timeout=timeout_s)
        if not done:
            await self._abandon()
            stop.cancel()
        results = await asyncio.gather(stop, return_exceptions=True)
        if isinstance(results[0], Exception):
            logging.getLogger(__name__).debug("the producer did not close cleanly: %r", results[0])

    async def _abandon(self) -> None:
        """Cut the connections: aiokafka's own stop waits for a batch that it will retry for ever."""
        await self._producer.client.close()
        sender = self._producer._sender.sender_task
        if sender is not None:
            sender.cancel()
            await asyncio.wait([sender], timeout=CHECK_TIMEOUT_S)
