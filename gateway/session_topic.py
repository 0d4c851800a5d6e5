"""Tell other gateways whose session it is, and hear it from them: the compacted topic `sessions.v1`, read from its start on.

No request waits for it. While Kafka is slow or away, news gathers up to its limit; a record that comes twice changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from gateway.intake import RECONNECT_PAUSE_S
from gateway.sessions import DIGEST_LENGTH, Session, Sessions
from streams.errors import KafkaUnavailableError
from streams.kafka_access import access
from streams.schemas import TEXT_LENGTH_MAX, check_text
from streams.settings import Settings
from streams.topics import SESSIONS

log = logging.getLogger(__name__)

READ_RECORDS_MAX = 500
"""Of one turn of the loop, about 1 ms."""
POLL_MS = 1_000
CLOSE_TIMEOUT_S = 1.0


class SessionV1(msgspec.Struct, frozen=True):
    """Value of a record; its key is the session's digest. No value: the session is forgotten."""

    user: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LENGTH_MAX)]
    seen_at_ms: Annotated[int, msgspec.Meta(ge=0)]


class SessionTopic:
    """Keeps `Sessions` and the topic of the same mind."""

    def __init__(self, sessions: Sessions, settings: Settings) -> None:
        self._sessions = sessions
        self._kafka = settings.kafka
        self._partitions = [TopicPartition(SESSIONS, number) for number in range(settings.topics.partitions)]
        self._decode = msgspec.json.Decoder(SessionV1).decode
        self._told = False

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            SettingsError: the settings let nobody in.
        """
        while True:
            try:
                await self._run_connected()
            except (KafkaError, KafkaUnavailableError, OSError) as error:
                if not self._told:
                    log.warning("sessions are not shared at present: %r; trying on", error, extra={"topic": SESSIONS})
                    self._told = True
            await asyncio.sleep(random.uniform(*RECONNECT_PAUSE_S))  # noqa: S311 - jitter

    async def _run_connected(self) -> None:
        named = {"bootstrap_servers": self._kafka.servers, **access(self._kafka)}
        consumer = AIOKafkaConsumer(**named, auto_offset_reset="earliest", enable_auto_commit=False)
        producer = AIOKafkaProducer(**named, acks="all", compression_type="zstd")
        tasks: list[asyncio.Task[None]] = []
        try:
            await consumer.start()
            # Of all topics: asking for this one by name may make a broker create it, with partitions of its choice.
            if SESSIONS not in await consumer.topics():
                raise KafkaUnavailableError(f"topic {SESSIONS!r} does not exist yet")
            await producer.start()
            tasks += [asyncio.create_task(self._hear(consumer)), asyncio.create_task(self._tell(producer))]
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for client in (producer, consumer):
                await _close(client)

    async def _hear(self, consumer: Any) -> None:
        """Read everything there is, then what comes."""
        consumer.assign(self._partitions)
        ends: Mapping[TopicPartition, int] = await consumer.end_offsets(self._partitions)
        while True:
            fetched = await consumer.getmany(timeout_ms=POLL_MS, max_records=READ_RECORDS_MAX)
            for records in fetched.values():
                for record in records:
                    self.take(record.key, record.value)
            ends = {partition: end for partition, end in ends.items() if await consumer.position(partition) < end}
            if not ends:
                self._sessions.note_caught_up()
                self._told = False

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """Take one record of the topic; what we would not write is left out."""
        try:
            digest = check_digest(key or b"")
            found = None if value is None else self._decode(value)
            session = None if found is None else Session(found.seen_at_ms, check_text(found.user))
        except ValueError:  # msgspec's errors are some
            log.warning("a record of the sessions is not one of ours", extra={"topic": SESSIONS})
        else:
            self._sessions.hear(digest, session)

    async def _tell(self, producer: Any) -> None:
        while True:
            news = await self._sessions.next_news()
            try:
                await asyncio.gather(
                    *(producer.send_and_wait(SESSIONS, key=digest.encode(), value=encode(news[digest])) for digest in news)
                )
            except BaseException:  # whatever ended it, the next connection tells them
                self._sessions.tell_again(news)
                raise


def check_digest(key: bytes) -> str:
    """Return the digest of a record's key.

    Raises:
        ValueError: it is none.
    """
    bytes.fromhex(digest := key.decode("ascii"))
    if len(digest) != DIGEST_LENGTH:
        raise ValueError("not a digest")
    return digest


def encode(session: Session) -> bytes:
    """Return a record's value.

    >>> encode(Session(5, "judtin"))
    b'{"user":"judtin","seen_at_ms":5}'
    """
    return msgspec.json.encode(SessionV1(session.user, session.seen_at_ms))


async def _close(client: Any) -> None:
    """Let a client go, whether or not it has begun; what it still waits for is given up."""
    with suppress(KafkaError, OSError, TimeoutError):
        await asyncio.wait_for(client.stop(), CLOSE_TIMEOUT_S)
