"""Read parts of topics for a command, from a given offset to a given end: no group, nothing committed, transactions whole."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

with warnings.catch_warnings():
    # kafka-python reads its own schemas by a deprecated call, once, while it is imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaConsumer, TopicPartition
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError

from streams.clock import SYSTEM_CLOCK
from streams.errors import KafkaUnavailableError
from streams.kafka_access import access
from streams.settings import Kafka
from streams.topics import APP_ID

REQUEST_TIMEOUT_MS = 15_000
POLL_MS = 500
SILENCE_S_MAX = 20.0
"""A part that goes on longer than this without a record or progress is not read to its end: the broker is gone."""
FETCH_BYTES_MAX = 8 * 1024 * 1024


class Bounds(NamedTuple):
    """Offsets of one partition: the first that it holds, the one after the last that is decided, and its end.

    What lies between `decided` and `end` is in a transaction, or behind one, that is neither committed nor aborted.
    """

    first: int
    decided: int
    end: int


class Reader:
    """Reads any partition; not for several threads. Close it."""

    def __init__(self, kafka: Kafka) -> None:
        """Connect.

        Raises:
            KafkaUnavailableError: no broker answers.
        """
        logging.getLogger("kafka").setLevel(logging.CRITICAL)  # What it logs as an error, we raise.
        self._kafka = kafka
        self._servers = kafka.servers.split(",")
        self._consumer = self._connect("read_committed")

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def bounds(self, topic: str) -> dict[int, Bounds]:
        """Return the bounds of every partition of a topic; nothing where there is no such topic.

        Raises:
            KafkaUnavailableError: no broker answers.
        """
        try:
            numbers = self._consumer.partitions_for_topic(topic) or ()
            places = [TopicPartition(topic, number) for number in sorted(numbers)]
            if not places:
                return {}
            firsts, decided = self._consumer.beginning_offsets(places), self._consumer.end_offsets(places)
            uncommitted = self._connect("read_uncommitted")
            try:
                ends = uncommitted.end_offsets(places)
            finally:
                uncommitted.close()
        except KafkaError as error:
            raise KafkaUnavailableError(f"kafka does not tell what {topic!r} holds: {error}") from error
        return {place.partition: Bounds(firsts[place], decided[place], ends[place]) for place in places}

    def records(self, topic: str, partition: int, *, first: int, end: int) -> Iterator[Any]:
        """Yield the records of the offsets in [first, end), as far as there are any. Reading twice changes nothing.

        Raises:
            KafkaUnavailableError: the broker stops answering before the end.
        """
        place = TopicPartition(topic, partition)
        self._consumer.assign([place])
        self._consumer.seek(place, first)
        heard_s, before = SYSTEM_CLOCK.monotonic_s(), first
        while (position := self._consumer.position(place)) < end:
            if position > before:
                heard_s, before = SYSTEM_CLOCK.monotonic_s(), position
            elif SYSTEM_CLOCK.monotonic_s() - heard_s > SILENCE_S_MAX:
                raise KafkaUnavailableError(f"kafka is silent at offset {position} of {topic!r} partition {partition}")
            for records in self._consumer.poll(timeout_ms=POLL_MS).values():
                yield from (record for record in records if record.offset < end)

    def topic_records(self, topic: str, bounds: Mapping[int, Bounds]) -> Iterator[tuple[int, Any]]:
        """Yield partition and record of all that is decided of a topic, partition by partition."""
        for partition, bound in bounds.items():
            for record in self.records(topic, partition, first=bound.first, end=bound.decided):
                yield partition, record

    def committed(self, topic: str) -> dict[int, int]:
        """Return the offsets that the workers have committed, by partition: bucket starts.

        Raises:
            KafkaUnavailableError: no broker answers.
        """
        try:
            admin = KafkaAdminClient(
                bootstrap_servers=self._servers, bootstrap_timeout_ms=REQUEST_TIMEOUT_MS, **access(self._kafka)
            )
            try:
                offsets = admin.list_group_offsets([APP_ID])[APP_ID]
            finally:
                admin.close()
        except KafkaError as error:
            raise KafkaUnavailableError(f"kafka does not tell the commits of {APP_ID!r}: {error}") from error
        return {place.partition: held.offset for place, held in offsets.items() if place.topic == topic}

    def _connect(self, isolation_level: str) -> Any:
        try:
            return KafkaConsumer(
                bootstrap_servers=self._servers,
                **access(self._kafka),
                isolation_level=isolation_level,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                allow_auto_create_topics=False,
                max_partition_fetch_bytes=FETCH_BYTES_MAX,
                bootstrap_timeout_ms=REQUEST_TIMEOUT_MS,
                metrics_enabled=False,
            )
        except KafkaError as error:
            raise KafkaUnavailableError(f"kafka at {','.join(self._servers)} does not answer: {error}") from error
