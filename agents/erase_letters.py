"""Remove the dead letters of erased users from Kafka: those of others are written once more, and the log begins after the old.

A dead letter is identified by the position of its record, which stands in its headers, so one that lies there twice, after a
kill in between, is one to every reader. It keeps its time. Nothing is removed that the sinks have not written yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from time import sleep
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from agents.changelog import ChangelogRecord, send_groups
from agents.erase_topics import MOVING, ROLL_S, Topics
from streams.dead_letters import ADDED_HEADERS, BOUNDARY_KEY, Position, read_dead_letter
from streams.errors import KafkaUnavailableError, Reason
from streams.kafka_access import access
from streams.reading import Reader
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, Stream
from tables.erasures import names_user

ENVELOPE_BYTES_MAX = 2 * 1024 * 1024
"""What headers and framing add to a record."""
SEND_TIME_S_MAX = 600.0
Applied = Callable[[str, Mapping[int, int]], None]
"""Return when the sinks have written a topic up to these offsets, or raise."""


class Letters:
    """The dead letters of Kafka."""

    def __init__(self, settings: Settings, reader: Reader, stream: Stream, users: Collection[str]) -> None:
        self._settings = settings
        self._reader = reader
        self._stream = stream
        self._users = {user.encode() for user in users}

    def count(self) -> dict[int, int]:
        """Return how many records are of the users, by partition; partitions without any are left out."""
        counts: dict[int, int] = {}
        for partition, record in self._reader.topic_records(DEAD_LETTERS, self._reader.bounds(DEAD_LETTERS)):
            if self.is_of(record):
                counts[partition] = counts.get(partition, 0) + 1
        return counts

    def is_of(self, record: Any) -> bool:
        """Say whether a record is a dead letter of the users."""
        return names_user(record.key, record.value, record.headers, self._users, stream=self._stream)

    def erase(self, topics: Topics, *, applied: Applied) -> int:
        """Remove them and return how many there were; killed at any moment, the next run does the rest.

        Raises:
            KafkaUnavailableError: not all was done; run it again.
        """
        counts = self.count()
        if counts or topics.is_altered(DEAD_LETTERS):
            with topics.altered(DEAD_LETTERS, MOVING):
                sleep(ROLL_S)
                boundaries = asyncio.run(self._move(list(counts)))
                applied(DEAD_LETTERS, boundaries)
                topics.delete_before(DEAD_LETTERS, boundaries)
        return sum(counts.values())

    async def _move(self, partitions: Collection[int]) -> dict[int, int]:
        """Write what is kept of each partition behind a boundary, and return where the boundaries are."""
        settings = self._settings
        producer = AIOKafkaProducer(
            bootstrap_servers=settings.kafka.servers,
            **access(settings.kafka),
            acks="all",
            enable_idempotence=True,
            max_batch_size=settings.topics.record_bytes_max + ENVELOPE_BYTES_MAX,
            max_request_size=settings.topics.record_bytes_max + ENVELOPE_BYTES_MAX,
        )
        try:
            async with asyncio.timeout(SEND_TIME_S_MAX):
                await producer.start()
                return {partition: await self._move_partition(producer, partition) for partition in partitions}
        except (KafkaError, OSError, TimeoutError) as error:
            raise KafkaUnavailableError(f"kafka does not take the dead letters of others once more: {error!r}") from error
        finally:
            await producer.stop()

    async def _move_partition(self, producer: Any, partition: int) -> int:
        boundary = ChangelogRecord(BOUNDARY_KEY, b"")  # closes the segment of what is before it
        (sent,) = await send_groups(producer, DEAD_LETTERS, partition, [[boundary]])
        end: int = (await sent.acknowledgment).offset
        kept = ([record] for record in self._kept(partition, end))
        for each in await send_groups(producer, DEAD_LETTERS, partition, kept):
            await each.acknowledgment
        return end

    def _kept(self, partition: int, end: int) -> Iterator[ChangelogRecord]:
        """Yield what is kept of a partition before an offset, each identity once."""
        seen: set[Position] = set()
        first = self._reader.bounds(DEAD_LETTERS)[partition].first
        for record in self._reader.records(DEAD_LETTERS, partition, first=first, end=end):
            letter = read_dead_letter(record)
            place = Position(DEAD_LETTERS, partition, record.offset) if letter is None else letter.source
            if place in seen or record.key == BOUNDARY_KEY or self.is_of(record):
                continue
            seen.add(place)
            headers = [*record.headers] if letter is not None else [*record.headers, *_headers_of(place)]
            yield ChangelogRecord(record.key, record.value, headers, record.timestamp)


def _headers_of(place: Position) -> Iterator[tuple[str, bytes]]:
    """Yield the headers of a record that somebody else put there: it stays what it is to the sinks, wherever it lies."""
    texts = (Reason.BUG.value, "", place.topic, str(place.partition), str(place.offset), "")
    return ((name, text.encode()) for name, text in zip(ADDED_HEADERS, texts, strict=True))
