"""Make Kafka forget what erasing has superseded: compact a rows' changelog now, and remove dead letters of erased users."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from time import sleep
from typing import Any

from kafka import TopicPartition
from kafka.admin import AlterConfigOp, ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError

from streams.clock import SYSTEM_CLOCK
from streams.errors import KafkaUnavailableError
from streams.kafka_access import access
from streams.reading import Reader
from streams.settings import Settings
from streams.topics import DEAD_LETTERS, SESSIONS, Stream, changelog_of
from tables.erasures import Erasures, needles, rewrite_span

log = logging.getLogger(__name__)

ROLL_MS = 1_009
"""Age at which a segment is closed meanwhile. Nobody chooses this number: by it the next run knows what a killed one left."""
ROLL_S = 1.5
DELETE_DELAY_MS = 1_000
"""Between leaving a log and leaving the disk."""
COMPACTED_WITHIN_S = 600.0
PAUSE_S = 2.0
TIMEOUT_MS = 30_000
CHANGELOG_SEGMENT_S_MAX = 3_600
Configs = Mapping[str, str]

COMPACTING: Configs = {
    "cleanup.policy": "compact,delete",
    "segment.ms": str(ROLL_MS),
    "min.cleanable.dirty.ratio": "0.0",
    "file.delete.delay.ms": str(DELETE_DELAY_MS),
}
MOVING: Configs = {
    "message.timestamp.type": "CreateTime",  # what is kept stays as old as it is
    "segment.ms": str(ROLL_MS),
    "file.delete.delay.ms": str(DELETE_DELAY_MS),
}


class Topics:
    """Changes configurations and log starts. Close it."""

    def __init__(self, settings: Settings) -> None:
        """Connect.

        Raises:
            KafkaUnavailableError: no broker answers.
        """
        kafka, topics = settings.kafka, settings.topics
        # What they are when a run was killed while they were altered; else they become what they were.
        changelog_segment_s = min(topics.segment_s, CHANGELOG_SEGMENT_S_MAX)
        self._usual: dict[str, dict[str, str]] = {
            DEAD_LETTERS: {"message.timestamp.type": "LogAppendTime", "segment.ms": str(topics.segment_s * 1000)},
            SESSIONS: {"cleanup.policy": "compact,delete", "segment.ms": str(topics.segment_s * 1000)},
        }
        self._usual_changelog = {"cleanup.policy": "delete", "segment.ms": str(changelog_segment_s * 1000)}
        try:
            self._admin = KafkaAdminClient(
                bootstrap_servers=kafka.servers.split(","), bootstrap_timeout_ms=TIMEOUT_MS, **access(kafka)
            )
        except (KafkaError, OSError) as error:
            raise KafkaUnavailableError(f"kafka at {kafka.servers} does not answer: {error}") from error

    def close(self) -> None:
        """Let go of the connection."""
        self._admin.close()

    @contextmanager
    def altered(self, topic: str, configs: Configs) -> Iterator[None]:
        """Give a topic other configurations for a while.

        Raises:
            KafkaUnavailableError: the broker does not take them.
        """
        before = self._read(topic)
        if before.get("segment.ms") == str(ROLL_MS):
            before = self._usual.get(topic, self._usual_changelog)
        self._set(topic, {name: (AlterConfigOp.SET, value) for name, value in configs.items()})
        try:
            yield
        finally:
            self._set(
                topic,
                {
                    name: (AlterConfigOp.SET, before[name]) if name in before else (AlterConfigOp.DELETE, None)
                    for name in configs
                },
            )

    def is_altered(self, topic: str) -> bool:
        """Say whether a run was killed while it had altered a topic."""
        return self._read(topic).get("segment.ms") == str(ROLL_MS)

    def delete_before(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Remove the records of some partitions that lie before an offset; a second call changes nothing.

        Raises:
            KafkaUnavailableError: the broker does not do it.
        """
        try:
            self._admin.delete_records({TopicPartition(topic, number): offset for number, offset in offsets.items()})
        except KafkaError as error:
            raise KafkaUnavailableError(f"kafka does not delete records of {topic!r}: {error}") from error

    def _read(self, topic: str) -> dict[str, str]:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        try:
            found: Any = self._admin.describe_configs([resource])
        except KafkaError as error:
            raise KafkaUnavailableError(f"kafka does not tell how {topic!r} is configured: {error}") from error
        (named,) = found.values()
        return {name: entry["value"] for name, entry in named[topic].items()}

    def _set(self, topic: str, operations: Mapping[str, tuple[Any, str | None]]) -> None:
        try:
            self._admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=dict(operations))])
        except KafkaError as error:
            raise KafkaUnavailableError(f"kafka does not take other settings for {topic!r}: {error}") from error


def holds_erased(reader: Reader, stream: Stream, users: Collection[str], erased: Mapping[int, Erasures]) -> bool:
    """Say whether any record of a rows' changelog, superseded or not, still holds an erased row."""
    topic, wanted = changelog_of(stream.rows_table), needles(users, stream.kinds)
    for partition, record in reader.topic_records(topic, reader.bounds(topic)):
        value = record.value or b""
        if any(needle in value for needle in wanted) and rewrite_span(value, erased[partition]) is not None:
            return True
    return False


def compact(topics: Topics, stream: Stream, *, roll: Callable[[], object], holds: Callable[[], bool]) -> None:
    """Have the changelog of rows compacted, and return when *holds* says that nothing of the erased is in it.

    Args:
        roll: appends something to every partition, so that what was written before is in closed segments.

    Raises:
        KafkaUnavailableError: it does not happen in time; run it again.
    """
    topic = changelog_of(stream.rows_table)
    with topics.altered(topic, COMPACTING):
        sleep(ROLL_S)
        roll()
        until_s = SYSTEM_CLOCK.monotonic_s() + COMPACTED_WITHIN_S
        while holds():
            if SYSTEM_CLOCK.monotonic_s() > until_s:
                raise KafkaUnavailableError(f"{topic!r} is not compacted after {COMPACTED_WITHIN_S:.0f} s; run it again")
            sleep(PAUSE_S)
